"""One module per command: open stores, call rooms, write, report progress."""
