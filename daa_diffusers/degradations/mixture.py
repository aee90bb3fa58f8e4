"""Mixture of degradations, one of which is drawn for each sample."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import ConfigurationError
from .base import Degradation, check_degradation, degradation_from_config, register_degradation
from .checks import check_clean, check_number, check_parts


@register_degradation("mixture")
@dataclass
class Mixture:
    """Degrades each sample by one of several degradations, drawn at random.

    Args:
        parts: (weight, degradation) pairs; weights are positive and need not sum to one.
    """

    type_name: ClassVar[str]
    parts: Sequence[tuple[float, Degradation]]

    def __post_init__(self):
        if not self.parts:
            raise ConfigurationError("`parts` must hold at least one (weight, degradation), got none")
        for weight, degradation in self.parts:
            if check_number("weight", weight, 0, math.inf) == 0:
                raise ConfigurationError("`weight` must be positive, got 0")
            check_degradation(degradation)
        self.parts = [(float(weight), degradation) for weight, degradation in self.parts]

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Degrades photos (B, C, H, W) in [0, 1], each sample by one part."""
        check_clean(clean)
        weights = torch.tensor([weight for weight, _ in self.parts], device=generator.device)
        chosen = torch.multinomial(weights, clean.shape[0], replacement=True, generator=generator).to(clean.device)
        degraded = torch.empty_like(clean)
        for index, (_, degradation) in enumerate(self.parts):
            samples = chosen == index  # (B,) bool
            if samples.any():
                degraded[samples] = degradation(clean[samples], generator)
        return degraded

    def to_config(self) -> dict[str, Any]:
        """Returns `{"type": "mixture", "parts": [{"weight": w, "degradation": {...}}, ...]}`."""
        return {
            "type": self.type_name,
            "parts": [{"weight": weight, "degradation": degradation.to_config()} for weight, degradation in self.parts],
        }

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> "Mixture":
        """Builds a mixture from `{"parts": [...]}`; a ConfigurationError names an invalid part."""
        parts = []
        for entry in check_parts(cls.type_name, options, "{weight, degradation}"):
            if not isinstance(entry, Mapping) or set(entry) != {"weight", "degradation"}:
                raise ConfigurationError(f"an entry of `parts` must be {{weight, degradation}}, got {entry!r}")
            parts.append((entry["weight"], degradation_from_config(entry["degradation"])))
        return cls(parts)
