"""From photos in folders, datasets and shards to numbered training samples."""

from .blur import MotionBlur
from .camera import CameraNoise
from .degradations import (
    BlindGaussian,
    Degradation,
    DegradationSequence,
    Mixture,
    degradation_from_config,
    register_degradation,
)
from .fitted import FittedNoise
from .noise_fit import NoiseProfile, fit_noise
from .photos import PhotoFolder, PhotoSource
from .rain import RainStreaks
from .sampling import PairedFolders, TrainingPatches, crop_patch, generator_for, take_turns
from .sources import DatasetSource, ShardSource, StreamSource, check_sources, open_source
from .transplant import Transplant

__all__ = [
    "BlindGaussian",
    "CameraNoise",
    "DatasetSource",
    "Degradation",
    "DegradationSequence",
    "FittedNoise",
    "Mixture",
    "MotionBlur",
    "NoiseProfile",
    "PairedFolders",
    "PhotoFolder",
    "PhotoSource",
    "RainStreaks",
    "ShardSource",
    "StreamSource",
    "TrainingPatches",
    "Transplant",
    "check_sources",
    "crop_patch",
    "degradation_from_config",
    "fit_noise",
    "generator_for",
    "open_source",
    "register_degradation",
    "take_turns",
]
