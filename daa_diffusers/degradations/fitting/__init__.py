"""Degradations estimated from unlabeled photos."""
