"""Running a trained segmenter on new images."""
