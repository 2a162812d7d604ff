"""The command ``segment``; start with :mod:`~histocli.stages.segment.run`."""
