"""Self-training with an averaged teacher (Tarvainen and Valpola, "Mean teachers", NIPS 2017) and synthetic pairs."""

import copy
from typing import Any

import torch
from torch import nn

from ..models.restorer import RestorerContract
from .base import Batch, StepOutput, draw_each
from .losses import charbonnier
from .real_term import RealTermObjective, check_option, check_whole, follow_average
from .schedules import Generators


class MeanTeacher(RealTermObjective):
    """Trains the restorer to map real photos with added noise to the teacher's result on the photos without it.

    The teacher is the moving average of the restorer's weights; its result t is the mean over rotated and flipped
    photos. `L_real = mean sqrt((f(x + n) - t)^2 + eps^2)` with white noise n, its level drawn for each photo.

    Args:
        restorer: as in `RealTermObjective`.
        weight: weight of L_real at the end of the ramp.
        decay: decay of the moving average per step.
        views: number of flips and rotations, 1 to 8, over which the teacher averages.
        noise_max: largest standard deviation of n, which is uniform in [0, noise_max], in 1/255 of the value range.
        options: further arguments of `RealTermObjective`.

    Losses: "adaptation" L_real. The output's `restored_real` is t. The teacher's weights are in the state dict.
    """

    name = "mean_teacher"
    title = "mean teacher"
    uses_preparation = False
    evaluating = ("teacher",)

    def __init__(
        self,
        restorer: nn.Module,
        *,
        weight: float = 1.0,
        decay: float = 0.99,
        views: int = 4,
        noise_max: float = 10.0,
        **options: Any,
    ):
        super().__init__(restorer, weight=weight, **options)
        check_option("decay", decay, 0.0, 1.0)
        check_whole("views", views, 1, 8)
        check_option("noise_max", noise_max, 0.0, 255.0)
        self.decay = decay
        self.views = views
        low, high = RestorerContract.of(restorer).value_range
        self.noise_max = noise_max / 255 * (high - low)
        self.teacher = copy.deepcopy(restorer).requires_grad_(False).eval()

    def after_step(self, planned: int) -> None:
        """Updates the moving average of the restorer's weights."""
        follow_average(self.teacher, self.restorer, self.decay)

    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """See `RealTermObjective`."""
        noisier = real + self._noise(real.shape, generator).to(real)
        restored, predicted = self.restorer(batch.synthetic), self.restorer(noisier)
        target = self.teach(real)
        adaptation = charbonnier(predicted, target, self.charbonnier_eps)
        return self.output(restored, batch.clean, weight, adaptation=adaptation, restored_real=target)

    @torch.no_grad()
    def teach(self, real: torch.Tensor) -> torch.Tensor:
        """Returns the teacher's mean result (B, C, H, W) over `views` rotations and flips of `real` (B, C, H, W)."""
        results = [undo_view(self.teacher(apply_view(real, view)), view) for view in range(self.views)]
        return torch.stack(results).mean(0)

    def _noise(self, shape: torch.Size, generator: Generators) -> torch.Tensor:
        def draw(own: torch.Generator | None, _: int) -> torch.Tensor:
            return self.noise_max * torch.rand((), generator=own) * torch.randn(shape[1:], generator=own)

        return draw_each(shape[0], generator, draw)


def apply_view(photos: torch.Tensor, view: int) -> torch.Tensor:
    """Returns view 0 to 7 of photos (B, C, H, W); its bits 1, 2 and 4 are rotation by 180, flip, rotation by 90."""
    photos = photos.rot90(2, (2, 3)) if view & 1 else photos
    photos = photos.flip(3) if view & 2 else photos
    return photos.rot90(1, (2, 3)) if view & 4 else photos


def undo_view(photos: torch.Tensor, view: int) -> torch.Tensor:
    """Inverts `apply_view`."""
    photos = photos.rot90(-1, (2, 3)) if view & 4 else photos
    photos = photos.flip(3) if view & 2 else photos
    return photos.rot90(2, (2, 3)) if view & 1 else photos
