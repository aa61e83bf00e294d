"""Circuits from weights alone, scored against the rules that made the data."""
