"""Training of a noise predictor on clean photos, as the initial one of noise-space adaptation."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn

from ..models.restorer import RestorerContract
from .base import Batch, Objective, StepOutput
from .conditions import RADIUS, draw_conditions, make_conditions
from .losses import charbonnier, contrastive, squared_error
from .noise_predictors import new_noise_predictor, shuffling
from .real_term import check_option, follow_average
from .schedules import Generators, NoiseSchedule, noised


class NoisePredictorTraining(Objective):
    """Trains the noise predictor of `noise_space` on L+ of eq. (4), with a frozen restorer.

    A clean photo is noised, eq. (1). The first condition is derived from the same photo, the second from another photo
    of the batch. Each condition simulates the result of some restorer: the frozen restorer's own result, a point
    between it and the degraded or the clean photo, a blurred or noisy photo, the clean one, or zeros
    (`conditions.KINDS`). In half of the pairs both conditions have the same kind, as with a single restorer.

    Random draws of a batch are made on its device, and depend on the generator of its first sample. A pipeline keeps
    the moving average of the predictor, which is in the state dict.

    Args:
        restorer: f, frozen; maps (B, C, H, W) to (B, C, H, W) in its own value range.
        unet: noise predictor, as for `NoiseSpaceAdaptation`.
        matched: share of the pairs whose second condition is also derived from the noised photo.
        residual_swap: train on all of eq. (4); the negative has the residuals of the two conditions swapped.
        margin: margin of the hinge in eq. (4).
        decay: decay per step of the moving average of the predictor's weights, reached after a warm-up.
        timestep_range: inclusive 0-based range of t; None: (1, 999).

    Losses, besides those of every objective: "noise_positive" L+, and with `residual_swap` "noise" (4) and
    "noise_negative" L-. "pair" is that of the frozen restorer.
    """

    name = "noise_predictor"
    title = "training of a noise predictor"
    uses_preparation = False
    evaluating = ("restorer", "average")

    def __init__(
        self,
        restorer: nn.Module,
        unet: nn.Module,
        *,
        matched: float = 0.0,
        residual_swap: bool = False,
        margin: float = 0.1,
        decay: float = 0.999,
        timestep_range: Sequence[int] | None = None,
    ):
        super().__init__()
        check_option("matched", matched, 0.0, 1.0)
        check_option("decay", decay, 0.0, 1.0)
        self.restorer = restorer.requires_grad_(False).eval()
        self.unet = shuffling(unet)
        self.average = copy.deepcopy(self.unet).requires_grad_(False).eval()
        self.matched, self.residual_swap, self.margin, self.decay = matched, residual_swap, margin, decay
        self.schedule = NoiseSchedule(timestep_range=timestep_range)
        self.smallest_side = RADIUS + 1
        self.steps_taken: torch.Tensor
        self.register_buffer("steps_taken", torch.zeros(()))

    @classmethod
    def from_options(
        cls,
        restorer: nn.Module,
        *,
        noise_predictor: str = "tiny",
        noise_predictor_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Builds the objective with a new noise predictor.

        Args:
            restorer: as for the class.
            noise_predictor: name in `noise_predictors.NOISE_PREDICTORS`.
            noise_predictor_options: constructor arguments that override the preset of this name.
            options: arguments of the class.
        """
        return cls(restorer, new_noise_predictor(noise_predictor, restorer, noise_predictor_options), **options)

    @classmethod
    def photo_roles(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns none: only the synthetic pairs are read."""
        return ()

    @classmethod
    def problems(cls, options: Mapping[str, Any], run: Any) -> Iterator[str]:
        """See `Objective.problems`."""
        if not run.init_from:
            yield f"`objective` {cls.name} needs a restorer whose results the predictor learns from: give `init_from`"
        if run.batch_size < 2:
            yield f"`objective` {cls.name} needs a `batch_size` of at least 2: two conditions need two photos"

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The noise predictor."""
        return {"noise_predictor": self.unet}

    @property
    def kept_networks(self) -> dict[str, nn.Module]:
        """The moving average of the noise predictor."""
        return {"noise_predictor": self.average}

    def forward(
        self, batch: Batch, *, progress: float = 1.0, generator: Generators = None, adapt: bool = True
    ) -> StepOutput:
        """See `Objective.forward`; all draws depend on the seed of the first generator."""
        batch.check()
        clean, degraded = batch.clean, batch.synthetic
        with torch.no_grad():
            restored = self.restorer(degraded).to(clean)
            pair = charbonnier(restored, clean)
        first_generator = generator[0] if isinstance(generator, Sequence) else generator
        seed = int(torch.randint(2**31, ()) if first_generator is None else first_generator.initial_seed())
        draws = torch.Generator(clean.device).manual_seed(seed)

        # both conditions, the second of another photo unless it is matched
        low, high = RestorerContract.of(self.restorer).value_range
        first_draws, second_draws = draw_conditions(clean, draws)
        index = torch.arange(len(clean), device=clean.device)
        is_matched = torch.rand(len(clean), generator=draws, device=clean.device) < self.matched
        other = torch.where(is_matched, index, index.roll(1))  # photo of the second condition
        first = make_conditions(first_draws, clean, degraded, restored, high - low)
        second = make_conditions(second_draws, clean[other], degraded[other], restored[other], high - low)

        # (1), (2)
        level = self.schedule.levels(len(clean), torch.Generator().manual_seed(seed)).to(clean.device)
        noise = torch.randn(clean.shape, generator=draws, device=clean.device).to(clean)
        swaps = torch.rand(2, len(clean), generator=draws, device=clean.device) < 0.5
        z = noised(clean, noise, level)
        predicted = self.unet(z, level, conditions=(first, second), swap=swaps[0]).sample
        loss = positive = squared_error(predicted, noise)
        losses = {"pair": pair, "noise_positive": positive.detach()}
        if self.residual_swap:
            # (3), averaged over the samples whose conditions both have a residual
            swapped = degraded + (second - degraded[other]), degraded[other] + (first - degraded)
            predicted = self.unet(z, level, conditions=swapped, swap=swaps[1]).sample
            errors = (predicted.float() - noise.float()).square().mean((1, 2, 3))
            has_residuals = (first_draws.kept & second_draws.kept).to(errors)
            negative = (errors * has_residuals).sum() / has_residuals.sum().clamp_min(1)
            loss = contrastive(positive, negative, self.margin)  # (4)
            losses |= {"noise": loss.detach(), "noise_negative": negative.detach()}
        losses["total"] = loss.detach()
        return StepOutput(loss, losses, restored_synthetic=restored)

    def after_step(self, planned: int) -> None:
        """Updates the moving average of the noise predictor."""
        self.steps_taken += 1
        warm = (1 + self.steps_taken) / (10 + self.steps_taken)  # as in diffusers' EMAModel
        follow_average(self.average, self.unet, warm.clamp(max=self.decay))
