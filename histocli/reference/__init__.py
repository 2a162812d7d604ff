"""What is measured from real tissue."""
