"""What changes weights."""
