"""Earlier path of `daa_diffusers.objectives.noise_space`, kept for code that imports it."""

from ..objectives.base import StepOutput as AdaptationOutput
from ..objectives.noise_space import NoiseSpaceAdaptation

__all__ = ["AdaptationOutput", "NoiseSpaceAdaptation"]
