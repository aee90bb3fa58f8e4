"""Training: the joint step, its objectives, and the loop. Never imported by inference."""

from .adaptation import AdaptationOutput, NoiseSpaceAdaptation
from .schedules import NoiseDraws, NoiseSchedule

__all__ = ["AdaptationOutput", "NoiseDraws", "NoiseSchedule", "NoiseSpaceAdaptation"]
