"""Degradations that turn clean photos into synthetic ones; importing this package registers all of them by name."""

from .base import Degradation as Degradation
from .base import degradation_from_config as degradation_from_config
from .base import register_degradation as register_degradation

# To add a degradation: one line here.
from .blur import MotionBlur as MotionBlur
from .camera_noise import CameraNoise as CameraNoise
from .filtered_rain import FilteredRain as FilteredRain
from .fitted import FittedNoise as FittedNoise
from .gaussian import BlindGaussian as BlindGaussian
from .mixture import Mixture as Mixture
from .rain import RainStreaks as RainStreaks
from .sequence import DegradationSequence as DegradationSequence
from .transplant import Transplant as Transplant
