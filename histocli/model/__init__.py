"""Networks only: the shared core of every command."""
