"""Models that come with the package: weights, their list and their card; no code."""
