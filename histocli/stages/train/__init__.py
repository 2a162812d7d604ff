"""``histosynth train``: patch stores become a segmenter, and unlabelled tissue adapts it."""
