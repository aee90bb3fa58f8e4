"""Scores without ground truth: statistics of the residual, and an estimated gain in PSNR.

All photos are floating point, (C, H, W) or (B, C, H, W), in [0, 1]; they may exceed this range slightly (only PSNR
clamps them). Scores are scalars () for one photo, and (B,) for a batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..degradations.filters import gaussian_filter
from ..degradations.fitting.photo_noise import BLOCK, LOCAL_SIGMA
from ..degradations.fitting.photo_noise import Noise as Noise  # part of this module's interface
from .metrics import psnr

Restorer = Callable[[torch.Tensor], torch.Tensor]

NEGLIGIBLE = 0.25 / 255  # local deviations well below this, a quarter of an 8-bit step, count as no residual
DETAIL_SIGMA = 2.0  # standard deviation in pixels of the Gaussian filter that is subtracted to get detail
DRIFT_BLOCK = 32  # side in pixels of the blocks for color drift
PROBE_STEP = 0.2  # step of the finite difference in standard deviations of the noise
MIN_MSE = 1e-3  # lower bound of the relative error: gains are at most 30 dB


def residual_whiteness(degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Measures the whiteness of the residual `degraded - restored`: 1 for white noise, near 0 for slow variation.

    The whiteness is `1 - rms(rho)` over the lags within two pixels, averaged over channels. rho is the spatial
    autocorrelation of the residual, minus its mean and divided by its local standard deviation, so that
    signal-dependent noise also counts as white. Noise is not white after demosaicing (rho is 0.4 to 0.8 at lag one), so
    values are only comparable for the same photos. A constant residual counts as white.

    Raises:
        ValueError: the photos differ in shape or are smaller than 16 pixels.
    """
    degraded, restored, is_single = _pair(degraded, restored)
    residual = _over_local_deviation(degraded - restored - (degraded - restored).mean((2, 3), keepdim=True))
    height, width = residual.shape[2:]
    energy = residual.square().mean((2, 3)).clamp(min=1e-6)  # (B, C)
    # squared autocorrelation rho at each lag (down, right) of the half plane, which the other half mirrors
    squares = []
    for down, right in [(0, 1), (0, 2), *((down, right) for down in (1, 2) for right in range(-2, 3))]:
        here = residual[..., : height - down, max(-right, 0) : width - max(right, 0)]
        there = residual[..., down:, max(right, 0) : width + min(right, 0)]
        squares.append(((here * there).mean((2, 3)) / energy).square())
    return _as_given(1 - torch.stack(squares).mean(0).sqrt().mean(1), is_single)


def residual_signal_correlation(degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Correlates detail in the residual `degraded - restored` with detail in the restored photo, in [-1, 1].

    Both are high-pass filtered (Gaussian of sigma 2) and divided by their local standard deviation. Above 0, removed
    and kept detail are similar: noise was left, or detail was removed. Below 0, detail was added. The untouched photo
    scores 0.

    Raises:
        ValueError: as for `residual_whiteness`.
    """
    degraded, restored, is_single = _pair(degraded, restored)
    removed, kept = (
        _over_local_deviation(photo - gaussian_filter(photo, DETAIL_SIGMA)) for photo in (degraded - restored, restored)
    )
    return _as_given((removed * kept).mean((1, 2, 3)), is_single)


def colour_drift(degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Measures how much the mean colors of blocks of 32 x 32 pixels change: mean absolute change in 1/255, 0 is best.

    Noise does not average out completely: about 1/255 is left of correlated noise of 20/255.

    Raises:
        ValueError: as for `residual_whiteness`.
    """
    degraded, restored, is_single = _pair(degraded, restored)
    block = min(DRIFT_BLOCK, *degraded.shape[2:])
    return _as_given(255 * F.avg_pool2d(restored - degraded, block).abs().mean((1, 2, 3)), is_single)


def clean_fidelity(restorer: Restorer, clean: torch.Tensor) -> torch.Tensor:
    """Measures the PSNR in dB of `restorer(clean)` against `clean`; inf if clean photos are unchanged.

    Args:
        restorer: function that maps (B, C, H, W) in [0, 1] to (B, C, H, W).
        clean: clean photos. Real ones have some noise, so that a good denoiser only reaches 35 to 50 dB.
    """
    batch = clean[None] if clean.ndim == 3 else clean
    with torch.no_grad():
        restored = restorer(batch)
    return _as_given(psnr(restored, batch), clean.ndim == 3)


def estimated_gain(restorer: Restorer, degraded: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Estimates the gain in PSNR (dB) over the untouched input, relative to the noise of each photo.

    This is Stein's unbiased risk estimate with a Monte Carlo divergence (Ramani, Blu, Unser 2008), for noise that may
    be correlated and depend on brightness. With residual `r = f(x) - x`, drawn noise n and `h` = 0.2,

        mse = mean(r^2) - mean(n^2) + 2 mean(n (f(x + h n) - f(x - h n)) / 2h),
        gain = -10 log10( mean over photos of mse / mean(n^2) ),

    so that every error is relative to the photo's own noise. The estimate requires additive noise, and does not apply
    to rain or blur.

    Args:
        restorer: function that maps (B, C, H, W) in [0, 1] to (B, C, H, W).
        degraded: noisy photos (B, C, H, W).
        noise: (K, B, C, H, W), K draws of `Noise.sample` for each photo.

    Returns:
        Scalar, at most 30.

    Raises:
        ValueError: the shapes do not match.
    """
    if degraded.shape != noise.shape[1:] or degraded.ndim != 4:
        raise ValueError(
            f"`noise` must be (K, B, C, H, W) for `degraded` (B, C, H, W), got {tuple(noise.shape)} for "
            f"{tuple(degraded.shape)}"
        )
    with torch.no_grad():
        residual_power = (restorer(degraded) - degraded).double().square().mean((1, 2, 3))  # (B,), mean(r^2)
        # Monte Carlo divergence: mean(n (f(x + h n) - f(x - h n)) / 2h)
        divergence = torch.zeros_like(residual_power)
        for n in noise:
            difference = restorer(degraded + PROBE_STEP * n) - restorer(degraded - PROBE_STEP * n)
            divergence += (n * difference).double().mean((1, 2, 3)) / (2 * PROBE_STEP * len(noise))
    # mean over photos of the relative error, as a gain
    noise_power = noise.double().square().mean((0, 2, 3, 4)).clamp(min=1e-8)  # (B,), mean(n^2)
    relative = ((residual_power - noise_power + 2 * divergence) / noise_power).mean()
    return -10 * torch.log10(relative.clamp(min=MIN_MSE))


def label_free_score(gain: float, correlation: float) -> float:
    """Returns a score to choose between restorers of the same noisy photos; higher is better, untouched photos score 0.

        score = gain - 2 max(0, |correlation| - 0.25)

    in dB, for the `estimated_gain` and the mean `residual_signal_correlation`. The gain includes the cost of color
    drift, lost detail and remaining noise. However, noise is easily underestimated, which favors restorers that remove
    too little. Such restorers leave noise that resembles the removed noise, which the second term penalizes. Whiteness,
    drift and clean fidelity are not used: on real pairs they do not improve the order of restorers, and the best
    restorer (supervised on the photos) had the lowest fidelity. Systematic errors that only pairs reveal are not
    detected. benchmarks/selection.py measures the loss in PSNR from choosing by this score.
    """
    return gain - 2 * max(0.0, abs(correlation) - 0.25)


def _over_local_deviation(x: torch.Tensor) -> torch.Tensor:
    """Divides (B, C, H, W) of zero mean by its local standard deviation."""
    return x / (gaussian_filter(x.square(), LOCAL_SIGMA).clamp(min=0) + NEGLIGIBLE**2).sqrt()


def _pair(degraded: torch.Tensor, restored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Checks both photos, and returns them as batches (B, C, H, W) and whether they were single photos."""
    if degraded.shape != restored.shape or degraded.ndim not in (3, 4) or min(degraded.shape[-2:]) < BLOCK:
        raise ValueError(
            f"`degraded` and `restored` must have one shape, (C, H, W) or (B, C, H, W), with sides of at least "
            f"{BLOCK}, got {tuple(degraded.shape)} and {tuple(restored.shape)}"
        )
    return (degraded[None], restored[None], True) if degraded.ndim == 3 else (degraded, restored, False)


def _as_given(values: torch.Tensor, is_single: bool) -> torch.Tensor:
    """Returns the scores (B,) of batches, or the score () of single photos."""
    return values[0] if is_single else values
