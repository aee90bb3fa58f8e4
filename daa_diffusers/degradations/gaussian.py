"""White Gaussian noise of random strength."""

import math
from dataclasses import dataclass

import torch

from ..errors import ConfigurationError
from .base import ConfigurableDegradation, register_degradation
from .checks import check_clean, check_number
from .draws import normal, uniform


@register_degradation("gaussian")
@dataclass(frozen=True)
class BlindGaussian(ConfigurableDegradation):
    """White Gaussian noise of random strength, sigma ~ U(sigma_min, sigma_max) / 255 per sample, unclipped.

    Source: docs/method.md, "The official sizes and recipes" (row "data": sigma ~ U(0, 75) / 255).

    Args:
        sigma_min, sigma_max: range of sigma in units of 1/255.
    """

    sigma_min: float = 0.0
    sigma_max: float = 75.0

    def __post_init__(self):
        check_number("sigma_min", self.sigma_min, 0, math.inf)
        check_number("sigma_max", self.sigma_max, 0, math.inf)
        if self.sigma_min > self.sigma_max:
            raise ConfigurationError(
                f"`sigma_min` must be at most `sigma_max`, got {self.sigma_min} and {self.sigma_max}"
            )

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Adds noise to photos (B, C, H, W) in [0, 1]; the result is not clipped."""
        check_clean(clean)
        sigma = uniform((clean.shape[0], 1, 1, 1), self.sigma_min / 255, self.sigma_max / 255, clean, generator)
        return clean + sigma * normal(clean.shape, clean, generator)
