"""Checkpoints by name, folder, file and Hub id: checks, descriptions, model cards, publishing."""
