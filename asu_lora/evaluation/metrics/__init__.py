"""Scores of a model that was made to forget: one metric a file."""
