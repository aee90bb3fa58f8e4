"""Estimation of the strength of renoising, from the noise that a restorer leaves in real photos."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..degradations.fitting.photo_noise import BLOCK, FlatBlocks
from ..errors import ConfigurationError
from ..models.restorer import RestorerContract, restore_photos

PROBE = 15 / 255  # standard deviation of the noise of `white_noise_gain`
FREQUENCIES = 16  # of the spectrum, along each side


def hiding_deviation(blocks: FlatBlocks) -> float:
    """Standard deviation, in units of [0, 1], of white noise that hides the noise of a photo.

    Hides: its power is at no frequency, in no mixture of colors, below that of the photo's noise. The square of this
    deviation is the largest eigenvalue, over all frequencies, of the spectral density (C, C) of the photo's noise: its
    variance where it is white, several times that where neighbors are correlated.
    """
    deviation = blocks.variance.median(0).values.sqrt()  # (C,)
    covariance = blocks.correlation * (deviation[:, None] * deviation)[..., None, None]  # (C, C, 7, 7)
    offsets = covariance.shape[-1]
    padded = covariance.new_zeros(*covariance.shape[:2], FREQUENCIES, FREQUENCIES)
    padded[..., :offsets, :offsets] = covariance
    padded = padded.roll((-(offsets // 2), -(offsets // 2)), (2, 3))
    spectrum = torch.fft.fft2(padded).permute(2, 3, 0, 1)  # (n, n, C, C)
    power = torch.linalg.eigvalsh((spectrum + spectrum.mH) / 2).amax()
    return math.sqrt(max(0.0, float(power)))


@torch.no_grad()
def remainder(restorer: nn.Module, photos: Iterable[torch.Tensor]) -> dict[str, float]:
    """Noise of photos (C, H, W) in [0, 1] before and after a restorer: medians over the photos.

    Returns:
        "noise" and "left", standard deviations (1/255) in flat parts before and after; "hiding", the
        `hiding_deviation` (1/255) after; "neighbors", the correlation of the noise of neighboring pixels before.

    Raises:
        ConfigurationError: no photo has both sides of at least 32 pixels.
    """
    multiple = RestorerContract.of(restorer).size_multiple
    measured = []
    for photo in photos:
        height, width = (side // multiple * multiple for side in photo.shape[1:])
        if min(height, width) < 2 * BLOCK:
            continue
        photo = photo[:, :height, :width]
        before, after = FlatBlocks.of(photo), FlatBlocks.of(restore_photos(restorer, photo[None])[0])
        deviations = [255 * float(blocks.variance.mean().sqrt()) for blocks in (before, after)]
        measured.append([*deviations, 255 * hiding_deviation(after), before.neighbors])
    if not measured:
        raise ConfigurationError(
            f"`real` must hold photos of at least {2 * BLOCK} pixels a side, so that the strength of the renoising can "
            "be estimated; or give `sigma_min` and `sigma_max`"
        )
    medians = torch.tensor(measured).median(0).values
    names = ("noise", "left", "hiding", "neighbors")
    return {name: round(float(value), 2) for name, value in zip(names, medians, strict=True)}


@torch.no_grad()
def white_noise_gain(restorer: nn.Module, clean: torch.Tensor, generator: torch.Generator) -> float:
    """Decibels by which a restorer reduces white noise of sigma 15/255 on clean photos (B, C, H, W) in [0, 1]."""
    noisy = clean + PROBE * torch.randn(clean.shape, generator=generator)
    error = float((restore_photos(restorer, noisy) - clean).square().mean())
    if not math.isfinite(error):
        return -math.inf
    return round(10 * math.log10(PROBE**2 / max(error, 1e-12)), 1) + 0.0  # -0.0 becomes 0.0
