"""Earlier path of `daa_diffusers.degradations` and `daa_diffusers.sources`, kept for code that imports it."""

from ..degradations.base import (
    BlindGaussian,
    Degradation,
    DegradationSequence,
    Mixture,
    degradation_from_config,
    register_degradation,
)
from ..degradations.blur import MotionBlur
from ..degradations.camera_noise import CameraNoise
from ..degradations.fitted import FittedNoise
from ..degradations.fitting.noise import NoiseProfile, fit_noise
from ..degradations.rain import RainStreaks
from ..degradations.transplant import Transplant
from ..sources.folders import PhotoFolder, PhotoSource
from ..sources.sampling import PairedFolders, TrainingPatches, crop_patch, generator_for, take_turns
from ..sources.specs import DatasetSource, ShardSource, StreamSource, check_sources, open_source

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
