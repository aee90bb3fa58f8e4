"""Sources of photos (folders, tar shards, Hugging Face datasets) and numbered training samples from them."""

from ..degradations.draws import generator_for
from ..photos.pixels import crop_patch
from .folders import PhotoFolder, PhotoSource
from .sampling import PairedFolders, TrainingPatches, take_turns
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
