"""Words to configuration, errors to exit codes."""
