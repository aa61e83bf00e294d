"""Families of checkpoints: one file each says how a family writes a model down."""
