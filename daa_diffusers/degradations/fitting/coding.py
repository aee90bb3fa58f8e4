"""Steps of the estimation of noise before JPEG coding; `noise_curve` runs the simulation and the iteration.

JPEG quantizes chroma more coarsely than luma, and most files store it at half the resolution. The covariance of the
noise is therefore estimated for Y, Cb and Cr (ITU-R BT.601, as in JPEG): noise with covariance K is coded on flat
photos, and K is changed until the noise after coding equals that of the photos. If coding removes the chroma noise, the
noise is assumed to be independent between red, green and blue. Since coded chroma lacks fine detail, the correlation
between neighbors is taken from luma for all colors.
"""

from dataclasses import dataclass

import numpy as np

from ..fitted import COLOR_PAIRS

TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
TO_RGB = np.linalg.inv(TO_YCC)
CODING_ROUNDS = 6  # fixed-point iterations
FAINT = (0.5 / 255) ** 2  # variance below which coded chroma noise carries no information
KNOWN_CHROMA = 0.3  # Cb and Cr are estimated separately if coding leaves at least this share of their variance
LARGEST_STEP = 4.0  # largest factor of a variance in one round
KNOWN_SHARE = 0.6  # the noise level can be estimated if coding leaves at least this share of the luma amplitude
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


def first_guess(observed: Covariance) -> Covariance:
    """Returns the covariance of noise with independent colors and the observed luma variance and correlation."""
    independent = TO_YCC @ TO_YCC.T
    return Covariance(independent * (observed.ycc[0, 0] / independent[0, 0]), observed.neighbors)


def corrected(guess: Covariance, coded: Covariance, observed: Covariance) -> Covariance:
    """Corrects `guess`, whose noise after coding is `coded`, by a step of the fixed-point iteration.

    Args:
        guess: covariance before coding.
        coded: covariance of this noise after coding.
        observed: target of `coded`, the covariance in the photos.
    """
    before, after, target = (np.diag(c.ycc).clip(0) for c in (guess, coded, observed))  # variances of Y, Cb, Cr
    faint = np.array([1e-12, FAINT, FAINT])  # the ratio tends to 1 where coded chroma noise is faint
    ratio = (target + faint) / (after + faint)
    correlation = _correlation(guess.ycc)
    if after[1:].min() > KNOWN_CHROMA * before[1:].min():
        correlation = correlation + _correlation(observed.ycc) - _correlation(coded.ycc)
        correlation = np.clip(correlation, -MAX_CORRELATION, MAX_CORRELATION)
        np.fill_diagonal(correlation, 1)
    else:
        # one factor for Cb and Cr, damped by a square root: the variance after coding changes faster than that before
        ratio[1:] = np.sqrt(ratio[1:].prod()) ** 0.5
    variance = before * ratio.clip(1 / LARGEST_STEP, LARGEST_STEP)
    # the nearest covariance: negative eigenvalues are set to zero
    values, vectors = np.linalg.eigh(correlation * np.sqrt(np.outer(variance, variance)))
    neighbors = (guess.neighbors + observed.neighbors - coded.neighbors).clip(-1, 1)
    neighbors[neighbors.shape[0] // 2, neighbors.shape[1] // 2] = 1
    return Covariance((vectors * values.clip(0)) @ vectors.T, (neighbors + neighbors[::-1, ::-1]) / 2)


def _correlation(covariance: np.ndarray) -> np.ndarray:
    """Normalizes a covariance matrix (3, 3) to a correlation matrix."""
    deviation = np.sqrt(np.diag(covariance).clip(1e-12))
    return (covariance / np.outer(deviation, deviation)).clip(-1, 1)
