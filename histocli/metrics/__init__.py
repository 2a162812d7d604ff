"""Scores of predicted label images against the truth."""
