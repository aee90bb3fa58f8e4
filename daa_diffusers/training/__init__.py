"""Training: the joint step, its objectives, and the loop. Never imported by inference."""

from ..objectives.noise_space import AdaptationOutput, NoiseSpaceAdaptation
from ..objectives.schedules import NoiseDraws, NoiseSchedule

__all__ = ["AdaptationOutput", "NoiseDraws", "NoiseSchedule", "NoiseSpaceAdaptation"]
