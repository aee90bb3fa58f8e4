"""Estimation of the noise before JPEG coding from the coded noise, by simulation in Y, Cb and Cr.

JPEG preserves brightness best; color differences are quantized more coarsely, and most files store them at half the
resolution. The covariance of the noise is therefore estimated for Y, Cb and Cr (ITU-R BT.601, as in JPEG): noise of a
covariance K is coded on flat photos, and K is changed until the noise after coding equals that of the photos. If coding
removes the color differences, they carry no information, and the colors are assumed to be independent. Since stored
color differences lack fine detail, the correlation between neighbors is taken from the brightness for all colors.
"""

from dataclasses import dataclass

import numpy as np

from ..fitted import COLOR_PAIRS

TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
TO_RGB = np.linalg.inv(TO_YCC)
CODING_ROUNDS = 6  # fixed-point iterations
FAINT = (0.5 / 255) ** 2  # variance below which the coded noise of a color difference carries no information
KNOWN_COLORS = 0.3  # least share of the variance after coding for which color differences are estimated separately
LARGEST_STEP = 4.0  # largest factor of a variance in one round
KNOWN_SHARE = 0.6  # least share of the brightness amplitude after coding for which its level is known


@dataclass(frozen=True)
class Covariance:
    """Covariance of colored noise.

    Attributes:
        ycc: (3, 3), covariance of Y, Cb and Cr in one pixel.
        neighbors: (n, n), correlation of the brightness with that of the pixel at each offset from the center.
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
        brightness = np.einsum("a,abij,b->ij", TO_YCC[0], full, TO_YCC[0])
        return cls(TO_YCC @ full[..., half, half] @ TO_YCC.T, brightness / max(brightness[half, half], 1e-12))

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


def first_guess(observed: Covariance) -> Covariance:
    """Returns the covariance of noise with independent colors and the observed brightness."""
    independent = TO_YCC @ TO_YCC.T
    return Covariance(independent * (observed.ycc[0, 0] / independent[0, 0]), observed.neighbors)


def corrected(guess: Covariance, coded: Covariance, observed: Covariance) -> Covariance:
    """Takes a step of the fixed-point iteration: corrects `guess`, whose noise after coding is `coded`.

    Args:
        guess: covariance before coding.
        coded: covariance of this noise after coding.
        observed: covariance after coding to be reached.
    """
    # variances of Y, Cb, Cr: multiplied by wanted / left, at first with one factor for both color differences
    before, left, wanted = (np.diag(one.ycc).clip(0) for one in (guess, coded, observed))
    faint = np.array([1e-12, FAINT, FAINT])
    ratio = (wanted + faint) / (left + faint)
    # damped: the variance after coding changes faster than that before
    ratio[1:] = np.sqrt(ratio[1:].prod()) ** 0.5
    variance = before * ratio.clip(1 / LARGEST_STEP, LARGEST_STEP)
    # correlations, and color differences separately, once enough of their variance is left
    share = _correlation(guess.ycc)
    if left[1:].min() > KNOWN_COLORS * before[1:].min():
        share = np.clip(share + _correlation(observed.ycc) - _correlation(coded.ycc), -0.95, 0.95)
        np.fill_diagonal(share, 1)
        variance[1:] = before[1:] * ((wanted + faint) / (left + faint))[1:].clip(1 / LARGEST_STEP, LARGEST_STEP)
    # the nearest covariance: negative eigenvalues are set to zero
    values, vectors = np.linalg.eigh(share * np.sqrt(np.outer(variance, variance)))
    neighbors = (guess.neighbors + observed.neighbors - coded.neighbors).clip(-1, 1)
    neighbors[neighbors.shape[0] // 2, neighbors.shape[1] // 2] = 1
    return Covariance((vectors * values.clip(0)) @ vectors.T, (neighbors + neighbors[::-1, ::-1]) / 2)


def _correlation(covariance: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(np.diag(covariance).clip(1e-12))
    return (covariance / np.outer(deviation, deviation)).clip(-1, 1)
