"""Training: the joint step, its objectives, and the loop. Never imported by inference."""

from ..objectives.schedules import NoiseDraws, NoiseSchedule
from .adaptation import AdaptationOutput, NoiseSpaceAdaptation

__all__ = ["AdaptationOutput", "NoiseDraws", "NoiseSchedule", "NoiseSpaceAdaptation"]
