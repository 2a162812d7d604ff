"""Slides and images on disk: their pixels as 8-bit RGB, at full size or region by region."""
