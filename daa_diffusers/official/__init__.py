"""Conversion of official checkpoints into the classes of this package."""
