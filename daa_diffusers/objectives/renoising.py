"""Measurements for renoising: noise that a restorer leaves in real photos, and how much white noise it removes."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..degradations.fitting.photo_noise import BLOCK, FlatBlocks
from ..errors import ConfigurationError
from ..models.restorer import RestorerContract, restore_photos, round_up

PROBE = 15 / 255  # standard deviation of the added noise in `white_noise_gain`
FREQUENCIES = 16  # frequencies of the spectrum per axis, more than the 7 offsets of the correlation


def hiding_deviation(blocks: FlatBlocks) -> float:
    """Returns the standard deviation, for photos in [0, 1], of white noise that hides the noise of a photo.

    White noise hides it if its power is at least that of the photo's noise at every frequency and for every combination
    of colors. Its variance is therefore the largest eigenvalue, over all frequencies, of the spectral density (C, C) of
    the photo's noise: the variance of that noise if it is white, and equal and independent in all colors; several
    times this variance if neighbors or colors are correlated.
    """
    deviation = blocks.variance.median(0).values.sqrt()  # (C,)
    covariance = blocks.correlation * (deviation[:, None] * deviation)[..., None, None]  # (C, C, 7, 7)
    offsets = covariance.shape[-1]
    padded = covariance.new_zeros(*covariance.shape[:2], FREQUENCIES, FREQUENCIES)
    padded[..., :offsets, :offsets] = covariance
    padded = padded.roll((-(offsets // 2), -(offsets // 2)), (2, 3))  # offset 0 comes first
    spectrum = torch.fft.fft2(padded).permute(2, 3, 0, 1)  # (FREQUENCIES, FREQUENCIES, C, C)
    power = torch.linalg.eigvalsh((spectrum + spectrum.mH) / 2).amax()  # Hermitian despite rounding
    return math.sqrt(max(0.0, float(power)))  # an estimated correlation may have negative powers


@torch.no_grad()
def remaining_noise(restorer: nn.Module, photos: Iterable[torch.Tensor]) -> dict[str, float]:
    """Measures the noise of photos (C, H, W) in [0, 1] before and after a restorer.

    Returns:
        Medians over the photos. Before restoration: "noise", the standard deviation (1/255) in flat parts, and
        "neighbors", the correlation of the noise of neighboring pixels. After: "left", the standard deviation, and
        "hiding", the `hiding_deviation` (1/255).

    Raises:
        ConfigurationError: no photo is at least 32 pixels wide and high, cropped to the restorer's size multiple.
    """
    multiple = RestorerContract.of(restorer).size_multiple
    smallest = round_up(2 * BLOCK, multiple)
    measured = []
    for photo in photos:
        height, width = (side // multiple * multiple for side in photo.shape[1:])
        if min(height, width) < smallest:
            continue
        photo = photo[:, :height, :width]
        before, after = FlatBlocks.of(photo), FlatBlocks.of(restore_photos(restorer, photo[None])[0])
        deviations = [255 * float(blocks.variance.mean().sqrt()) for blocks in (before, after)]
        measured.append([*deviations, 255 * hiding_deviation(after), before.neighbors])
    if not measured:
        raise ConfigurationError(
            f"`real` must hold photos at least {smallest} pixels wide and high to estimate the strength of renoising; "
            "or give `sigma_min` and `sigma_max`"
        )
    medians = torch.tensor(measured).median(0).values
    names = ("noise", "left", "hiding", "neighbors")
    return {name: round(float(value), 2) for name, value in zip(names, medians, strict=True)}


@torch.no_grad()
def white_noise_gain(restorer: nn.Module, clean: torch.Tensor, generator: torch.Generator) -> float:
    """Returns the dB by which a restorer reduces white noise of sigma 15/255 on clean photos (B, C, H, W) in [0, 1].

    Rounded to 0.1 dB; -inf if the restorer returns NaN or infinity.
    """
    noisy = clean + PROBE * torch.randn(clean.shape, generator=generator)
    error = float((restore_photos(restorer, noisy) - clean).square().mean())
    if not math.isfinite(error):
        return -math.inf
    return round(10 * math.log10(PROBE**2 / max(error, 1e-12)), 1) + 0.0  # -0.0 becomes 0.0
