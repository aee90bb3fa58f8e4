"""Estimation of the camera shake in photos without ground truth, as a degradation that synthesizes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import ConfigurationError
from ...photos.pixels import center_crop
from ..base import Degradation
from ..blur import MotionBlur
from ..mixture import Mixture
from .blind_psf import estimate_psf
from .profile import MIN_PHOTOS, Photos, Profile, check_side, color_crop, gray, measure_photos, sources_of

MAX_PHOTOS = 64  # largest number of photos, equally spaced in the sources
SIDE = 512  # pixels, side of the measured center crops
SMALLEST = 96  # pixels, shorter side of a usable photo
DIRECTIONS = 12  # directions of the autocorrelation, equally spaced over 180 degrees
MAX_LAG, STEP = 60, 0.25  # pixels, the longest lag of the autocorrelation and the distance between lags
WINDOW = 0.25  # power of the Hann window that fades a photo at its borders
# A photo counts as shaken if its `half_width` is at least this. It is 0.75 to 1.75 in sharp photos (BSDS and others),
# 2.75 to 5.25 in the shaken ones of Levin et al. and 2.5 to 5.75 in those of Koehler et al.
SHAKEN = 2.0
SHAKEN_PHOTOS = 0.5  # least share of shaken photos for a fit
PSF_CROP = 384  # pixels, side of the center crops whose PSF is estimated
PSF_SIDE, MOST_PSF_SIDE = 8.0, 81  # side of a PSF divided by the photo's `half_width`, and its maximum in pixels
# Largest share of the training samples that are blurred by the PSFs if not every photo was measured: a restorer that
# has seen no other shake makes photos with other shake worse (docs/adaptation.md, "Camera shake").
MOST_OF_SOME = 0.5
DEFAULT = MotionBlur()

Psf = list[tuple[int, int, float]]  # points (y, x, light) of a PSF, in pixels from its center


@dataclass(frozen=True)
class ShakeProfile(Profile):
    """Camera shake of a set of photos.

    Attributes:
        photos: number of used photos.
        shaken: number of used photos that are shaken.
        skipped: photos that cannot be used -> reason.
        psfs: estimated PSF of each shaken photo; none if too few photos are shaken.
        like: properties of the degradation that are not fitted.
        share: share of the degradation's samples that are blurred by `psfs`; the others are degraded by `like`.
    """

    photos: int
    shaken: int
    skipped: dict[str, str] = field(default_factory=dict)
    psfs: Sequence[Psf] = ()
    like: MotionBlur = DEFAULT
    share: float = 1.0

    def to_degradation(self) -> Degradation:
        """Returns blur by the estimated PSFs, mixed with `like` if `share` is below 1.

        Raises:
            ConfigurationError: the photos are not shaken.
        """
        if not self.psfs:
            raise ConfigurationError(
                f"no shake to synthesize: {self.photos - self.shaken} of {self.photos} photos have sharp edges"
            )
        # PSFs contain the defocus
        blur = replace(self.like, psfs=self.psfs, defocus=(0.0, 0.0), direction=None, varying_probability=0.0)
        return blur if self.share == 1 else Mixture([(self.share, blur), (1 - self.share, self.like)])

    def describe(self) -> str:
        """Returns a summary of the fit as text of several lines."""
        lines = [f"{self.photos} photos used, {len(self.skipped)} skipped; {self.shaken} are shaken or blurred."]
        if not self.psfs:
            return "\n".join([*lines, "No shake found that can be synthesized."])
        extents = ", ".join(f"{length:.0f} at {direction:.0f}" for length, direction in map(extent, self.psfs))
        lines.append(f"Point spread functions, extent in pixels and direction in degrees from vertical: {extents}.")
        if self.share < 1:
            lines.append(
                f"Not every photo was measured: {self.share:.0%} of the samples are blurred by these point spread "
                "functions, the others along random trajectories, so that photos with other shake do not become worse."
            )
        return "\n".join(lines)


def fit_shake(
    photos: Photos, seconds: float | None = None, like: MotionBlur = DEFAULT, share: float = 1.0
) -> ShakeProfile:
    """Estimates the camera shake of unlabeled photos: the PSF of each, by `estimate_psf` on its center crop.

    Defocus is not distinguished from shake: it blurs equally in all directions, like a trajectory with many reversals.

    Args:
        photos: one or several sources, or specs for `open_source`, such as folders; at least 3 usable photos in total.
        seconds: time limit for measuring the photos: as many as fit into it are used; None: no limit.
        like: all properties of the degradation but the blur: tone curve, highlights and noise. If not every photo is
            measured, its blur is used as well.
        share: share of the training samples that get the fitted degradation; the PSFs of some of the photos are used
            for at most `MOST_OF_SOME` of the training samples.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; the message gives the reasons.
    """

    def measure(photo: torch.Tensor, *_: object) -> Psf | None:  # without source and index
        check_side(photo, SMALLEST)
        pixels = gray(color_crop(photo, SIDE))
        width = half_width(pixels)
        return _psf(pixels, width) if width >= SHAKEN else None

    sources = sources_of(photos)
    measured, skipped = measure_photos(sources, measure, most=MAX_PHOTOS, seconds=seconds)
    psfs = [psf for psf in measured if psf]
    if len(psfs) < max(MIN_PHOTOS, SHAKEN_PHOTOS * len(measured)):
        return ShakeProfile(len(measured), len(psfs), skipped)
    is_stream = any(source.count is None for source in sources)
    all_used = not is_stream and sum(map(len, sources)) <= len(measured) + len(skipped)
    of_psfs = 1.0 if all_used else MOST_OF_SOME / max(MOST_OF_SOME, share)
    return ShakeProfile(len(measured), len(psfs), skipped, psfs, like, of_psfs)


def _psf(photo: np.ndarray, width: float) -> Psf:
    """Estimates the PSF of a gray photo (H, W) with a given `half_width`."""
    crop = center_crop(torch.from_numpy(photo)[None], PSF_CROP)[0].float()
    side = min(PSF_SIDE * width, MOST_PSF_SIDE, min(crop.shape) / 3)
    psf = estimate_psf(crop, int(side) // 2 * 2 + 1)
    center = len(psf) // 2
    return [(y - center, x - center, round(psf[y, x].item(), 4)) for y, x in psf.nonzero().tolist()]


def extent(psf: Psf) -> tuple[float, float]:
    """Returns the length in pixels of a line of light with the largest variance of a PSF, and the line's direction.

    The direction is in degrees from vertical (0 to 180); it leans to the right at the top.
    """
    y, x, light = np.array(psf).T
    variances, axes = np.linalg.eigh(np.cov(y, x, aweights=light, ddof=0))  # ascending
    down, right = axes[:, 1]
    return math.sqrt(12 * variances[1]), math.degrees(math.atan2(right, -down)) % 180


def half_width(photo: np.ndarray) -> float:
    """Measures the blur of a gray photo (H, W).

    Returns:
        Lag in pixels at which the autocorrelation of the photo's derivative falls to a half, the largest over all
        directions.

    At an edge, the derivative along a direction is proportional to the PSF's projection on the edge's normal. A line of
    length L in this direction is projected to L cos(a), and a lag l to l cos(a): the autocorrelation falls to a half at
    l = L / 2, whatever the angle a between the direction and the normal.
    """
    # 1. correlations of the derivatives down and right at lags up to MAX_LAG in both directions
    window = np.outer(np.hanning(photo.shape[0]), np.hanning(photo.shape[1])) ** WINDOW
    size = [side + MAX_LAG + 1 for side in photo.shape]  # zero padding: not circular
    down, right = (np.fft.rfft2(derivative * window, size) for derivative in np.gradient(photo - photo.mean()))
    spectra = np.stack([abs(down) ** 2, abs(right) ** 2, (down * right.conj()).real])
    centered = np.roll(np.fft.irfft2(spectra, size), (MAX_LAG, MAX_LAG), (1, 2))  # lag (0, 0) at (MAX_LAG, MAX_LAG)
    correlations = torch.from_numpy(centered[:, : 2 * MAX_LAG + 1, : 2 * MAX_LAG + 1].copy())
    # 2. autocorrelation of the derivative along each direction, in radians from vertical
    angles = torch.arange(DIRECTIONS, dtype=torch.float64)[:, None] * math.pi / DIRECTIONS
    y, x = -angles.cos(), angles.sin()  # (directions, 1)
    lag = torch.arange(0, MAX_LAG, STEP, dtype=torch.float64)
    grid = torch.stack([lag * x, lag * y], dim=-1)[None] / MAX_LAG  # (1, directions, lags, 2)
    yy, xx, yx = F.grid_sample(correlations[None], grid, align_corners=True)[0]  # (directions, lags)
    along = y**2 * yy + x**2 * xx + 2 * x * y * yx
    # 3. half widths
    below = along < along[:, :1] / 2
    return STEP * torch.where(below.any(1), below.int().argmax(1), len(lag)).max().item()
