"""Estimation of the camera shake in photos without ground truth, as a degradation that synthesizes it."""

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import ConfigurationError
from ..blur import MotionBlur
from ..draws import generator_for
from .profile import MIN_PHOTOS, Photos, Profile, measure_photos
from .rain import gray

MAX_PHOTOS = 32  # largest number of photos, equally spaced in the sources
SIDE = 512  # pixels, side of the measured center crops
SMALLEST = 96  # pixels, shorter side of a usable photo
DIRECTIONS = 12  # directions of the autocorrelation, equally spaced over 180 degrees
MAX_LAG, STEP = 60, 0.25  # pixels, the longest lag of the autocorrelation and the distance between lags
# A photo counts as shaken if its `ShakeMeasurement.longest` is at least this. It is 0.75 to 1.75 in sharp photos (BSDS
# and others), 2.75 to 5.25 in the shaken ones of Levin et al. and 2.5 to 5.75 in those of Koehler et al.
SHAKEN = 2.0
SHAKEN_PHOTOS = 0.5  # least share of shaken photos for a fit
IMAGES, DISKS, SMALLEST_DISK = 6, 500, 8.0  # sharp synthetic images, disks in each, smallest radius in pixels
ROUNDS, AVERAGED_ROUNDS = 6, 3  # rounds of synthesis and comparison, and number of last rounds that are averaged
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


@dataclass(frozen=True)
class ShakeProfile(Profile):
    """Camera shake of a set of photos.

    Attributes:
        kind: a key of `KINDS`; None if the photos are not shaken.
        length: range of the trajectories' lengths in pixels.
        direction: range of the photos' common direction in degrees from vertical; None if there is none.
        photos: number of used photos.
        shaken: number of used photos that are shaken.
        skipped: photos that cannot be used -> reason.
    """

    kind: str | None
    length: tuple[float, float]
    direction: tuple[float, float] | None
    photos: int
    shaken: int
    skipped: dict[str, str] = field(default_factory=dict)

    def to_degradation(self) -> MotionBlur:
        """Returns the degradation for training.

        Raises:
            ConfigurationError: the photos are not shaken.
        """
        if self.kind is None:
            raise ConfigurationError(
                f"no shake to synthesize: {self.photos - self.shaken} of {self.photos} photos have sharp edges"
            )
        return MotionBlur(length=self.length, direction=self.direction, **KINDS[self.kind])

    def describe(self) -> str:
        """Returns a summary of the fit as text of several lines."""
        lines = [f"{self.photos} photos used, {len(self.skipped)} skipped; {self.shaken} are shaken or blurred."]
        if self.kind is None:
            return "\n".join([*lines, "No shake found that can be synthesized."])
        lines.append(f"Trajectories: {self.kind}, {self.length[0]:.1f} to {self.length[1]:.1f} pixels long.")
        if self.direction is None:
            lines.append("The photos have no common direction.")
        else:
            lines.append(f"Direction: {self.direction[0]:.0f} to {self.direction[1]:.0f} degrees from vertical.")
        return "\n".join(lines)


def fit_shake(photos: Photos, seconds: float | None = None) -> ShakeProfile:
    """Estimates the camera shake of unlabeled photos from the autocorrelation of their edges.

    Sharp synthetic images (`dead_leaves`) are blurred by trajectories, whose length is adjusted until the half widths
    of the images equal those of the photos. The length of straight shake is estimated with an error of up to a fifth if
    it is at most about 16 pixels, else up to a third, because photos have few structures of this size. Defocus is not
    distinguished from shake: it blurs equally in all directions, like a trajectory with many reversals.

    Args:
        photos: one or several sources, or specs for `open_source`, such as folders; at least 3 usable photos in total.
        seconds: time limit for measuring the photos: as many as fit into it are used; None: no limit.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; the message gives the reasons.
    """
    measured, skipped = measure_photos(
        photos,
        lambda photo: measure_shake(gray(photo)),
        least=SMALLEST,
        most=MAX_PHOTOS,
        side=SIDE,
        seconds=seconds,
    )
    shaken = [one for one in measured if one.longest >= SHAKEN]
    if len(shaken) < max(MIN_PHOTOS, SHAKEN_PHOTOS * len(measured)):
        return ShakeProfile(None, (0.0, 0.0), None, len(measured), len(shaken), skipped)
    table = np.array(shaken)
    bases = [dead_leaves(number) for number in range(IMAGES)]
    fitted = {kind: _fitted(MotionBlur(**STILL, **fields), table, bases) for kind, fields in KINDS.items()}
    elongation = np.median(table[:, 0] / table[:, 1])  # longest by shortest half width
    kind = min(fitted, key=lambda name: abs(math.log(fitted[name][1] / elongation)))
    # lengths are assumed to be proportional to half widths
    least, most = np.quantile(table[:, 0], (0.1, 0.9))
    spread = math.sqrt(most / least)
    length = fitted[kind][0]
    return ShakeProfile(
        kind,
        (round(length / spread, 2), round(min(200.0, length * spread), 2)),
        _common_range(table[:, 2]),
        len(measured),
        len(shaken),
        skipped,
    )


@functools.cache
def dead_leaves(number: int, side: int = 256) -> torch.Tensor:
    """Generates a sharp gray image (1, 1, H, W) of overlapping disks of many sizes, a model of the edges in photos.

    See Lee, Mumford and Huang, "Occlusion models for natural images" (2001). Radii have the density r**-2; the smallest
    radius is chosen such that half widths grow with blur as in photos.
    """
    draws = np.random.default_rng(number)
    y, x = np.arange(side)[:, None], np.arange(side)[None]
    image = np.zeros((side, side), dtype=np.float32)
    for share in draws.random(DISKS):
        radius = 1 / (1 / SMALLEST_DISK - share * (1 / SMALLEST_DISK - 2 / side))
        top, left = draws.random(2) * (side + 2 * radius) - radius
        rows, columns = (slice(max(0, int(at - radius)), max(0, int(at + radius) + 2)) for at in (top, left))
        inside = (y[rows] - top) ** 2 + (x[:, columns] - left) ** 2 < radius**2
        image[rows, columns][inside] = draws.random()
    return torch.from_numpy(image)[None, None]


def _fitted(blur: MotionBlur, table: np.ndarray, bases: list[torch.Tensor]) -> tuple[float, float]:
    """Finds the length of trajectories for which blurred synthetic images have the half widths of the shaken photos.

    Args:
        blur: degradation whose `length` is replaced.
        table: `ShakeMeasurement` of each shaken photo, (N, 3).
        bases: sharp synthetic images.

    Returns:
        The length in pixels, and the elongation of the blurred images: longest by shortest half width.
    """
    target = float(np.median(table[:, 0]))
    length, lengths, elongations = 2.5 * target, [], []
    for _ in range(ROUNDS):
        shaken = replace(blur, length=(length, length))
        measured = [
            measure_shake(shaken(base, generator_for(0, "fit shake", number))[0, 0].numpy())
            for number, base in enumerate(bases)
        ]
        widths = np.array(measured)
        elongations.append(float(np.median(widths[:, 0] / widths[:, 1])))
        length = float(np.clip(length * (target / np.median(widths[:, 0])), 1.0, 150.0))
        lengths.append(math.log(length))
    return math.exp(np.mean(lengths[-AVERAGED_ROUNDS:])), float(np.mean(elongations[-AVERAGED_ROUNDS:]))


def _common_range(directions: np.ndarray) -> tuple[float, float] | None:
    """Returns the range of directions (degrees, modulo 180) if they are similar, else None."""
    mean = np.exp(2j * np.deg2rad(directions)).mean()
    if abs(mean) < COMMON:
        return None
    spread = math.degrees(math.sqrt(-2 * math.log(min(abs(mean), 1.0)))) / 2
    center = math.degrees(np.angle(mean)) / 2
    return round(center - 2 * spread, 1), round(center + 2 * spread, 1)


def measure_shake(photo: np.ndarray) -> ShakeMeasurement:
    """Measures the half widths of a gray photo (H, W).

    At edges, the derivative of a photo along a direction is the projection of the point spread function on that
    direction. If the trajectory is a line in this direction, the autocorrelation of the derivative falls to a half at
    half the line's length, for edges of any orientation.
    """
    centered = photo - photo.mean()
    window = np.outer(np.hanning(photo.shape[0]), np.hanning(photo.shape[1])) ** 0.25
    down, right = (part * window for part in np.gradient(centered))
    size = [side + MAX_LAG + 1 for side in photo.shape]
    first, second = (np.fft.rfft2(part, size) for part in (down, right))
    products = (abs(first) ** 2, abs(second) ** 2, (first * second.conj()).real)
    shifted = [np.roll(np.fft.irfft2(one, size), (MAX_LAG, MAX_LAG), (0, 1)) for one in products]
    table = torch.from_numpy(np.stack([one[: 2 * MAX_LAG + 1, : 2 * MAX_LAG + 1] for one in shifted]))
    # directions in radians from vertical, leaning to the right at the top
    angles = torch.arange(DIRECTIONS, dtype=torch.float64)[:, None] * math.pi / DIRECTIONS
    y, x = -angles.cos(), angles.sin()  # (directions, 1)
    lag = torch.arange(0, MAX_LAG, STEP, dtype=torch.float64)
    grid = torch.stack([lag * x, lag * y], dim=-1)[None] / MAX_LAG  # (1, directions, lags, 2)
    sampled = F.grid_sample(table[None], grid, align_corners=True)[0]  # (3, directions, lags)
    line = y**2 * sampled[0] + x**2 * sampled[1] + 2 * x * y * sampled[2]
    below = line < line[:, :1] / 2
    widths = STEP * torch.where(below.any(1), below.int().argmax(1), len(lag)).numpy()
    turns = np.exp(2j * math.pi * np.arange(DIRECTIONS) / DIRECTIONS)
    direction = math.degrees(np.angle((widths * turns).sum()) / 2) % 180
    return ShakeMeasurement(float(widths.max()), float(np.sort(widths)[:2].mean()), direction)
