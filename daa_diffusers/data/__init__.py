"""From photos in folders, datasets and shards to numbered training samples."""

from .camera import CameraNoise
from .degradations import BlindGaussian, Degradation, Mixture, degradation_from_config, register_degradation
from .photos import PhotoFolder, PhotoSource
from .sampling import PairedFolders, TrainingPatches, crop_patch, generator_for, take_turns
from .sources import DatasetSource, ShardSource, StreamSource, check_sources, open_source

__all__ = [
    "BlindGaussian",
    "CameraNoise",
    "DatasetSource",
    "Degradation",
    "Mixture",
    "PairedFolders",
    "PhotoFolder",
    "PhotoSource",
    "ShardSource",
    "StreamSource",
    "TrainingPatches",
    "check_sources",
    "crop_patch",
    "degradation_from_config",
    "generator_for",
    "open_source",
    "register_degradation",
    "take_turns",
]
