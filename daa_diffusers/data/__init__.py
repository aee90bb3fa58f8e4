"""Earlier path of `daa_diffusers.degradations` and `daa_diffusers.sources`, kept for code that imports it."""

from ..degradations.base import Degradation, degradation_from_config, register_degradation
from ..degradations.blur import MotionBlur
from ..degradations.camera_noise import CameraNoise
from ..degradations.draws import generator_for
from ..degradations.fitted import FittedNoise
from ..degradations.fitting.noise import NoiseProfile, fit_noise
from ..degradations.gaussian import BlindGaussian
from ..degradations.mixture import Mixture
from ..degradations.rain import RainStreaks
from ..degradations.sequence import DegradationSequence
from ..degradations.transplant import Transplant
from ..photos.pixels import crop_patch
from ..sources.folders import PhotoFolder, PhotoSource
from ..sources.sampling import PairedFolders, TrainingPatches, take_turns
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
