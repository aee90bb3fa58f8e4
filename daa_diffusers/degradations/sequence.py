"""Sequence of degradations, applied one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import ConfigurationError
from .base import Degradation, check_degradation, degradation_from_config, register_degradation
from .checks import check_clean, check_parts


@register_degradation("sequence")
@dataclass
class DegradationSequence:
    """Applies several degradations one after another, e.g. rain, then camera noise.

    Each degrades the result of the previous one, which may exceed [0, 1] unless the previous one clips.

    Args:
        parts: the degradations, first to last.
    """

    type_name: ClassVar[str]
    parts: Sequence[Degradation]

    def __post_init__(self):
        if not self.parts:
            raise ConfigurationError("`parts` must hold at least one degradation, got none")
        for degradation in self.parts:
            check_degradation(degradation)
        self.parts = list(self.parts)

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Degrades photos (B, C, H, W) in [0, 1] by every part."""
        degraded = check_clean(clean)
        for degradation in self.parts:
            degraded = degradation(degraded, generator)
        return degraded

    def to_config(self) -> dict[str, Any]:
        """Returns `{"type": "sequence", "parts": [{...}, ...]}`."""
        return {"type": self.type_name, "parts": [part.to_config() for part in self.parts]}

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> "DegradationSequence":
        """Builds a sequence from `{"parts": [...]}`; a ConfigurationError names an invalid part."""
        return cls([degradation_from_config(part) for part in check_parts(cls.type_name, options, "degradations")])
