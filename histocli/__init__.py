"""histosynth: from unlabelled H&E images to a nucleus segmenter, with nothing labelled by hand."""

__version__ = "0.1.0"
