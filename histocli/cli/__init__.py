"""The command line: typed words become settings, errors become exit codes."""
