"""Mixture of degradations, one of which is drawn for each sample."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from ..errors import ConfigurationError
from .base import Degradation, check_degradation, degradation_from_config, register_degradation
from .checks import check_clean, check_number, check_parts


@register_degradation("mixture")
class Mixture:
    """Degrades each sample by one of several degradations, drawn at random.

    Args:
        parts: (weight, degradation) pairs; weights are positive and need not sum to one.
    """

    type_name: ClassVar[str]

    def __init__(self, parts: Sequence[tuple[float, Degradation]]):
        if not parts:
            raise ConfigurationError("`parts` must hold at least one (weight, degradation), got none")
        for weight, degradation in parts:
            if check_number("weight", weight, 0, math.inf) == 0:
                raise ConfigurationError("`weight` must be positive, got 0")
            check_degradation(degradation)
        self.parts = [(float(weight), degradation) for weight, degradation in parts]

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Degrades photos (B, C, H, W) in [0, 1], each sample by one part."""
        check_clean(clean)
        weights = torch.tensor([weight for weight, _ in self.parts], device=generator.device)
        chosen = torch.multinomial(weights, clean.shape[0], replacement=True, generator=generator).to(clean.device)
        degraded = torch.empty_like(clean)
        for index, (_, degradation) in enumerate(self.parts):
            where = chosen == index
            if where.any():
                degraded[where] = degradation(clean[where], generator)
        return degraded

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixture) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mixture({self.parts!r})"

    def to_config(self) -> dict[str, Any]:
        """Returns `{"type": "mixture", "parts": [{"weight": w, "degradation": {...}}, ...]}`."""
        return {
            "type": self.type_name,
            "parts": [{"weight": weight, "degradation": part.to_config()} for weight, part in self.parts],
        }

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> "Mixture":
        """Builds a mixture from `{"parts": [...]}`; a ConfigurationError names an invalid part."""
        built = []
        for part in check_parts(cls.type_name, options, "{weight, degradation}"):
            if not isinstance(part, Mapping) or set(part) != {"weight", "degradation"}:
                raise ConfigurationError(f"an entry of `parts` must be {{weight, degradation}}, got {part!r}")
            built.append((part["weight"], degradation_from_config(part["degradation"])))
        return cls(built)
