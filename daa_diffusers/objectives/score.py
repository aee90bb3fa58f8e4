"""Renoised self-distillation with a trained noise predictor instead of the restorer for the second pass."""

from typing import Any

import torch

from ..models.restorer import RestorerContract
from .noise_predictors import BUNDLED, load_noise_predictor
from .real_term import check_choice
from .renoised import Renoised
from .schedules import Generators

CONDITIONS = ("none", "restored")


class ScoreDistillation(Renoised):
    """Trains the restorer to produce the x0-prediction of a noise predictor for the teacher's noised result.

    With the teacher f' and the trained, frozen noise predictor eps_theta, `q' = f'(x_r)`, `z = q' + sigma n`,
    `g = 1 / (1 + sigma^2)`, the target is `p = z - sigma eps_theta([sqrt(g) z, c, c], g)` and the loss
    `L_score = mean sqrt((f(x_r) - p)^2 + eps^2)`. This is eq. (7) with a diffusion model of clean photos for the second
    pass; the restorer need not remove white noise.

    Args:
        restorer: as in `RealTermObjective`.
        conditions: conditions c of the noise predictor: "none", zeros, as for dropped conditions; or "restored", q'.
        noise_predictor_from: "bundled", or as for `noise_predictors.load_noise_predictor`.
        options: arguments of `Renoised`.

    Raises:
        ConfigurationError: an argument is out of range, or the noise predictor does not fit the restorer.
    """

    name = "score"
    title = "distillation of a noise predictor's score"
    evaluating = ("teacher", "unet")

    def __init__(
        self,
        restorer: torch.nn.Module,
        *,
        conditions: str = "none",
        noise_predictor_from: str = BUNDLED,
        **options: Any,
    ):
        super().__init__(restorer, **options)
        check_choice("conditions", conditions, CONDITIONS)
        self.conditions = conditions
        self.unet = load_noise_predictor(noise_predictor_from, restorer).requires_grad_(False).eval()
        self.size_multiple = RestorerContract.of(self.unet).size_multiple

    def probe(self, clean: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
        """Returns no measurements: the restorer need not remove white noise."""
        return {}

    @torch.no_grad()
    def teach(self, real: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        """Returns the target p (B, C, H, W) for real photos (B, C, H, W)."""
        first = self.teacher(real)
        sigma, noise = self.draw_noise(real, generator)
        z = first + sigma * noise
        # noise level g at which sqrt(g) z is the noised image of eq. (1); at most that of its first step, 1 - 1e-6
        level = (1 / (1 + sigma.square())).clamp(max=1 - 1e-6)
        condition = first if self.conditions == "restored" else torch.zeros_like(first)
        predicted = self.unet(level.sqrt() * z, level.flatten(), conditions=(condition, condition)).sample
        return z - sigma * predicted
