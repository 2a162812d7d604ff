"""What uses weights on new pixels."""
