"""Renoised self-distillation: a restorer learns from its own result, noised and restored once more."""

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ..degradations.fitting.photo_noise import WHITE
from ..errors import ConfigurationError
from ..models.restorer import RestorerContract, in_eval_mode
from .base import Batch, StepOutput, draw_each
from .losses import charbonnier
from .real_term import RealTermObjective, check_choice, check_option, check_whole, follow_average
from .renoising import remaining_noise, white_noise_gain
from .schedules import Generators

logger = logging.getLogger(__name__)

TEACHERS = ("start", "average")
# (sigma_min, sigma_max) in 1/255:
UNMEASURED = (10.0, 50.0)  # before `measure`
MULTIPLES = (0.5, 2.5)  # of the measured `renoising.hiding_deviation`
LEAST, MOST = (3.0, 15.0), 75.0  # smallest value of each, and the limit of both
LAG = 1.25  # lag of the average behind the restorer, as a multiple of the planned steps
LEAST_GAIN = 5.0  # dB, least reduction of white noise by a restorer that counts as a denoiser, see `measure`


class Renoised(RealTermObjective):
    """Trains the restorer to produce in one pass the result of a teacher's second pass over renoised photos.

    The teacher f' restores a real photo, `q' = f'(x_r)`. Its result is noised, `z = q' + sigma n` with
    `sigma ~ U(sigma_min, sigma_max)` and `n ~ N(0, I)`, and restored again: the target is f'(z). The loss is
    `L_re = mean sqrt((f(x_r) - f'(z))^2 + eps^2)`, `L = L_pair + w L_re` (7). The errors of the targets differ between
    draws, so that the restorer learns the mean of the targets. Three passes are added to supervised training, two of
    them by the teacher, without gradient. The initial restorer must remove white noise.

    Args:
        restorer: as in `RealTermObjective`.
        weight: weight of L_re at the end of the ramp.
        sigma_min, sigma_max: range of the standard deviation of the added noise, in 1/255 of the value range. None:
            measured by `measure`; until then, 10 and 50.
        teacher: "start", the initial restorer; or "average", the moving average of the restorer's weights.
        decay: decay of the average per step; None: chosen such that the average lags behind the restorer by 1.25 times
            the planned number of steps, as in `daa adapt`. With a faster average, such as the default over more than
            80 steps, teacher and restorer reinforce each other's errors, and the results drift.
        restart: number of steps after which the average restarts from the restorer; 0: never.
        weight_schedule: as in `RealTermObjective`.
        options: further arguments of `RealTermObjective`.

    Losses: "adaptation", L_re. The teacher's weights are in the state dict.
    """

    name = "renoised"
    title = "renoised self-distillation"
    measures = True
    evaluating: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(
        self,
        restorer: nn.Module,
        *,
        weight: float = 1.0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        teacher: str = "average",
        decay: float | None = 0.99,
        restart: int = 0,
        weight_schedule: str = "constant",
        **options: Any,
    ):
        super().__init__(restorer, weight=weight, weight_schedule=weight_schedule, **options)
        if sigma_max is not None:
            check_option("sigma_max", sigma_max, 0.0, 255.0, above=True)
        if sigma_min is not None:
            check_option("sigma_min", sigma_min, 0.0, 255.0 if sigma_max is None else sigma_max)
        check_choice("teacher", teacher, TEACHERS)
        if decay is not None:
            check_option("decay", decay, 0.0, 1.0)
        check_whole("restart", restart, 0)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.set_range(*UNMEASURED)
        self.decay = 1.0 if teacher == "start" else decay
        self.restart = restart
        self.teacher = copy.deepcopy(restorer).requires_grad_(False).eval()
        self.steps_taken: torch.Tensor
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))

    def set_range(self, sigma_min: float, sigma_max: float) -> None:
        """Sets the range of the added noise, in 1/255; limits given to the constructor take precedence."""
        low, high = RestorerContract.of(self.restorer).value_range
        if self.sigma_max is not None:
            sigma_min, sigma_max = min(sigma_min, self.sigma_max), self.sigma_max
        if self.sigma_min is not None:
            sigma_min, sigma_max = self.sigma_min, max(sigma_max, self.sigma_min)
        self.sigma_range = (sigma_min / 255 * (high - low), sigma_max / 255 * (high - low))

    def measure(self, real: Iterable[torch.Tensor], clean: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
        """Measures the noise that the restorer leaves in real photos, and derives the range of the noise to add.

        Let h be the median over the photos of the `renoising.hiding_deviation` of the remaining noise: the range is
        h / 2 to 2.5 h, at least 3 and 15, at most 75 (1/255). If the photos' own noise is white, a second pass removes
        only detail, and `use_measured` disables the term on real photos.

        Raises:
            ConfigurationError: the restorer reduces white noise of sigma 15/255 on clean patches by less than 5 dB; or
                no photo is at least 32 pixels wide and high, and the range was not given.
        """
        with in_eval_mode(self.restorer):
            probed = self.probe(clean, generator)
            if self.sigma_min is not None and self.sigma_max is not None:
                return probed
            measured = remaining_noise(self.restorer, real)
        sigma_min, sigma_max = (
            round(min(max(least, multiple * measured["hiding"]), MOST), 2)
            for multiple, least in zip(MULTIPLES, LEAST, strict=True)
        )
        return {**probed, **measured, "sigma_min": sigma_min, "sigma_max": sigma_max}

    def probe(self, clean: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
        """Measures the gain on white noise on clean photos; raises ConfigurationError if it is too small."""
        gain = white_noise_gain(self.restorer, clean, generator)
        if not gain >= LEAST_GAIN:
            raise ConfigurationError(
                "`objective` renoised needs a restorer that removes white noise: it must reduce noise of sigma 15/255 "
                f"on clean photos by at least {LEAST_GAIN:g} dB, and reduces it by {gain:.1f}. Start from a denoiser "
                "(`init_from`), or choose another `objective`"
            )
        return {"white_noise_gain": gain}

    def use_measured(self, measured: Mapping[str, Any]) -> None:
        """See `Objective.use_measured`."""
        if "hiding" not in measured:
            return
        if abs(measured["neighbors"]) < WHITE:
            self.weight = 0.0
            logger.warning(
                "renoising: the noise of the real photos is white (correlation of neighbors %.2f), and the initial "
                "restorer removes white noise: `objective` renoised has nothing to learn from them, and its term is "
                "disabled. Give `sigma_min` and `sigma_max` to enable it, or use `fit_noise`",
                measured["neighbors"],
            )
        else:
            self.set_range(measured["sigma_min"], measured["sigma_max"])
            low, high = RestorerContract.of(self.restorer).value_range
            logger.info(
                "renoising: the real photos have noise of %.1f/255, of which the initial restorer leaves %.1f; white "
                "noise of %.1f hides it; noise of sigma %.1f to %.1f is added",
                *(measured[name] for name in ("noise", "left", "hiding")),
                *(sigma * 255 / (high - low) for sigma in self.sigma_range),
            )

    @torch.no_grad()
    def after_step(self, planned: int) -> None:
        """Updates the moving average of the teacher."""
        self.steps_taken += 1
        decay = max(0.0, 1 - 1 / (LAG * planned)) if self.decay is None else self.decay
        if decay == 1.0:
            return
        restarts = self.restart and int(self.steps_taken) % self.restart == 0
        follow_average(self.teacher, self.restorer, 0.0 if restarts else decay)

    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """See `RealTermObjective`."""
        if weight == 0:  # the term is disabled: its passes would add zero
            return self.output(self.restorer(batch.synthetic), batch.clean, weight)
        target = self.teach(real, generator)
        restored, restored_real = self.restorer(batch.synthetic), self.restorer(real)
        adaptation = charbonnier(restored_real, target, self.charbonnier_eps)
        return self.output(restored, batch.clean, weight, adaptation=adaptation, restored_real=restored_real)

    @torch.no_grad()
    def teach(self, real: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        """Returns the target f'(f'(x_r) + sigma n) (B, C, H, W) for real photos (B, C, H, W)."""
        first = self.teacher(real)
        sigma, noise = self.draw_noise(real, generator)
        return self.teacher(first + sigma * noise)

    def draw_noise(self, like: torch.Tensor, generator: Generators) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws sigma (B, 1, 1, 1), on the scale of the restorer's range, and n (B, C, H, W) for photos `like`."""
        low, high = self.sigma_range

        def draw(own: torch.Generator | None, _: int) -> torch.Tensor:
            sigma = low + (high - low) * torch.rand((), generator=own)
            noise = torch.randn(like.shape[1:], generator=own)
            return torch.cat([sigma.view(1), noise.flatten()])

        drawn = draw_each(len(like), generator, draw).to(like)  # (B, 1 + CHW)
        return drawn[:, 0].view(-1, 1, 1, 1), drawn[:, 1:].view(like.shape)
