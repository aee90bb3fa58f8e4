"""Noise curve of a set of photos: fit to their flat blocks, a level per photo, and inversion of JPEG coding."""

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

BRIGHTNESS = tuple(round(0.05 + 0.1 * k, 2) for k in range(10))
NOISE_FREE = 0.5 / 255  # rounding to 8 bits alone makes 0.29
DARKEST = 0.04  # end of the linear toe of sRGB's tone curve
ROUNDS = 8  # alternations between curve and photo levels
CALIBRATION_ROUNDS = 3
CALIBRATION_LEVELS = tuple(float(x) for x in np.geomspace(0.125, 8, 13))
CALIBRATION_SIDE = 256


@dataclass(frozen=True)
class PhotoStatistics:
    """Measurements of one photo: (K, 3) brightness and log deviation of its flat blocks, (6, 7, 7) correlation,
    the `bend_of` its noise with its weight, its JPEG coding (None: another file), the signs of its suitability, whether
    JPEG coded it twice (`quality` is then the coarser one's), and its lossy codec other than JPEG."""

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
    """Of `s_i v(b)` the curve v (3, 10) of the median photo, levels s (photos,), and blocks a brightness (3, 10)."""
    photo = np.concatenate([np.full(len(one.brightness), i) for i, one in enumerate(photos)])
    weight = np.concatenate(
        [np.full(len(one.brightness), 1 / len(one.brightness)) for one in photos]
    )  # photos have equal weights
    brightness = np.concatenate([one.brightness for one in photos])  # (blocks, 3)
    log_deviation = np.concatenate([one.log_deviation for one in photos])
    knot = np.abs(brightness[..., None] - np.array(BRIGHTNESS)).argmin(-1)  # (blocks, 3)
    observed = np.stack([np.bincount(knot[:, c], minlength=len(BRIGHTNESS)) for c in range(3)])
    level = np.array([np.median(one.log_deviation) for one in photos])
    # alternating medians of log d = log s_i + log v(b)
    curve = np.zeros_like(observed, dtype=float)
    for _ in range(ROUNDS):
        for c in range(3):  # the curve v, given the levels
            known = np.flatnonzero(observed[c])
            values = [
                _weighted_median((log_deviation[:, c] - level[photo])[knot[:, c] == k], weight[knot[:, c] == k])
                for k in known
            ]
            curve[c] = np.interp(np.arange(len(BRIGHTNESS)), known, _without_spikes(values))
        left = log_deviation - np.take_along_axis(curve.T, knot, 0)  # (blocks, 3)
        # the levels s, given the curve
        level = np.array([np.median(left[photo == i]) for i in range(len(photos))])
    # normalized to the median photo
    middle_level = np.median(level)
    return np.exp(curve + middle_level), np.exp(level - middle_level), observed


def bend_of(flat: FlatBlocks) -> tuple[float, float]:
    """Third moment of a photo's noise over that of noise which the tone curve of sRGB bends, by weighted least squares
    over its flat blocks, and its weight, one over the squared standard error; (0, 0) where it is unknown."""
    variance = flat.residual.square().mean((2, 3))  # (K, C)
    third = flat.residual.pow(3).mean((2, 3))
    deviation = variance.sqrt()
    expected = 6 * tone_bend(flat.brightness, SRGB_GAMMA) * variance.square()
    # above the toe; clipping, and rounding to 8 bits, have a skewness of their own
    usable = (
        (flat.brightness - 3 * deviation > DARKEST) & (flat.brightness + 3 * deviation < 1) & (deviation > NOISE_FREE)
    )
    precision = usable * BLOCK**2 / (15 * variance.clamp(min=1e-12) ** 3)  # 15 v**3 is the variance of cubed noise
    weight = float((precision * expected.square()).sum())
    return (float((precision * third * expected).sum()) / weight, weight) if weight > 0 else (0.0, 0.0)


def fit_bend(photos: Sequence[PhotoStatistics]) -> float:
    """The weighted median of photos' `bend`."""
    bend, weight = np.array([one.bend for one in photos]).T
    return _weighted_median(bend, weight)


def _without_spikes(values: Sequence[float]) -> np.ndarray:
    """Medians of three neighbors: a single outlier, such as texture at one brightness, is removed; slopes stay."""
    padded = np.pad(values, 1, mode="edge")
    return np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = values.argsort()
    passed = weights[order].cumsum()
    return float(values[order][np.searchsorted(passed, passed[-1] / 2)])


def unit_correlation(correlation: np.ndarray) -> np.ndarray:
    """(6, n, n) symmetric where it must be, and exactly 1 in the middle of the first three."""
    half = correlation.shape[-1] // 2
    correlation = correlation.copy()
    correlation[:3] = (correlation[:3] + correlation[:3, ::-1, ::-1]) / 2
    correlation[:3] /= correlation[:3, half, half][:, None, None]
    return correlation.clip(-1, 1)


def fit_poisson(curve: np.ndarray, observed: np.ndarray) -> tuple[float, float, float]:
    """Shot, read and largest relative error of `curve**2 = shot * b + read**2` where it was observed."""
    known = observed > 0
    b, variance = np.array(BRIGHTNESS)[known], curve[known] ** 2
    shot, offset = 0.0, float(np.exp(np.log(variance).mean()))
    if known.sum() >= 3:
        rows = np.stack([b, np.ones_like(b)], 1) / variance[:, None]  # least squares of relative errors
        fitted = np.linalg.lstsq(rows, np.ones_like(b), rcond=None)[0]
        if (fitted >= 0).all():
            shot, offset = (float(v) for v in fitted)
    error = np.abs(np.sqrt((shot * b + offset) / variance) - 1).max()
    return shot, offset**0.5, float(error)


@dataclass(frozen=True)
class Coding:
    """How most of the photos were JPEG-coded."""

    quality: int
    sampling: int  # of the colors, as for `jpeg`


def calibrated(
    photos: Sequence[PhotoStatistics],
    curve: np.ndarray,
    level: np.ndarray,
    correlation: np.ndarray,
    coding: Coding | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Curve, levels and correlation of the noise before coding, by simulation on flat photos.

    It also corrects the bias that selecting the flattest blocks has for correlated noise.

    Returns:
        Curve (3, 10), levels (photos,), correlation (6, 7, 7), and the share of the amplitude of the brightness of
        noise that coding has left.
    """
    # 1. invert JPEG coding for noise of the median brightness
    deviation = np.median(curve, axis=1)  # (3,)
    share = 1.0
    if coding is not None:
        deviation, correlation, share = _before_coding(deviation, correlation, coding)
    # 2. fixed-point iteration: simulate flat photos, correct curve and correlation by what they show
    target = correlation
    for _ in range(CALIBRATION_ROUNDS):
        left, measured = _simulated_measurements(deviation, correlation, coding)
        curve, level, _ = fit_curve(
            [replace(one, log_deviation=_inverted(one.log_deviation, deviation, left)) for one in photos]
        )
        if coding is not None:
            break
        correlation = unit_correlation((correlation + target - measured).clip(-1, 1))
        deviation = np.median(curve, axis=1)
    return curve, level, correlation, share


def _before_coding(
    deviation: np.ndarray, correlation: np.ndarray, coding: Coding
) -> tuple[np.ndarray, np.ndarray, float]:
    """Deviation (3,) and correlation (6, 7, 7) of noise of which coding leaves these, and the share of it that is left
    in brightness."""
    observed = Covariance.of(deviation, correlation)
    guess = coded = first_guess(observed)
    for _ in range(CODING_ROUNDS):
        flat = _simulated(guess.deviation, guess.correlation, coding)
        coded = Covariance.of(_middle(flat), unit_correlation(color_pairs(flat)))
        guess = corrected(guess, coded, observed)
    share = float(np.sqrt(observed.ycc[0, 0].clip(0) / max(guess.ycc[0, 0], 1e-12)))
    return guess.deviation, unit_correlation(guess.correlation), share


def _simulated(deviation: np.ndarray, correlation: np.ndarray, coding: Coding | None, level: float = 1) -> FlatBlocks:
    """The blocks of a flat photo with such noise, `level` times as strong, after coding."""
    side = CALIBRATION_SIDE + KERNEL - 1
    white = torch.randn(1, 3, side, side, generator=generator_for(0, "fit"))
    kernels = correlation_kernels(expand_pairs(nested(correlation)))
    noise = torch.tensor(deviation, dtype=torch.float32)[:, None, None] * F.conv2d(white, kernels)[0]
    photo = 0.5 + level * noise
    return FlatBlocks.of(photo if coding is None else jpeg(photo, coding.quality, 0, 0, coding.sampling))


def _simulated_measurements(
    deviation: np.ndarray, correlation: np.ndarray, coding: Coding | None
) -> tuple[np.ndarray, np.ndarray]:
    """Measurements of flat photos with `CALIBRATION_LEVELS` times a deviation (3,): deviations (levels, 3), and
    correlation."""
    if coding is None:  # everything is proportional
        flat = _simulated(deviation, correlation, None)
        return np.outer(CALIBRATION_LEVELS, _middle(flat)), color_pairs(flat)
    shown = {level: _simulated(deviation, correlation, coding, level) for level in CALIBRATION_LEVELS}
    near = [color_pairs(flat) for level, flat in shown.items() if 0.7 <= level <= 1.5]
    return np.maximum.accumulate([_middle(flat) for flat in shown.values()], 0), np.mean(near, axis=0)


def _middle(flat: FlatBlocks) -> np.ndarray:
    """Deviation (3,) of the median block."""
    return np.median(flat.variance.sqrt().numpy(), axis=0)


def _inverted(log_deviation: np.ndarray, deviation: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Log deviation (K, 3) of noise of which `log_deviation` is left, given what is left of levels of a deviation."""
    result = np.empty_like(log_deviation)
    for c in range(3):
        # rising, also where coding leaves nothing of weak noise
        shown = np.log(left[:, c].clip(NOISE_FREE / 10)) + 1e-6 * np.arange(len(left))
        result[:, c] = np.interp(log_deviation[:, c], shown, np.log(np.array(CALIBRATION_LEVELS) * deviation[c]))
    return result


def color_pairs(flat: FlatBlocks) -> np.ndarray:
    """(6, 7, 7), as `FittedNoise.correlation`."""
    return np.stack([flat.correlation[a, b].numpy() for a, b in COLOR_PAIRS])


def nested(correlation: np.ndarray) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """As plain numbers of three decimals."""
    return tuple(tuple(tuple(round(float(v), 3) for v in row) for row in square) for square in correlation)
