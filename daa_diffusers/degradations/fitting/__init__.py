"""Degradations estimated from unlabelled photos."""
