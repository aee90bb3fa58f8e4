"""Supervised training on synthetic pairs alone."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .base import Batch, Objective, StepOutput
from .losses import charbonnier
from .real_term import check_option
from .schedules import Generators


class Supervised(Objective):
    """Supervised objective `L = L_pair`, eq. (5), which reads no real photos.

    Args:
        restorer: network that maps (B, C, H, W) to restored (B, C, H, W).
        charbonnier_eps: constant of the Charbonnier loss, eq. (5).
    """

    name = "supervised"
    title = "supervised training on synthetic pairs"

    def __init__(self, restorer: nn.Module, *, charbonnier_eps: float = 1e-3):
        super().__init__()
        check_option("charbonnier_eps", charbonnier_eps, 0.0, above=True)
        self.restorer = restorer
        self.charbonnier_eps = charbonnier_eps

    @classmethod
    def photo_roles(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns none: only the synthetic pairs are read."""
        return ()

    def forward(
        self, batch: Batch, *, progress: float = 1.0, generator: Generators = None, adapt: bool = True
    ) -> StepOutput:
        """See `Objective.forward`."""
        batch.check()
        restored = self.restorer(batch.synthetic)
        pair = charbonnier(restored, batch.clean, self.charbonnier_eps)
        losses = {"pair": pair.detach(), "total": pair.detach()}
        return StepOutput(pair, losses, restored_synthetic=restored.detach())
