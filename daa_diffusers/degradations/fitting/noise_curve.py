"""Noise curve (deviation by brightness), levels (one factor per photo) and skewness of the noise in a set of photos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..camera_noise import SRGB_GAMMA, tone_bend
from ..fitted import COLOR_PAIRS
from .photo_noise import BLOCK, FlatBlocks
from .suitability import Signs

BRIGHTNESS = tuple(round(0.05 + 0.1 * k, 2) for k in range(10))  # brightnesses of the curve
NOISE_FREE = 0.5 / 255  # standard deviation that counts as no noise; rounding to 8 bits alone gives 0.29 / 255
DARKEST = 0.04  # end of the linear toe of sRGB's tone curve, in stored values
ROUNDS = 8  # alternations between the fit of the curve and that of the photos' levels


@dataclass(frozen=True)
class PhotoStatistics:
    """Measurements of one photo.

    Attributes:
        brightness, log_deviation: (K, 3), brightness and logarithm of the noise's standard deviation in K blocks.
        correlation: (6, 7, 7), correlation of the noise of the 6 `COLOR_PAIRS` at offsets of -3 to 3 pixels.
        quality: quality of its JPEG coding, the coarser one if it was coded twice; None: not a JPEG file.
        sampling: chroma subsampling, as for `jpeg`.
        bend: skewness relative to that of a tone curve, and its weight: the result of `bend_of`.
        signs: signs of its suitability.
        is_coded_twice: whether an earlier JPEG coding was detected.
        codec: its lossy codec other than JPEG, if any.
    """

    brightness: np.ndarray
    log_deviation: np.ndarray
    correlation: np.ndarray
    quality: int | None
    sampling: int
    bend: tuple[float, float]
    signs: Signs
    is_coded_twice: bool = False
    codec: str | None = None


def fit_curve(photos: Sequence[PhotoStatistics]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits the deviations `s_i v(b)` of photos i at brightnesses b.

    Returns:
        Curve v (3, 10) of the median photo, levels s (photos,), and the number of blocks at each brightness (3, 10).
    """
    # the blocks of all photos; all photos have equal weights
    photo_of = np.concatenate([np.full(len(photo.brightness), i) for i, photo in enumerate(photos)])  # (blocks,)
    weight = np.concatenate([np.full(len(photo.brightness), 1 / len(photo.brightness)) for photo in photos])
    brightness = np.concatenate([photo.brightness for photo in photos])  # (blocks, 3)
    log_deviation = np.concatenate([photo.log_deviation for photo in photos])
    nearest = np.abs(brightness[..., None] - np.array(BRIGHTNESS)).argmin(-1)  # (blocks, 3), index in BRIGHTNESS
    observed = np.stack([np.bincount(nearest[:, c], minlength=len(BRIGHTNESS)) for c in range(3)])
    # alternating medians in log deviation = log s_i + log v(b)
    log_level = np.array([np.median(photo.log_deviation) for photo in photos])
    log_curve = np.zeros_like(observed, dtype=float)
    for _ in range(ROUNDS):
        for c in range(3):  # the curve v, given the levels
            values = log_deviation[:, c] - log_level[photo_of]
            known = np.flatnonzero(observed[c])
            medians = [_weighted_median(values[nearest[:, c] == k], weight[nearest[:, c] == k]) for k in known]
            log_curve[c] = np.interp(np.arange(len(BRIGHTNESS)), known, _without_spikes(medians))
        # the levels s, given the curve
        values = log_deviation - np.take_along_axis(log_curve.T, nearest, 0)  # (blocks, 3)
        log_level = np.array([np.median(values[photo_of == i]) for i in range(len(photos))])
    # normalized to the median photo
    median = np.median(log_level)
    return np.exp(log_curve + median), np.exp(log_level - median), observed


def bend_of(flat: FlatBlocks) -> tuple[float, float]:
    """Estimates the ratio of the third moment of a photo's noise to that of Gaussian noise after sRGB's tone curve.

    Returns:
        The ratio, by weighted least squares over the flat blocks, and its weight, the inverse squared standard error;
        (0, 0) if it is unknown.
    """
    variance = flat.residual.square().mean((2, 3))  # (K, C)
    third_moment = flat.residual.pow(3).mean((2, 3))
    deviation = variance.sqrt()
    expected = 6 * tone_bend(flat.brightness, SRGB_GAMMA) * variance.square()  # third moment, see `tone_bend`
    # blocks above the toe, without the skewness of clipping or of rounding to 8 bits
    usable = (
        (flat.brightness - 3 * deviation > DARKEST) & (flat.brightness + 3 * deviation < 1) & (deviation > NOISE_FREE)
    )
    precision = usable * BLOCK**2 / (15 * variance.clamp(min=1e-12) ** 3)  # 15 v**3 is the variance of cubed noise
    weight = float((precision * expected.square()).sum())
    return (float((precision * third_moment * expected).sum()) / weight, weight) if weight > 0 else (0.0, 0.0)


def fit_bend(photos: Sequence[PhotoStatistics]) -> float:
    """Returns the weighted median of the photos' `bend`."""
    bend, weight = np.array([photo.bend for photo in photos]).T
    return _weighted_median(bend, weight)


def _without_spikes(values: Sequence[float]) -> np.ndarray:
    """Returns medians of three neighbors, which remove a single outlier such as texture at one brightness."""
    padded = np.pad(values, 1, mode="edge")
    return np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = values.argsort()
    cumulative = weights[order].cumsum()
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def unit_correlation(correlation: np.ndarray) -> np.ndarray:
    """Makes a correlation (6, n, n) symmetric for each color with itself, and normalizes its center to 1."""
    center = correlation.shape[-1] // 2
    correlation = correlation.copy()
    correlation[:3] = (correlation[:3] + correlation[:3, ::-1, ::-1]) / 2
    correlation[:3] /= correlation[:3, center, center][:, None, None]
    return correlation.clip(-1, 1)


def fit_poisson(curve: np.ndarray, observed: np.ndarray) -> tuple[float, float, float]:
    """Fits `curve**2 = shot * b + read**2` at the observed brightnesses b.

    Returns:
        shot, read (for values in [0, 1]), and the largest relative error of the fitted standard deviations.
    """
    known = observed > 0
    b, variance = np.array(BRIGHTNESS)[known], curve[known] ** 2
    shot, read_variance = 0.0, float(np.exp(np.log(variance).mean()))  # constant, unless the fit has a valid result
    if known.sum() >= 3:
        rows = np.stack([b, np.ones_like(b)], 1) / variance[:, None]  # least squares of relative errors
        fitted = np.linalg.lstsq(rows, np.ones_like(b), rcond=None)[0]
        if (fitted >= 0).all():
            shot, read_variance = (float(v) for v in fitted)
    error = np.abs(np.sqrt((shot * b + read_variance) / variance) - 1).max()
    return shot, read_variance**0.5, float(error)


def color_pairs(flat: FlatBlocks) -> np.ndarray:
    """Returns the correlation (6, 7, 7) of flat blocks for `COLOR_PAIRS`."""
    return np.stack([flat.correlation[a, b].numpy() for a, b in COLOR_PAIRS])


def nested(correlation: np.ndarray) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Converts a correlation to nested tuples of numbers with three decimals."""
    return tuple(tuple(tuple(round(float(v), 3) for v in row) for row in square) for square in correlation)
