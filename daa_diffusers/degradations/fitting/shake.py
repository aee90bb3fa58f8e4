"""Estimation of the camera shake in photos without ground truth, as a degradation that synthesizes it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import ConfigurationError
from ...photos.pixels import center_crop
from ..blur import MAX_LENGTH, MotionBlur
from ..draws import generator_for
from .blind_psf import estimate_psf
from .profile import MIN_PHOTOS, Photos, Profile, check_side, color_crop, measure_photos, sources_of
from .rain import gray

MAX_PHOTOS = 64  # largest number of photos, equally spaced in the sources
SIDE = 512  # pixels, side of the measured center crops
SMALLEST = 96  # pixels, shorter side of a usable photo
DIRECTIONS = 12  # directions of the autocorrelation, equally spaced over 180 degrees
MAX_LAG, STEP = 60, 0.25  # pixels, the longest lag of the autocorrelation and the distance between lags
WINDOW = 0.25  # power of the Hann window that fades a photo at its borders
# A photo counts as shaken if its `ShakeMeasurement.longest` is at least this. It is 0.75 to 1.75 in sharp photos (BSDS
# and others), 2.75 to 5.25 in the shaken ones of Levin et al. and 2.5 to 5.75 in those of Koehler et al.
SHAKEN = 2.0
SHAKEN_PHOTOS = 0.5  # least share of shaken photos for a fit
IMAGES, DISKS, SMALLEST_DISK = 6, 500, 8.0  # sharp synthetic images, disks in each, smallest radius in pixels
LONGEST_TRAJECTORY = 150.0  # pixels, largest length that is tried
ROUNDS, AVERAGED_ROUNDS = 6, 3  # rounds of synthesis and comparison, and number of last rounds that are averaged
PSF_CROP = 384  # pixels, side of the center crops whose PSF is estimated
PSF_SIDE, MOST_PSF_SIDE = 8.0, 81  # side of a PSF divided by `ShakeMeasurement.longest`, and its maximum in pixels
DEFAULT = MotionBlur()
COMMON = 0.8  # smallest length of the mean of exp(2i direction) over photos with a common direction
# Kinds of shake, as fields of `MotionBlur`: the camera drifts in one direction, or the hand trembles.
KINDS: dict[str, dict[str, Any]] = {
    "straight": {"shake": (0.0, 0.5), "pull": (0.0, 0.0), "reversals": (0.0, 0.0)},
    "curved": {"shake": (0.0, 6.0), "pull": (0.0, 10.0), "reversals": (0.0, 2.0)},
}
# Fields of `MotionBlur` that disable everything but the trajectory and the noise, which is weak.
STILL: dict[str, Any] = {"defocus": (0, 0), "tone_probability": 0.0, "highlight_probability": 0.0}


class ShakeMeasurement(NamedTuple):
    """Measurement of a photo.

    Attributes:
        longest, shortest: half widths in pixels, the lags at which the autocorrelation of the photo's derivative falls
            to a half: the largest over all directions, and the mean of the two smallest.
        direction: mean of the directions weighted by their half widths, in degrees from vertical (0 to 180).
    """

    longest: float
    shortest: float
    direction: float


Psf = list[tuple[int, int, float]]  # points (y, x, light) of a PSF, in pixels from its center


@dataclass(frozen=True)
class ShakeProfile(Profile):
    """Camera shake of a set of photos.

    The degradation uses only the PSFs; `kind`, `length` and `direction` describe the photos.

    Attributes:
        kind: a key of `KINDS`; None if the photos are not shaken.
        length: range of the trajectories' lengths in pixels.
        direction: range of the photos' common direction in degrees from vertical; None if there is none.
        photos: number of used photos.
        shaken: number of used photos that are shaken.
        skipped: photos that cannot be used -> reason.
        psfs: estimated PSF of each shaken photo.
        like: properties of the degradation that are not fitted.
    """

    kind: str | None
    length: tuple[float, float]
    direction: tuple[float, float] | None
    photos: int
    shaken: int
    skipped: dict[str, str] = field(default_factory=dict)
    psfs: Sequence[Psf] = ()
    like: MotionBlur = DEFAULT

    def to_degradation(self) -> MotionBlur:
        """Returns blur by the estimated PSFs; raises ConfigurationError if the photos are not shaken."""
        if self.kind is None:
            raise ConfigurationError(
                f"no shake to synthesize: {self.photos - self.shaken} of {self.photos} photos have sharp edges"
            )
        # PSFs contain the defocus
        return replace(self.like, psfs=self.psfs, defocus=(0.0, 0.0), direction=None, varying_probability=0.0)

    def describe(self) -> str:
        """Returns a summary of the fit as text of several lines."""
        lines = [f"{self.photos} photos used, {len(self.skipped)} skipped; {self.shaken} are shaken or blurred."]
        if self.kind is None:
            return "\n".join([*lines, "No shake found that can be synthesized."])
        lines.append(f"Point spread functions: {len(self.psfs)}, one of each shaken photo.")
        lines.append(f"Trajectories: {self.kind}, {self.length[0]:.1f} to {self.length[1]:.1f} pixels long.")
        if self.direction is None:
            lines.append("The photos have no common direction.")
        else:
            lines.append(f"Direction: {self.direction[0]:.0f} to {self.direction[1]:.0f} degrees from vertical.")
        return "\n".join(lines)


def fit_shake(photos: Photos, seconds: float | None = None, like: MotionBlur = DEFAULT) -> ShakeProfile:
    """Estimates the camera shake of unlabeled photos: the PSF of each, and trajectories that describe them together.

    PSFs are estimated by `estimate_psf` on center crops; the degradation uses them alone. Kind, length and direction of
    the trajectories only describe the photos: sharp synthetic images (`dead_leaves`) are blurred along trajectories
    whose length is adjusted until the half widths of the images equal those of the photos. The length of straight shake
    of up to about 16 pixels is estimated with an error of up to a fifth, of longer ones up to a third, because photos
    have few structures larger than that. Defocus is not distinguished from shake: it blurs equally in all directions,
    like a trajectory with many reversals.

    Args:
        photos: one or several sources, or specs for `open_source`, such as folders; at least 3 usable photos in total.
        seconds: time limit for measuring the photos: as many as fit into it are used; None: no limit.
        like: all properties of the degradation but the blur: tone curve, highlights and noise.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; the message gives the reasons.
    """

    def measure(photo: torch.Tensor, *_: object) -> tuple[ShakeMeasurement, Psf]:  # without source and index
        check_side(photo, SMALLEST)
        pixels = gray(color_crop(photo, SIDE))
        shake = measure_shake(pixels)
        return shake, _psf(pixels, shake.longest) if shake.longest >= SHAKEN else []

    measured, skipped = measure_photos(sources_of(photos), measure, most=MAX_PHOTOS, seconds=seconds)
    shaken, psfs = [shake for shake, psf in measured if psf], [psf for _, psf in measured if psf]
    if len(shaken) < max(MIN_PHOTOS, SHAKEN_PHOTOS * len(measured)):
        return ShakeProfile(None, (0.0, 0.0), None, len(measured), len(shaken), skipped)
    longest, shortest, directions = np.array(shaken).T
    images = [dead_leaves(number) for number in range(IMAGES)]
    target = float(np.median(longest))
    fitted = {kind: _fit_length(MotionBlur(**STILL, **fields), target, images) for kind, fields in KINDS.items()}
    elongation = np.median(longest / shortest)
    kind = min(fitted, key=lambda name: abs(math.log(fitted[name].elongation / elongation)))
    length = fitted[kind].length
    # lengths are assumed to be proportional to half widths
    least, most = np.quantile(longest, (0.1, 0.9))
    spread = math.sqrt(most / least)
    return ShakeProfile(
        kind,
        (round(length / spread, 2), round(min(MAX_LENGTH, length * spread), 2)),
        _common_range(directions),
        len(measured),
        len(shaken),
        skipped,
        psfs,
        like,
    )


def _psf(photo: np.ndarray, longest: float) -> Psf:
    """Estimates the PSF of a gray photo (H, W); `longest` as in `ShakeMeasurement`."""
    crop = center_crop(torch.from_numpy(photo)[None], PSF_CROP)[0].float()
    side = min(PSF_SIDE * longest, MOST_PSF_SIDE, min(crop.shape) / 3)
    psf = estimate_psf(crop, int(side) // 2 * 2 + 1)
    center = len(psf) // 2
    return [(y - center, x - center, round(psf[y, x].item(), 4)) for y, x in psf.nonzero().tolist()]


@functools.cache
def dead_leaves(number: int, side: int = 256) -> torch.Tensor:
    """Generates a sharp gray image (1, 1, H, W) of overlapping disks of many sizes, a model of the edges in photos.

    See Lee, Mumford and Huang, "Occlusion models for natural images" (2001). Radii have the density r**-2, not
    the r**-3 of the paper; the smallest radius is chosen such that half widths grow with blur as in photos.
    """
    random = np.random.default_rng(number)
    rows, columns = np.arange(side)[:, None], np.arange(side)[None]
    image = np.zeros((side, side), dtype=np.float32)
    for uniform in random.random(DISKS):
        radius = 1 / (1 / SMALLEST_DISK - uniform * (1 / SMALLEST_DISK - 2 / side))  # from SMALLEST_DISK to side / 2
        y, x = random.random(2) * (side + 2 * radius) - radius  # center
        down, right = (slice(max(0, int(at - radius)), max(0, int(at + radius) + 2)) for at in (y, x))
        inside = (rows[down] - y) ** 2 + (columns[:, right] - x) ** 2 < radius**2
        image[down, right][inside] = random.random()
    return torch.from_numpy(image)[None, None]


class _LengthFit(NamedTuple):
    """Length of trajectories in pixels, and elongation of blurred images: longest divided by shortest half width."""

    length: float
    elongation: float


def _fit_length(blur: MotionBlur, target: float, images: list[torch.Tensor]) -> _LengthFit:
    """Finds the length of trajectories for which blurred synthetic images have the half widths of the shaken photos.

    Args:
        blur: degradation whose `length` is replaced.
        target: median of the longest half width over the shaken photos, in pixels.
        images: sharp synthetic images.
    """
    length, log_lengths, elongations = 2.5 * target, [], []  # initial guess
    for _ in range(ROUNDS):
        shake = replace(blur, length=(length, length))
        blurred = [shake(image, generator_for(0, "fit shake", i))[0, 0].numpy() for i, image in enumerate(images)]
        longest, shortest, _ = np.array([measure_shake(image) for image in blurred]).T
        elongations.append(float(np.median(longest / shortest)))
        length = float(np.clip(length * (target / np.median(longest)), 1.0, LONGEST_TRAJECTORY))
        log_lengths.append(math.log(length))
    length = math.exp(np.mean(log_lengths[-AVERAGED_ROUNDS:]))
    return _LengthFit(length, float(np.mean(elongations[-AVERAGED_ROUNDS:])))


def _common_range(directions: np.ndarray) -> tuple[float, float] | None:
    """Returns the range of directions (degrees, modulo 180), mean +- 2 standard deviations; None if they differ."""
    mean = np.exp(2j * np.deg2rad(directions)).mean()  # of doubled angles, since directions are modulo 180 degrees
    if abs(mean) < COMMON:
        return None
    spread = math.degrees(math.sqrt(-2 * math.log(min(abs(mean), 1.0)))) / 2  # circular standard deviation
    center = math.degrees(np.angle(mean)) / 2
    return round(center - 2 * spread, 1), round(center + 2 * spread, 1)


def measure_shake(photo: np.ndarray) -> ShakeMeasurement:
    """Measures the half widths of a gray photo (H, W).

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
    # 2. autocorrelation of the derivative along each direction, in radians from vertical; positive leans to the right
    # at the top
    angles = torch.arange(DIRECTIONS, dtype=torch.float64)[:, None] * math.pi / DIRECTIONS
    y, x = -angles.cos(), angles.sin()  # (directions, 1)
    lag = torch.arange(0, MAX_LAG, STEP, dtype=torch.float64)
    grid = torch.stack([lag * x, lag * y], dim=-1)[None] / MAX_LAG  # (1, directions, lags, 2)
    yy, xx, yx = F.grid_sample(correlations[None], grid, align_corners=True)[0]  # (directions, lags)
    along = y**2 * yy + x**2 * xx + 2 * x * y * yx
    # 3. half widths, and the mean direction, of doubled angles, since directions are modulo 180 degrees
    below = along < along[:, :1] / 2
    widths = STEP * torch.where(below.any(1), below.int().argmax(1), len(lag)).numpy()
    doubled = np.exp(2j * math.pi * np.arange(DIRECTIONS) / DIRECTIONS)
    direction = math.degrees(np.angle((widths * doubled).sum()) / 2) % 180
    return ShakeMeasurement(float(widths.max()), float(np.sort(widths)[:2].mean()), direction)
