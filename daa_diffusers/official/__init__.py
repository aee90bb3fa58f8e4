"""Conversion of official checkpoints to the classes of this package."""
