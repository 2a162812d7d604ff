"""Run the command line with ``python -m histocli``."""

from histocli.cli.start import main

if __name__ == "__main__":
    main()
