"""The command ``segment``: :mod:`~histocli.stages.segment.run` tells the story."""
