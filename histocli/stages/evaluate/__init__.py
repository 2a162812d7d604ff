"""``histosynth evaluate``: scores of predicted labels, their report, and realism of patches."""
