"""Find and read labels that people and other programs made, and pair them with images."""
