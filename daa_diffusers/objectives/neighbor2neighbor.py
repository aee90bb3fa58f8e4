"""Self-supervision by neighboring pixels (Huang et al., "Neighbor2Neighbor", CVPR 2021), with synthetic pairs."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.restorer import RestorerContract
from .base import Batch, StepOutput, draw_each
from .losses import squared_error
from .real_term import RealTermObjective, check_option
from .schedules import Generators

# Pairs of neighbors in a cell of 2 x 2 pixels (0 1 / 2 3), in both orders.
PAIRS = torch.tensor([(0, 1), (0, 2), (1, 3), (2, 3), (1, 0), (2, 0), (3, 1), (3, 2)])


def draw_neighbors(shape: Sequence[int], generator: Generators = None) -> torch.Tensor:
    """Draws two neighbors of every cell of photos (B, C, H, W): (B, 2, H/2, W/2), indices 0 to 3, row by row."""
    cells = (shape[2] // 2, shape[3] // 2)
    pair = draw_each(shape[0], generator, lambda own, _: torch.randint(len(PAIRS), cells, generator=own))
    return PAIRS[pair].movedim(-1, 1)


def subsample(photos: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Selects one pixel of every 2 x 2 cell: photos (B, C, H, W), indices (B, H/2, W/2) -> (B, C, H/2, W/2)."""
    batch, channels, height, width = photos.shape
    cells = F.pixel_unshuffle(photos, 2).reshape(batch, channels, 4, height // 2, width // 2)
    chosen = index[:, None, None].expand(-1, channels, 1, -1, -1)  # (B, C, 1, H/2, W/2)
    return cells.gather(2, chosen).squeeze(2)


class Neighbor2Neighbor(RealTermObjective):
    """Trains the restorer to predict a pixel's neighbor, which has about the same signal and independent noise.

    With the subsampled photos `g1(x), g2(x)` of a real photo,
    `L_real = |f(g1(x)) - g2(x)|^2 + gamma |f(g1(x)) - g2(x) - (g1(f(x)) - g2(f(x)))|^2`, means over pixels, without
    gradient through `f(x)`. This assumes noise that is independent between pixels, which demosaicing violates.

    Args:
        restorer: as in `RealTermObjective`.
        weight: weight of L_real at the end of the ramp.
        gamma: factor of the second term, which corrects for the neighbors' different signals; 2 in the paper's sRGB
            experiments.
        options: further arguments of `RealTermObjective`.

    Losses: "adaptation", L_real; "consistency", its second term without gamma.
    """

    name = "neighbor2neighbor"
    title = "Neighbor2Neighbor"
    uses_preparation = False

    def __init__(
        self,
        restorer: nn.Module,
        *,
        weight: float = 2.0,
        gamma: float = 2.0,
        **options: Any,
    ):
        super().__init__(restorer, weight=weight, **options)
        check_option("gamma", gamma, 0.0)
        self.gamma = gamma
        self.size_multiple = 2 * RestorerContract.of(restorer).size_multiple

    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """See `RealTermObjective`."""
        first, second = draw_neighbors(real.shape, generator).to(real.device).unbind(1)
        restored, predicted = self.restorer(batch.synthetic), self.restorer(subsample(real, first))
        with torch.no_grad():
            whole = self.restorer(real)
        target = subsample(real, second)
        difference = subsample(whole, first) - subsample(whole, second)
        consistency = squared_error(predicted - target, difference)
        output = self.output(
            restored,
            batch.clean,
            weight,
            adaptation=squared_error(predicted, target) + self.gamma * consistency,
            restored_real=whole,
        )
        output.losses["consistency"] = consistency.detach()
        return output
