"""Estimation of the noise before JPEG coding, by coding simulated noise.

JPEG quantizes chroma more coarsely than luma, and most files store it at half the resolution. The covariance of the
noise is therefore estimated for Y, Cb and Cr (ITU-R BT.601, as in JPEG): noise with covariance K is coded on flat
photos, and K is changed until the noise after coding equals that of the photos. K is at first that of noise which is
independent between red, green and blue; if coding removes the chroma noise, the correlations between Y, Cb and Cr stay
as they were. Since coded chroma lacks fine detail, the correlation between neighbors is that of luma for all colors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..draws import generator_for
from ..fitted import COLOR_PAIRS, KERNEL, correlation_kernels, expand_pairs
from ..jpeg_coding import jpeg
from .noise_curve import NOISE_FREE, PhotoStatistics, color_pairs, fit_curve, nested, unit_correlation
from .photo_noise import FlatBlocks

TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
TO_RGB = np.linalg.inv(TO_YCC)
CODING_ROUNDS = 6  # fixed-point iterations with JPEG coding
UNCODED_ROUNDS = 3  # fixed-point iterations without JPEG coding
SIMULATED_LEVELS = tuple(float(x) for x in np.geomspace(0.125, 8, 13))  # simulated multiples of the noise
SIMULATED_SIDE = 256  # side of the simulated photos in pixels
FAINT = (0.5 / 255) ** 2  # variance below which coded chroma noise carries no information
KNOWN_CHROMA = 0.3  # Cb and Cr are estimated separately if coding leaves more than this share of their smaller variance
LARGEST_STEP = 4.0  # largest factor of a variance in one round
MAX_CORRELATION = 0.95  # largest absolute correlation between Y, Cb and Cr in the iteration


@dataclass(frozen=True)
class Covariance:
    """Covariance of noise in color photos.

    Attributes:
        ycc: (3, 3), covariance of Y, Cb and Cr in one pixel.
        neighbors: (n, n), correlation of luma with that of the pixel at each offset from the center.
    """

    ycc: np.ndarray
    neighbors: np.ndarray

    @classmethod
    def of(cls, deviation: np.ndarray, correlation: np.ndarray) -> "Covariance":
        """Computes the covariance from a standard deviation (3,) and a correlation (6, n, n) as in `FittedNoise`."""
        full = np.zeros((3, 3, *correlation.shape[1:]))
        for (a, b), square in zip(COLOR_PAIRS, correlation, strict=True):
            full[a, b] = square * deviation[a] * deviation[b]
            full[b, a] = full[a, b][::-1, ::-1]
        half = correlation.shape[-1] // 2
        luma = np.einsum("a,abij,b->ij", TO_YCC[0], full, TO_YCC[0])
        return cls(TO_YCC @ full[..., half, half] @ TO_YCC.T, luma / max(luma[half, half], 1e-12))

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviations (3,) of red, green and blue."""
        return np.sqrt(np.diag(TO_RGB @ self.ycc @ TO_RGB.T).clip(1e-12))

    @property
    def correlation(self) -> np.ndarray:
        """Correlation (6, n, n), as in `FittedNoise`."""
        rgb, deviation = TO_RGB @ self.ycc @ TO_RGB.T, self.deviation
        pairs = [rgb[a, b] / (deviation[a] * deviation[b]) for a, b in COLOR_PAIRS]
        return (np.array(pairs)[:, None, None] * self.neighbors).clip(-1, 1)

    @property
    def ycc_correlation(self) -> np.ndarray:
        """Correlation (3, 3) of Y, Cb and Cr in one pixel."""
        deviation = np.sqrt(np.diag(self.ycc).clip(1e-12))
        return (self.ycc / np.outer(deviation, deviation)).clip(-1, 1)


@dataclass(frozen=True)
class Coding:
    """JPEG coding that the simulation assumes for all photos: their median quality and most frequent subsampling."""

    quality: int
    sampling: int  # chroma subsampling, as for `jpeg`


def calibrated(
    photos: Sequence[PhotoStatistics], curve: np.ndarray, correlation: np.ndarray, coding: Coding | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Estimates the noise before coding by simulation on flat photos.

    This also corrects the bias from selecting the flattest blocks, which exists for correlated noise.

    Args:
        photos: measurements of the photos.
        curve: (3, 10), result of `fit_curve` for these.
        correlation: (6, 7, 7), of the noise in the files.
        coding: JPEG coding of the photos; None: they are not JPEG files.

    Returns:
        Curve (3, 10), levels (photos,), correlation (6, 7, 7), and the share of the luma noise's amplitude that coding
        leaves.
    """
    deviation = np.median(curve, axis=1)  # (3,)
    if coding is not None:
        deviation, correlation, share = _before_coding(deviation, correlation, coding)
        by_level = [_median_deviation(_simulated(deviation, correlation, coding, level)) for level in SIMULATED_LEVELS]
        measured = np.array(by_level)  # (levels, 3)
        curve, level, _ = fit_curve([_corrected_photo(photo, deviation, measured) for photo in photos])
        return curve, level, correlation, share
    target = correlation
    for _ in range(UNCODED_ROUNDS):
        flat = _simulated(deviation, correlation, None)
        # without coding, measured deviations are proportional to the levels
        measured = np.outer(SIMULATED_LEVELS, _median_deviation(flat))
        curve, level, _ = fit_curve([_corrected_photo(photo, deviation, measured) for photo in photos])
        deviation = np.median(curve, axis=1)
        correlation = unit_correlation((correlation + target - color_pairs(flat)).clip(-1, 1))
    return curve, level, correlation, 1.0


def _before_coding(
    deviation: np.ndarray, correlation: np.ndarray, coding: Coding
) -> tuple[np.ndarray, np.ndarray, float]:
    """Inverts JPEG coding of noise.

    Returns:
        Deviation (3,) and correlation (6, 7, 7) before coding, and the share of the luma noise's amplitude that coding
        leaves.
    """
    observed = Covariance.of(deviation, correlation)
    # first guess: noise with independent colors, and with the observed luma variance and correlation
    independent = TO_YCC @ TO_YCC.T
    guess = Covariance(independent * (observed.ycc[0, 0] / independent[0, 0]), observed.neighbors)
    for _ in range(CODING_ROUNDS):
        flat = _simulated(guess.deviation, guess.correlation, coding)
        coded = Covariance.of(_median_deviation(flat), unit_correlation(color_pairs(flat)))
        guess = _corrected(guess, coded, observed)
    share = float(np.sqrt(observed.ycc[0, 0].clip(0) / max(guess.ycc[0, 0], 1e-12)))
    return guess.deviation, unit_correlation(guess.correlation), share


def _corrected(guess: Covariance, coded: Covariance, observed: Covariance) -> Covariance:
    """Corrects `guess`, whose noise after coding is `coded`, by a step of the fixed-point iteration.

    Args:
        guess: covariance before coding.
        coded: covariance of this noise after coding.
        observed: target of `coded`, the covariance in the photos.
    """
    before, after, target = (np.diag(c.ycc).clip(0) for c in (guess, coded, observed))  # variances of Y, Cb, Cr
    faint = np.array([1e-12, FAINT, FAINT])  # the ratio tends to 1 where coded chroma noise is faint
    ratio = (target + faint) / (after + faint)
    correlation = guess.ycc_correlation
    if after[1:].min() > KNOWN_CHROMA * before[1:].min():
        correlation = correlation + observed.ycc_correlation - coded.ycc_correlation
        correlation = np.clip(correlation, -MAX_CORRELATION, MAX_CORRELATION)
        np.fill_diagonal(correlation, 1)
    else:
        # one factor for Cb and Cr, their geometric mean, damped by another square root: the variance after coding
        # changes faster than that before
        ratio[1:] = np.sqrt(np.sqrt(ratio[1:].prod()))
    variance = before * ratio.clip(1 / LARGEST_STEP, LARGEST_STEP)
    # the nearest covariance: negative eigenvalues are set to zero
    values, vectors = np.linalg.eigh(correlation * np.sqrt(np.outer(variance, variance)))
    neighbors = (guess.neighbors + observed.neighbors - coded.neighbors).clip(-1, 1)
    neighbors[neighbors.shape[0] // 2, neighbors.shape[1] // 2] = 1
    return Covariance((vectors * values.clip(0)) @ vectors.T, (neighbors + neighbors[::-1, ::-1]) / 2)


def _simulated(deviation: np.ndarray, correlation: np.ndarray, coding: Coding | None, level: float = 1) -> FlatBlocks:
    """Simulates a gray photo with noise of `level * deviation`, and codes it; returns its flat blocks."""
    side = SIMULATED_SIDE + KERNEL - 1
    white = torch.randn(1, 3, side, side, generator=generator_for(0, "fit"))
    kernels = correlation_kernels(expand_pairs(nested(correlation)))  # rounded as in `FittedNoise`
    noise = torch.tensor(deviation, dtype=torch.float32)[:, None, None] * F.conv2d(white, kernels)[0]
    photo = 0.5 + level * noise
    return FlatBlocks.of(photo if coding is None else jpeg(photo, coding.quality, 0, 0, coding.sampling))


def _median_deviation(flat: FlatBlocks) -> np.ndarray:
    """Returns the median standard deviation (3,) of the noise in flat blocks."""
    return np.median(flat.variance.sqrt().numpy(), axis=0)


def _corrected_photo(photo: PhotoStatistics, deviation: np.ndarray, measured: np.ndarray) -> PhotoStatistics:
    """Replaces the deviations measured in a photo by those of simulated noise in which the same are measured.

    Args:
        photo: measurements of the photo.
        deviation: (3,), deviation of simulated noise at level 1.
        measured: (levels, 3), deviations measured in simulated photos with the `SIMULATED_LEVELS` of this noise.
    """
    increasing = np.maximum.accumulate(measured, 0)
    log_deviation = np.empty_like(photo.log_deviation)
    for c in range(3):
        before = np.log(np.array(SIMULATED_LEVELS) * deviation[c])
        # strictly increasing, even if coding removes weak noise entirely
        after = np.log(increasing[:, c].clip(NOISE_FREE / 10)) + 1e-6 * np.arange(len(increasing))
        log_deviation[:, c] = np.interp(photo.log_deviation[:, c], after, before)
    return replace(photo, log_deviation=log_deviation)
