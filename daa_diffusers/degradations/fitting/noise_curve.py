"""Noise curve and levels of a set of photos, fitted to their flat blocks, with inversion of JPEG coding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..camera_noise import SRGB_GAMMA, tone_bend
from ..draws import generator_for
from ..fitted import COLOR_PAIRS, KERNEL, correlation_kernels, expand_pairs
from ..jpeg_coding import jpeg
from .coding import CODING_ROUNDS, Covariance, corrected, first_guess
from .photo_noise import BLOCK, FlatBlocks
from .suitability import Signs

BRIGHTNESS = tuple(round(0.05 + 0.1 * k, 2) for k in range(10))  # brightnesses of the curve
NOISE_FREE = 0.5 / 255  # standard deviation that counts as no noise; rounding to 8 bits alone gives 0.29 / 255
DARKEST = 0.04  # end of the linear toe of sRGB's tone curve, in stored values
ROUNDS = 8  # alternations between the fit of the curve and that of the photos' levels
CALIBRATION_ROUNDS = 3  # fixed-point iterations without JPEG coding
CALIBRATION_LEVELS = tuple(float(x) for x in np.geomspace(0.125, 8, 13))  # simulated multiples of the noise
CALIBRATION_SIDE = 256  # side of the simulated photos in pixels


@dataclass(frozen=True)
class PhotoStatistics:
    """Measurements of one photo.

    Attributes:
        brightness, log_deviation: (K, 3), brightness and logarithm of the noise's standard deviation in K blocks.
        correlation: (6, 7, 7), correlation of the noise, as in `FittedNoise`.
        quality: quality of its JPEG coding, the coarser one if it was coded twice; None: not a JPEG file.
        sampling: chroma subsampling, as for `jpeg`.
        bend: skewness and its weight, the result of `bend_of`.
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
    """Estimates the skewness of a photo's noise: its third moment, by that of Gaussian noise after sRGB's tone curve.

    Returns:
        The ratio, by weighted least squares over the flat blocks, and its weight, the inverse squared standard error;
        (0, 0) if it is unknown.
    """
    variance = flat.residual.square().mean((2, 3))  # (K, C)
    third = flat.residual.pow(3).mean((2, 3))  # third moment
    deviation = variance.sqrt()
    expected = 6 * tone_bend(flat.brightness, SRGB_GAMMA) * variance.square()
    # blocks above the toe, without the skewness of clipping or of rounding to 8 bits
    usable = (
        (flat.brightness - 3 * deviation > DARKEST) & (flat.brightness + 3 * deviation < 1) & (deviation > NOISE_FREE)
    )
    precision = usable * BLOCK**2 / (15 * variance.clamp(min=1e-12) ** 3)  # 15 v**3 is the variance of cubed noise
    weight = float((precision * expected.square()).sum())
    return (float((precision * third * expected).sum()) / weight, weight) if weight > 0 else (0.0, 0.0)


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
    """Fits `curve**2 = shot * b + read**2` at the observed brightnesses; returns shot, read, largest relative error."""
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


@dataclass(frozen=True)
class Coding:
    """JPEG coding of most of the photos."""

    quality: int
    sampling: int  # chroma subsampling, as for `jpeg`


def calibrated(
    photos: Sequence[PhotoStatistics],
    curve: np.ndarray,
    level: np.ndarray,
    correlation: np.ndarray,
    coding: Coding | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Estimates the noise before coding by simulation on flat photos.

    This also corrects the bias from selecting the flattest blocks, which exists for correlated noise.

    Args:
        photos: measurements of the photos.
        curve, level: result of `fit_curve` for these.
        correlation: (6, 7, 7), of the noise in the files.
        coding: JPEG coding of the photos; None: they are not JPEG files.

    Returns:
        Curve (3, 10), levels (photos,), correlation (6, 7, 7), and the share of the luma noise's amplitude that coding
        leaves.
    """
    # 1. invert JPEG coding for the median deviation over brightnesses
    deviation = np.median(curve, axis=1)  # (3,)
    share = 1.0
    if coding is not None:
        deviation, correlation, share = _before_coding(deviation, correlation, coding)
    # 2. measure simulated flat photos, and correct curve and correlation; without coding, in a fixed-point iteration
    target = correlation
    for _ in range(CALIBRATION_ROUNDS):
        simulated, measured = _simulated_measurements(deviation, correlation, coding)
        curve, level, _ = fit_curve(
            [replace(photo, log_deviation=_uncoded(photo.log_deviation, deviation, simulated)) for photo in photos]
        )
        if coding is not None:
            break
        correlation = unit_correlation((correlation + target - measured).clip(-1, 1))
        deviation = np.median(curve, axis=1)
    return curve, level, correlation, share


def _before_coding(
    deviation: np.ndarray, correlation: np.ndarray, coding: Coding
) -> tuple[np.ndarray, np.ndarray, float]:
    """Inverts JPEG coding of noise.

    Returns:
        Deviation (3,) and correlation (6, 7, 7) before coding, and the share of the luma noise's amplitude that coding
        leaves.
    """
    observed = Covariance.of(deviation, correlation)
    guess = coded = first_guess(observed)
    for _ in range(CODING_ROUNDS):
        flat = _simulated(guess.deviation, guess.correlation, coding)
        coded = Covariance.of(_median_deviation(flat), unit_correlation(color_pairs(flat)))
        guess = corrected(guess, coded, observed)
    share = float(np.sqrt(observed.ycc[0, 0].clip(0) / max(guess.ycc[0, 0], 1e-12)))
    return guess.deviation, unit_correlation(guess.correlation), share


def _simulated(deviation: np.ndarray, correlation: np.ndarray, coding: Coding | None, level: float = 1) -> FlatBlocks:
    """Simulates a gray photo with noise of `level * deviation`, and codes it; returns its flat blocks."""
    side = CALIBRATION_SIDE + KERNEL - 1
    white = torch.randn(1, 3, side, side, generator=generator_for(0, "fit"))
    kernels = correlation_kernels(expand_pairs(nested(correlation)))
    noise = torch.tensor(deviation, dtype=torch.float32)[:, None, None] * F.conv2d(white, kernels)[0]
    photo = 0.5 + level * noise
    return FlatBlocks.of(photo if coding is None else jpeg(photo, coding.quality, 0, 0, coding.sampling))


def _simulated_measurements(
    deviation: np.ndarray, correlation: np.ndarray, coding: Coding | None
) -> tuple[np.ndarray, np.ndarray]:
    """Measures simulated flat photos with `CALIBRATION_LEVELS` times a deviation (3,).

    Returns:
        Measured deviations (levels, 3), and the correlation at levels near 1.
    """
    if coding is None:  # measured deviations are proportional to the levels
        flat = _simulated(deviation, correlation, None)
        return np.outer(CALIBRATION_LEVELS, _median_deviation(flat)), color_pairs(flat)
    by_level = {level: _simulated(deviation, correlation, coding, level) for level in CALIBRATION_LEVELS}
    deviations = [_median_deviation(flat) for flat in by_level.values()]
    correlations = [color_pairs(flat) for level, flat in by_level.items() if 0.7 <= level <= 1.5]
    return np.maximum.accumulate(deviations, 0), np.mean(correlations, axis=0)  # deviations that never decrease


def _median_deviation(flat: FlatBlocks) -> np.ndarray:
    """Returns the median standard deviation (3,) of the noise in flat blocks."""
    return np.median(flat.variance.sqrt().numpy(), axis=0)


def _uncoded(log_deviation: np.ndarray, deviation: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """Converts measured log deviations (K, 3) to those before coding.

    Args:
        log_deviation: (K, 3), measured after coding.
        deviation: (3,), deviation before coding at level 1.
        simulated: (levels, 3), deviations measured after coding at `CALIBRATION_LEVELS`.
    """
    result = np.empty_like(log_deviation)
    for c in range(3):
        before = np.log(np.array(CALIBRATION_LEVELS) * deviation[c])
        # strictly increasing, even if coding removes weak noise entirely
        after = np.log(simulated[:, c].clip(NOISE_FREE / 10)) + 1e-6 * np.arange(len(simulated))
        result[:, c] = np.interp(log_deviation[:, c], after, before)
    return result


def color_pairs(flat: FlatBlocks) -> np.ndarray:
    """Returns the correlation (6, 7, 7) of flat blocks, as in `FittedNoise`."""
    return np.stack([flat.correlation[a, b].numpy() for a, b in COLOR_PAIRS])


def nested(correlation: np.ndarray) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Converts a correlation to nested tuples of numbers with three decimals."""
    return tuple(tuple(tuple(round(float(v), 3) for v in row) for row in square) for square in correlation)
