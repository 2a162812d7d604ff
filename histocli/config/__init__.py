"""What a user may choose: one frozen dataclass per command, free of heavy imports."""
