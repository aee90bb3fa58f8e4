"""From folders of photos to numbered training samples."""

from .camera import CameraNoise
from .degradations import BlindGaussian, Degradation, Mixture, degradation_from_config, register_degradation
from .photos import PhotoFolder
from .sampling import PairedFolders, TrainingPatches, crop_patch, generator_for, take_turns

__all__ = [
    "BlindGaussian",
    "CameraNoise",
    "Degradation",
    "Mixture",
    "PairedFolders",
    "PhotoFolder",
    "TrainingPatches",
    "crop_patch",
    "degradation_from_config",
    "generator_for",
    "register_degradation",
    "take_turns",
]
