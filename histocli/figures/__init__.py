"""Arrays to pictures for people."""
