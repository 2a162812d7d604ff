"""Settings of the commands: a frozen dataclass for each command; imports no heavy library."""
