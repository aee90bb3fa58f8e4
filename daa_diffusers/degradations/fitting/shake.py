"""Estimation of the camera shake in a folder of photos without ground truth, as a degradation that synthesizes it."""

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import ConfigurationError
from ...sources.folders import PhotoSource
from ..blur import MotionBlur
from ..config_files import write_degradation
from ..draws import generator_for
from .rain import MIN_PHOTOS, gray, usable_photos

MAX_PHOTOS = 32  # more are thinned out evenly
SIDE = 512  # of their middle
SMALLEST = 96
DIRECTIONS = 12  # half-turn in as many directions
REACH, STEP = 60, 0.25  # pixels, the longest lag and the distance between those that are looked at
# Half width along the longest direction from which on a photo is shaken. Sharp photos (BSDS and others) have 0.75 to
# 1.75, those of Levin et al. 2.75 to 5.25 and of Koehler et al. 2.5 to 5.75.
SHAKEN = 2.0
SHAKEN_PHOTOS = 0.5  # share of the photos that must be
PICTURES, DISKS, SMALLEST_DISK = 6, 500, 8.0  # that are shaken for comparison
ROUNDS, KEPT = 6, 3  # of synthesis and comparison; the last ones, whose mean is kept
ONE_WAY = 0.8  # length of the mean of the photos' doubled directions from which on they have one in common
# Ways of shaking, as fields of `MotionBlur`: a drift, and a hand that trembles.
KINDS: dict[str, dict[str, Any]] = {
    "straight": {"shake": (0.0, 0.5), "pull": (0.0, 0.0), "reversals": (0.0, 0.0)},
    "curved": {"shake": (0.0, 6.0), "pull": (0.0, 10.0), "reversals": (0.0, 2.0)},
}
STILL: dict[str, Any] = {"defocus": (0, 0), "tone_probability": 0.0, "highlight_probability": 0.0}


class ShakeSeen(NamedTuple):
    """Half widths in pixels of the autocorrelation of a photo's derivatives, and the direction of the longest."""

    longest: float
    shortest: float
    direction: float


@dataclass(frozen=True)
class ShakeProfile:
    """The camera shake of a folder of photos.

    Attributes:
        kind: of `KINDS`; None where the photos are not shaken.
        length: range of the trajectories' lengths in pixels.
        direction: range in degrees from vertical that the photos have in common; None: each has its own.
        photos: number used.
        shaken: number of these that are.
        skipped: photos that cannot be used, and why.
    """

    kind: str | None
    length: tuple[float, float]
    direction: tuple[float, float] | None
    photos: int
    shaken: int
    skipped: dict[str, str] = field(default_factory=dict)

    def to_degradation(self) -> MotionBlur:
        """The degradation for training.

        Raises:
            ConfigurationError: the photos are not shaken.
        """
        if self.kind is None:
            raise ConfigurationError(
                f"no shake to synthesize: {self.photos - self.shaken} of {self.photos} photos have sharp edges"
            )
        return MotionBlur(length=self.length, direction=self.direction, **KINDS[self.kind])

    def save(self, path: str | os.PathLike) -> Path:
        """Writes `to_degradation()` as a YAML or JSON file, which `degradation: FILE` in a training config reads."""
        return write_degradation(self.to_degradation().to_config(), path, self.describe())

    def describe(self) -> str:
        """Summary of the fit as text, some lines."""
        lines = [f"{self.photos} photos looked at, {len(self.skipped)} left out; {self.shaken} are shaken or blurred."]
        if self.kind is None:
            return "\n".join([*lines, "No shake found that could be made again."])
        lines.append(f"Trajectories: {self.kind}, {self.length[0]:.1f} to {self.length[1]:.1f} pixels long.")
        if self.direction is None:
            lines.append("Each photo has a direction of its own.")
        else:
            lines.append(f"Direction: {self.direction[0]:.0f} to {self.direction[1]:.0f} degrees from vertical.")
        return "\n".join(lines)


def fit_shake(photos: str | os.PathLike | PhotoSource | Sequence[str | os.PathLike | PhotoSource]) -> ShakeProfile:
    """Estimates the camera shake of unlabeled photos by the autocorrelation of their edges.

    Sharp pictures (`dead_leaves`) are shaken by trajectories whose length is changed until their edges look as those of
    the photos do. Drifts of up to about 16 pixels are known to a fifth, longer ones to a third: photos have few
    structures that are so large. Defocus is not told from shake; a photo out of focus is blurred the same in all
    directions, as by a path that is tangled.

    Args:
        photos: one or several specs of `open_source`, such as folders, or sources; at least 3 usable photos together.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; it lists why others are not.
    """
    usable, skipped = usable_photos(photos, SMALLEST, MAX_PHOTOS, SIDE)
    seen = [one for one in map(measure_shake, map(gray, usable)) if one.longest >= SHAKEN]
    if len(seen) < max(MIN_PHOTOS, SHAKEN_PHOTOS * len(usable)):
        return ShakeProfile(None, (0.0, 0.0), None, len(usable), len(seen), skipped)
    table = np.array(seen)
    bases = [dead_leaves(number) for number in range(PICTURES)]
    fitted = {kind: _fitted(MotionBlur(**STILL, **fields), table, bases) for kind, fields in KINDS.items()}
    elongation = np.median(table[:, 0] / table[:, 1])
    kind = min(fitted, key=lambda name: abs(math.log(fitted[name][1] / elongation)))
    # photos differ as their widths do
    least, most = np.quantile(table[:, 0], (0.1, 0.9))
    spread = math.sqrt(most / least)
    length = fitted[kind][0]
    return ShakeProfile(
        kind,
        (round(length / spread, 2), round(min(200.0, length * spread), 2)),
        _common(table[:, 2]),
        len(usable),
        len(seen),
        skipped,
    )


@functools.cache
def dead_leaves(number: int, side: int = 256) -> torch.Tensor:
    """A sharp gray picture (1, 1, H, W) of disks that hide each other, with the scale-free edges of photos.

    Lee, Mumford and Huang, "Occlusion models for natural images" (2001); the smallest disk is what makes widths grow
    with blur as they do in photos.
    """
    draws = np.random.default_rng(number)
    y, x = np.arange(side)[:, None], np.arange(side)[None]
    picture = np.zeros((side, side), dtype=np.float32)
    # radii of density r**-2
    for share in draws.random(DISKS):
        radius = 1 / (1 / SMALLEST_DISK - share * (1 / SMALLEST_DISK - 2 / side))
        top, left = draws.random(2) * (side + 2 * radius) - radius
        rows, columns = (slice(max(0, int(at - radius)), max(0, int(at + radius) + 2)) for at in (top, left))
        inside = (y[rows] - top) ** 2 + (x[:, columns] - left) ** 2 < radius**2
        picture[rows, columns][inside] = draws.random()
    return torch.from_numpy(picture)[None, None]


def _fitted(blur: MotionBlur, table: np.ndarray, bases: list[torch.Tensor]) -> tuple[float, float]:
    """Length of the trajectories that make pictures as wide at their edges as `table`, and their elongation."""
    wanted = float(np.median(table[:, 0]))
    length, lengths, elongations = 2.5 * wanted, [], []
    for _ in range(ROUNDS):
        shaken = replace(blur, length=(length, length))
        made = [
            measure_shake(shaken(base, generator_for(0, "fit shake", number))[0, 0].numpy())
            for number, base in enumerate(bases)
        ]
        got = np.array(made)
        elongations.append(float(np.median(got[:, 0] / got[:, 1])))
        length = float(np.clip(length * (wanted / np.median(got[:, 0])), 1.0, 150.0))
        lengths.append(math.log(length))
    return math.exp(np.mean(lengths[-KEPT:])), float(np.mean(elongations[-KEPT:]))


def _common(directions: np.ndarray) -> tuple[float, float] | None:
    """The range of the directions (degrees, modulo 180) where they have one in common."""
    mean = np.exp(2j * np.deg2rad(directions)).mean()
    if abs(mean) < ONE_WAY:
        return None
    spread = math.degrees(math.sqrt(-2 * math.log(min(abs(mean), 1.0)))) / 2
    middle = math.degrees(np.angle(mean)) / 2
    return round(middle - 2 * spread, 1), round(middle + 2 * spread, 1)


def measure_shake(photo: np.ndarray) -> ShakeSeen:
    """Statistics of a gray photo (H, W).

    The derivative of a photo along a direction, taken at its edges, is the point spread function seen from the side;
    its autocorrelation falls to a half at half the length of a line along that direction, whatever the edges' own.
    """
    centered = photo - photo.mean()
    window = np.outer(np.hanning(photo.shape[0]), np.hanning(photo.shape[1])) ** 0.25
    down, right = (part * window for part in np.gradient(centered))
    size = [side + REACH + 1 for side in photo.shape]
    first, second = (np.fft.rfft2(part, size) for part in (down, right))
    products = (abs(first) ** 2, abs(second) ** 2, (first * second.conj()).real)
    shifted = [np.roll(np.fft.irfft2(one, size), (REACH, REACH), (0, 1)) for one in products]
    table = torch.from_numpy(np.stack([one[: 2 * REACH + 1, : 2 * REACH + 1] for one in shifted]))
    # along each direction, in degrees from vertical, leaning to the right at the top
    angles = torch.arange(DIRECTIONS, dtype=torch.float64)[:, None] * math.pi / DIRECTIONS
    y, x = -angles.cos(), angles.sin()  # (directions, 1)
    lag = torch.arange(0, REACH, STEP, dtype=torch.float64)
    grid = torch.stack([lag * x, lag * y], dim=-1)[None] / REACH  # (1, directions, lags, 2)
    sampled = F.grid_sample(table[None], grid, align_corners=True)[0]  # (3, directions, lags)
    line = y**2 * sampled[0] + x**2 * sampled[1] + 2 * x * y * sampled[2]
    below = line < line[:, :1] / 2
    widths = STEP * torch.where(below.any(1), below.int().argmax(1), len(lag)).numpy()
    turns = np.exp(2j * math.pi * np.arange(DIRECTIONS) / DIRECTIONS)
    direction = math.degrees(np.angle((widths * turns).sum()) / 2) % 180
    return ShakeSeen(float(widths.max()), float(np.sort(widths)[:2].mean()), direction)
