"""Run the command line: ``python -m histocli``, and the program ``histosynth``."""

from histocli.cli.start import main

if __name__ == "__main__":
    main()
