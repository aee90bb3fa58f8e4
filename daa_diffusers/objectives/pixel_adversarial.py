"""Adversarial training on pixels: a patch discriminator compares restored real photos with clean ones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from ..models.restorer import RestorerContract
from .base import Batch, StepOutput
from .losses import upcast
from .real_term import RealTermObjective, check_choice, check_whole
from .schedules import Generators

LOSSES = ("hinge", "least_squares")


def patch_discriminator(channels: int, width: int, levels: int) -> nn.Sequential:
    """Builds a PatchGAN (Isola et al., CVPR 2017): (B, C, H, W) -> scores (B, 1, h, w) of overlapping patches.

    It has `levels` layers of stride 2, each with twice as many channels as the one before, then two of stride 1. The
    side of a patch is 34 pixels with two levels, 70 with three. Layers have spectral normalization (Miyato et al., ICLR
    2018) instead of batch normalization.

    Args:
        channels: number of channels of the photos.
        width: number of channels of the first layer.
        levels: number of layers of stride 2.
    """
    layers: list[nn.Module] = []
    before = channels
    for level in range(levels + 1):
        after = width * 2**level
        convolution = nn.Conv2d(before, after, 4, stride=2 if level < levels else 1, padding=1)
        layers += [spectral_norm(convolution), nn.LeakyReLU(0.2)]
        before = after
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, 1, 4, padding=1)))


class PixelAdversarial(RealTermObjective):
    """Trains a discriminator to separate clean photos u from restored real ones q, and the restorer to fool it.

    "hinge": `L_D = mean relu(1 - D(u)) + mean relu(1 + D(q))`, `L_real = -mean D(q)`;
    "least_squares" (Mao et al., ICCV 2017): `L_D = mean (D(u) - 1)^2 + mean D(q)^2`, `L_real = mean (D(q) - 1)^2`.
    In L_D, q is detached; in L_real, D is constant. One backward pass of the sum therefore trains both networks. u are
    the `unpaired_clean` photos, or `clean` if there are none.

    Args:
        restorer: as in `RealTermObjective`.
        weight: weight of L_real at the end of the ramp.
        kind: "hinge" or "least_squares".
        width, levels: as for `patch_discriminator`.
        options: further arguments of `RealTermObjective`.

    Losses: "discriminator", L_D; "adaptation", L_real.
    """

    name = "pixel_adversarial"
    title = "adversarial training on pixels"
    uses_preparation = False

    def __init__(
        self,
        restorer: nn.Module,
        *,
        weight: float = 0.005,
        kind: str = "hinge",
        width: int = 32,
        levels: int = 2,
        **options: Any,
    ):
        super().__init__(restorer, weight=weight, **options)
        check_choice("kind", kind, LOSSES)
        check_whole("width", width, 1)
        check_whole("levels", levels, 1, 5)
        self.kind = kind
        self.smallest_side = 2 ** (levels + 2)  # of which the discriminator returns 2 x 2 scores
        self.discriminator = patch_discriminator(RestorerContract.of(restorer).channels, width, levels)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The discriminator."""
        return {"discriminator": self.discriminator}

    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """See `RealTermObjective`."""
        restored, restored_real = self.restorer(batch.synthetic), self.restorer(real)
        clean = batch.clean if batch.unpaired_clean is None else batch.unpaired_clean
        # scores D(u) and D(q): for L_D both in one batch, with a gradient to the discriminator only
        photos = torch.cat([clean, restored_real.detach().to(clean.dtype)])  # (2B, C, H, W)
        of_clean, of_restored = upcast(self.discriminator(photos)).chunk(2)
        # for L_real with a gradient to the restorer only
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        for_restorer = upcast(functional_call(self.discriminator, frozen, (restored_real,)))
        if self.kind == "hinge":
            discriminator = F.relu(1 - of_clean).mean() + F.relu(1 + of_restored).mean()
            adaptation = -for_restorer.mean()
        else:
            discriminator = (of_clean - 1).square().mean() + of_restored.square().mean()
            adaptation = (for_restorer - 1).square().mean()
        return self.output(
            restored,
            batch.clean,
            weight,
            adaptation=adaptation,
            further={"discriminator": discriminator},
            restored_real=restored_real,
        )
