"""Invented tissue with known nuclei."""
