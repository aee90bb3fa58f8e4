"""Restorers from networks of other libraries."""
