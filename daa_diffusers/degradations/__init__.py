"""How clean photos become synthetic degraded ones; importing this package registers every degradation by its name."""

from .base import (
    BlindGaussian,
    Degradation,
    DegradationSequence,
    Mixture,
    degradation_from_config,
    register_degradation,
)
from .blur import MotionBlur
from .camera_noise import CameraNoise
from .fitted import FittedNoise
from .rain import RainStreaks

__all__ = [
    "BlindGaussian",
    "CameraNoise",
    "Degradation",
    "DegradationSequence",
    "FittedNoise",
    "Mixture",
    "MotionBlur",
    "RainStreaks",
    "degradation_from_config",
    "register_degradation",
]
