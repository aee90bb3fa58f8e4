"""Checkpoints by name, folder, file and Hub id: validation, descriptions, model cards, publishing."""
