"""Estimation of the rain in a folder of photos without ground truth, as a degradation that synthesizes it."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import ConfigurationError
from ...photos.pixels import LUMA_WEIGHTS, middle, unit_float
from ...sources.folders import PhotoSource
from ...sources.specs import open_source
from ..base import Degradation
from ..config_files import write_degradation
from ..draws import generator_for
from ..filtered_rain import FilteredRain
from ..mixture import Mixture
from ..rain import RainStreaks
from ..sequence import DegradationSequence
from .photo_noise import gaussian_filter

Restorer = Callable[[torch.Tensor], torch.Tensor]

MIN_PHOTOS = 3
MAX_PHOTOS = 48  # more are thinned out evenly
SIDE = 256  # of their middle
SMALLEST = 64
# A photo is rainy where at least this share of its smooth parts holds streaks of at least `LIGHT`, whose gradients hang
# together: detail that a derainer takes for rain lies where photos are not smooth. With a derainer of 400 steps, 90 %
# of Rain100L have more than 0.03 (median 0.067), 90 % of clean photos (BSDS) less than 0.02 (median 0.005).
SMOOTH, LIGHT, RAINY, COHERENT = 0.4, 0.03, 0.015, 0.5
RAINY_PHOTOS = 0.5  # share of the photos that must be rainy
BLUR = 10.0  # standard deviation in pixels of what is no streak
PLAIN: dict[str, Any] = {"screen_probability": 0.0, "layers": (1, 1), "angle_spread": (0, 2)}
ROUNDS, KEPT = 6, 3  # of synthesis and comparison; the last ones, whose mean is kept
TRIED = 12  # photos that are rained on in each round
LIGHTEST = 0.5  # gray that a veil has at least
VEIL = 0.05  # least that is taken for one: share of its gray in the darkest parts
DARKEST = 15  # side of the neighborhoods whose darkest value is a sign of a veil


class RainSeen(NamedTuple):
    """Statistics of the streaks of a photo; lengths in pixels, angle in degrees from vertical.

    `cover` and `brightness` are those of equal streaks with the same first two moments: m1**2 / m2 and m2 / m1. Along
    and across the streaks, `length` and `width` are where the autocorrelation falls to a half.
    """

    angle: float
    coherence: float
    cover: float
    brightness: float
    length: float
    width: float


@dataclass(frozen=True)
class RainProfile:
    """The rain of a folder of photos.

    Attributes:
        streaks, filtered: ranges of "cover", "length", "width", "brightness" and "angle", as fields of `RainStreaks`
            and of `FilteredRain`, which differ a little in what they mean; None where the photos have no rain.
        veil, veil_grey: ranges of the veil; None where there is none.
        photos: number used.
        rainy: number of these with rain.
        skipped: photos that cannot be used, and why.
    """

    streaks: dict[str, Any] | None
    filtered: dict[str, Any] | None
    veil: tuple[float, float] | None
    veil_grey: tuple[float, float] | None
    photos: int
    rainy: int
    skipped: dict[str, str] = field(default_factory=dict)

    def to_degradation(self) -> Degradation:
        """The degradation for training: both kinds of streaks, under the veil if there is one.

        Raises:
            ConfigurationError: the photos have no rain.
        """
        if self.streaks is None or self.filtered is None:
            raise ConfigurationError(
                f"no rain to synthesize: {self.photos - self.rainy} of {self.photos} photos have no streaks in their "
                "smooth parts"
            )
        veil: dict[str, Any] = {"veil_probability": 0.0}
        if self.veil is not None and self.veil_grey is not None:
            veil = {"veil_probability": 1.0, "veil": self.veil, "veil_grey": self.veil_grey}
        streaks = RainStreaks(across_probability=0.0, **veil, **self.streaks)
        filtered: Degradation = FilteredRain(**self.filtered)
        if self.veil is not None:
            filtered = DegradationSequence([RainStreaks(cover=(1e-4, 1e-4), **veil), filtered])
        return Mixture([(2, filtered), (1, streaks)])

    def save(self, path: str | os.PathLike) -> Path:
        """Writes `to_degradation()` as a YAML or JSON file, which `degradation: FILE` in a training config reads."""
        return write_degradation(self.to_degradation().to_config(), path, self.describe())

    def describe(self) -> str:
        """Summary of the fit as text, some lines."""
        lines = [f"{self.photos} photos looked at, {len(self.skipped)} left out; {self.rainy} have rain."]
        if self.streaks is None:
            return "\n".join([*lines, "No rain found that could be made again."])
        units = {"angle": " degrees from vertical", "length": " pixels", "width": " pixels"}
        for name, (low, high) in self.streaks.items():
            lines.append(f"{name.capitalize()}: {low:.3g} to {high:.3g}{units.get(name, '')}.")
        if self.veil is None:
            lines.append("No veil.")
        else:
            lines.append(f"Veil: {self.veil[0]:.2f} to {self.veil[1]:.2f}.")
        return "\n".join(lines)


def fit_rain(
    photos: str | os.PathLike | PhotoSource | Sequence[str | os.PathLike | PhotoSource], restorer: Restorer
) -> RainProfile:
    """Estimates the rain of unlabeled photos from what a derainer takes out of them.

    Rain is synthesized on the restored photos and restored again, and its parameters are changed until what the
    derainer takes out of that is what it takes out of the photos: what it leaves of streaks, or makes of them, is then
    the same on both sides.

    Args:
        photos: one or several specs of `open_source`, such as folders, or sources; at least 3 usable photos together.
        restorer: a derainer, (3, H, W) in [0, 1] -> the same.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; it lists why others are not.
    """
    usable, skipped = usable_photos(photos, SMALLEST, MAX_PHOTOS, SIDE)
    restored = [restorer(photo).clamp(0, 1) for photo in usable]
    seen: list[RainSeen] = []
    backgrounds: list[torch.Tensor] = []
    for photo, background in zip(usable, restored, strict=True):
        light, smooth = streaks_of(gray(photo) - gray(background), background)
        one = measure_streaks(light, smooth)
        if (light[smooth] > LIGHT).mean() > RAINY and one.coherence > COHERENT:
            seen.append(one)
            backgrounds.append(background)
    common: dict[str, Any] = {"photos": len(usable), "rainy": len(seen), "skipped": skipped}
    if len(seen) < max(MIN_PHOTOS, RAINY_PHOTOS * len(usable)):
        return RainProfile(None, None, None, None, **common)
    table = np.array(seen)
    streaks, filtered = (
        _fitted(kind, table, backgrounds, restorer)
        for kind in (
            RainStreaks(
                across_probability=0, veil_probability=0, screen_probability=0, layers=(1, 1), angle_spread=(0, 2)
            ),
            FilteredRain(screen_probability=0, layers=(1, 1), contrast=(0.5, 2.0), angle_spread=(0, 2)),
        )
    )
    return RainProfile(streaks, filtered, *_veil(usable), **common)


def usable_photos(
    photos: str | os.PathLike | PhotoSource | Sequence[str | os.PathLike | PhotoSource],
    least: int,
    most: int,
    side: int,
) -> tuple[list[torch.Tensor], dict[str, str]]:
    """The middles (3, H, W) in [0, 1] of at most so many photos, and why others cannot be used.

    Raises:
        ConfigurationError: fewer than `MIN_PHOTOS` are usable.
    """
    given = [photos] if isinstance(photos, str | os.PathLike | PhotoSource) else list(photos)
    sources = [p if isinstance(p, PhotoSource) else open_source(p, cache_bytes=0, argument="photos") for p in given]
    usable: list[torch.Tensor] = []
    skipped: dict[str, str] = {}
    for source in sources:
        for index, photo in source.sample(max(1, most // len(sources))):
            if min(photo.shape[1:]) < least:
                skipped[str(source.label(index))] = f"smaller than {least} pixels: {photo.shape[2]} x {photo.shape[1]}"
            else:
                usable.append(unit_float(middle(photo, side)).expand(3, -1, -1))
        skipped |= {str(label): reason for label, reason in source.skipped.items()}
    if len(usable) < MIN_PHOTOS:
        why = "".join(f"\n- {name}: {reason}" for name, reason in list(skipped.items())[:10])
        raise ConfigurationError(f"`photos` must hold at least {MIN_PHOTOS} usable photos, got {len(usable)}{why}")
    return usable, skipped


def gray(photo: torch.Tensor) -> np.ndarray:
    """(3, H, W) -> luma (H, W)."""
    return np.tensordot(LUMA_WEIGHTS, photo.cpu().numpy(), 1)


def streaks_of(removed: np.ndarray, restored: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Streaks of the light (H, W) that was taken out, what varies slowly left out, and where the photo is smooth."""
    light = np.maximum(removed - _smooth(removed, BLUR), 0)
    slope = _smooth(np.hypot(*_gradient(gray(restored))), 3)
    return light, slope <= np.quantile(slope, SMOOTH)


def measure_streaks(light: np.ndarray, where: np.ndarray) -> RainSeen:
    """Statistics of streaks (H, W) in the part of a photo that the mask (H, W) chooses."""
    down, right = (part[where] for part in _gradient(light))
    across, along, both = (right**2).sum(), (down**2).sum(), (down * right).sum()
    angle = math.degrees(0.5 * math.atan2(2 * both, across - along))
    coherence = math.hypot(across - along, 2 * both) / max(across + along, 1e-12)
    inside = light[where]
    first, second = inside.mean(), (inside**2).mean()
    # upright, and shown where the mask is one; the autocorrelation of the mask is divided out
    upright, mask = (_turned(part, angle) for part in ((light - first) * where, 1.0 * where))
    correlation = _autocorrelation(upright) / np.maximum(_autocorrelation(mask), 1e-3 * mask.sum())
    correlation /= max(correlation[0, 0], 1e-12)
    half = min(light.shape) // 2
    return RainSeen(
        angle,
        coherence,
        float(first**2 / max(second, 1e-12)),
        float(second / max(first, 1e-9)),
        _half_width(correlation[:half, 0]),
        _half_width(correlation[0, :half]),
    )


def _gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of Gaussians of (H, W), downward and to the right: differences of pixels favor some directions."""
    offsets = torch.arange(-4, 5, dtype=torch.float32)
    bell = torch.exp(-(offsets**2) / 2)
    bell, slope = bell / bell.sum(), offsets * bell / (offsets**2 * bell).sum()
    padded = F.pad(_tensor(image), (4,) * 4, mode="reflect")
    down = F.conv2d(F.conv2d(padded, slope.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))
    right = F.conv2d(F.conv2d(padded, slope.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
    return down[0, 0].numpy(), right[0, 0].numpy()


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(_tensor(image), sigma)[0, 0].numpy()


def _turned(image: np.ndarray, angle: float) -> np.ndarray:
    """(H, W) turned about its middle, so that lines that lean by `angle` degrees stand upright; black around."""
    height, width = image.shape
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = torch.tensor([[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]])
    grid = F.affine_grid(turn, [1, 1, height, width], align_corners=False)
    return F.grid_sample(_tensor(image), grid, align_corners=False)[0, 0].numpy()


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]


def _autocorrelation(image: np.ndarray) -> np.ndarray:
    size = [2 * side for side in image.shape]
    return np.fft.irfft2(np.abs(np.fft.rfft2(image, size)) ** 2, size)


def _half_width(correlation: np.ndarray) -> float:
    """Where (N,) values that begin at 1 first fall below a half, linear between pixels."""
    below = np.flatnonzero(correlation < 0.5)
    if not len(below):
        return float(len(correlation))
    last = below[0] - 1
    return float(last + (correlation[last] - 0.5) / (correlation[last] - correlation[last + 1]))


def _fitted(
    kind: RainStreaks | FilteredRain, table: np.ndarray, backgrounds: list[torch.Tensor], restorer: Restorer
) -> dict[str, tuple[float, float]]:
    """Ranges of the fields of a kind of rain whose statistics, on `backgrounds` and restored, are those of `table`."""
    names = ("cover", "brightness", "length", "width")
    columns = [RainSeen._fields.index(name) for name in names]
    wanted = np.median(table, 0)[columns]
    angle = float(np.median(table[:, 0]))
    value = wanted * (1, 1, 2, 1)  # a first guess
    backgrounds = backgrounds[:TRIED]
    # restored once more, they lose what they lose with rain as well: rain that was left, and detail
    left = [gray(background) - gray(restorer(background).clamp(0, 1)) for background in backgrounds]
    lowest, highest = np.array([1e-3, 0.01, 2, 0.5]), np.array([0.8, 1.0, 150, 15])
    values = []
    for _ in range(ROUNDS):
        value = value.clip(lowest, highest)
        options = {name: (number, number) for name, number in zip(names, value.tolist(), strict=True)}
        rain = type(kind)(**{**_fields(kind), **options, "angle": (angle, angle)})
        made = []
        for number, background in enumerate(backgrounds):
            rainy = rain(background[None], generator_for(0, "fit rain", number))[0]
            restored = restorer(rainy).clamp(0, 1)
            made.append(measure_streaks(*streaks_of(gray(rainy) - gray(restored) - left[number], restored)))
        got = np.median(np.array(made), 0)[columns]
        value = value * (wanted / np.maximum(got, 1e-6)).clip(0.3, 3) ** 0.8
        values.append(np.log(value))
    value = np.exp(np.mean(values[-KEPT:], axis=0))
    # photos differ as their statistics do
    least, most = np.maximum(np.quantile(table[:, columns], (0.1, 0.9), axis=0), 1e-6)
    spread = np.sqrt(most / least)
    ranges = {
        name: (round(float(low), 4), round(float(high), 4))
        for name, low, high in zip(
            names, (value / spread).clip(lowest, highest), (value * spread).clip(lowest, highest), strict=True
        )
    }
    low, high = np.quantile(table[:, 0], (0.05, 0.95))
    return {**ranges, "angle": (round(max(-90.0, float(low) - 1), 2), round(min(90.0, float(high) + 1), 2))}


def _fields(kind: RainStreaks | FilteredRain) -> dict[str, Any]:
    return {name: value for name, value in kind.to_config().items() if name != "type"}


def _veil(photos: list[torch.Tensor]) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Ranges of strength and gray of the veil, by the darkest values of neighborhoods (He et al. 2009, "Single image
    haze removal using dark channel prior"): without a veil nearly every photo has some that are black.
    """
    found = []
    for photo in photos:
        dark = -torch.nn.functional.max_pool2d(-photo.amin(0)[None], DARKEST, stride=DARKEST // 2)
        black, light = float(np.quantile(dark.numpy(), 0.02)), float(np.quantile(gray(photo), 0.99))
        light = max(light, LIGHTEST)
        found.append((black / light, light))
    veil, light = np.array(found).T
    if np.median(veil) < VEIL:
        return None, None
    grays = np.quantile(light, (0.1, 0.9)).clip(0, 1)
    low, high = np.quantile(veil, (0.1, 0.9)).clip(0, 0.9)
    return (round(float(low), 3), round(float(high), 3)), (round(float(grays[0]), 3), round(float(grays[1]), 3))
