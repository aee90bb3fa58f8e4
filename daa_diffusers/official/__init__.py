"""Checkpoints of the official implementation, read into the classes of this package."""
