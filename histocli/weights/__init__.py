"""Models that come with the package: weights, ``models.json`` with their names, a model card."""
