"""Folders, Hugging Face datasets and tar shards of photos as numbered training samples."""

from .folders import PhotoFolder, PhotoSource
from .sampling import PairedFolders, TrainingPatches, crop_patch, generator_for, take_turns
from .specs import DatasetSource, ShardSource, StreamSource, check_sources, open_source

__all__ = [
    "DatasetSource",
    "PairedFolders",
    "PhotoFolder",
    "PhotoSource",
    "ShardSource",
    "StreamSource",
    "TrainingPatches",
    "check_sources",
    "crop_patch",
    "generator_for",
    "open_source",
    "take_turns",
]
