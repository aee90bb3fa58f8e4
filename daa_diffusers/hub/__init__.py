"""Checkpoints: resolution of names, validation, descriptions, model cards, publishing."""
