"""Earlier path of `daa_diffusers.objectives.noise_space`, kept for code that imports it."""

from ..objectives.noise_space import AdaptationOutput, NoiseSpaceAdaptation

__all__ = ["AdaptationOutput", "NoiseSpaceAdaptation"]
