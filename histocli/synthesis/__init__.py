"""Drawing and painting of synthetic patches, whose nuclei are known."""
