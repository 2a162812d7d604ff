"""What compares label images."""
