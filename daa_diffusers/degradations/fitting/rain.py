"""Estimation of the rain in photos without ground truth, as a degradation that synthesizes it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import ConfigurationError
from ..base import Degradation
from ..draws import generator_for
from ..filtered_rain import FilteredRain
from ..filters import gaussian_filter
from ..mixture import Mixture
from ..rain import RainStreaks
from ..sequence import DegradationSequence
from .profile import MIN_PHOTOS, Photos, Profile, check_side, color_crop, gray, measure_photos, sources_of

Restorer = Callable[[torch.Tensor], torch.Tensor]

MAX_PHOTOS = 48  # largest number of photos, equally spaced in the sources
SIDE, SMALLEST = 256, 64  # pixels, sides of the center crops and of the smallest usable photo
# Only the smoothest share `SMOOTH` of a photo's pixels is inspected, since a derainer also removes fine detail. A photo
# is rainy if streaks brighter than `LIGHT` cover more than a share `RAINY` of these pixels and their gradients have a
# common direction (a coherence above `COHERENT`). With a derainer trained for 400 steps, this share is above 0.03 in
# 90 % of Rain100L (median 0.067) and below 0.02 in 90 % of clean photos (BSDS, median 0.005).
SMOOTH, LIGHT, RAINY, COHERENT = 0.4, 0.03, 0.015, 0.5
RAINY_PHOTOS = 0.5  # least share of rainy photos for a fit
BLUR = 10.0  # pixels, standard deviation of the low-pass filter that separates slow changes of brightness from streaks
SLOPE_BLUR = 3.0  # pixels, standard deviation of the filter of the gradients by which smooth parts are selected
ROUNDS, AVERAGED = 6, 3  # rounds of synthesis and comparison, and number of last rounds that are averaged
TRIED = 12  # largest number of photos on which rain is synthesized in each round
# Fitted parameters (share of the pixels, white = 1, pixels, pixels), and their bounds.
FITTED = ("cover", "brightness", "length", "width")
LOWEST, HIGHEST = np.array([1e-3, 0.01, 2, 0.5]), np.array([0.8, 1.0, 150, 15])
MIN_VEIL_GRAY = 0.5  # smallest gray of a veil
MIN_VEIL = 0.05  # smallest strength of a veil, the ratio of the darkest values to its gray
DARKEST = 15  # pixels, side of the neighborhoods whose darkest values indicate a veil


class StreakStatistics(NamedTuple):
    """Statistics of the streaks of a photo.

    Attributes:
        angle: angle in degrees from vertical.
        coherence: coherence of the gradients, in [0, 1]; 1: all have the same direction.
        cover, brightness: m1**2 / m2 and m2 / m1 with the means m1 of the light and m2 of its square, which are share
            and brightness of the streaks if all are equally bright.
        length, width: distances in pixels along and across the streaks at which the autocorrelation falls to a half.
    """

    angle: float
    coherence: float
    cover: float
    brightness: float
    length: float
    width: float


@dataclass(frozen=True)
class RainProfile(Profile):
    """Rain of a set of photos.

    Attributes:
        streaks, filtered: ranges of "cover", "length", "width", "brightness" and "angle", for `RainStreaks` and for
            `FilteredRain`, which define them slightly differently; None: the photos have no rain.
        veil, veil_grey: ranges of the veil's strength and gray, in [0, 1]; None: there is no veil.
        photos: number of used photos.
        rainy: number of used photos with rain.
        skipped: photos that cannot be used -> reason.
    """

    streaks: dict[str, Any] | None
    filtered: dict[str, Any] | None
    veil: tuple[float, float] | None
    veil_grey: tuple[float, float] | None
    photos: int
    rainy: int
    skipped: dict[str, str] = field(default_factory=dict)

    def to_degradation(self) -> Degradation:
        """Returns a mixture of both kinds of streaks, with the veil, if any; raises ConfigurationError without rain."""
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
        if self.veil is not None:  # `FilteredRain` has no veil: it is added by `RainStreaks` with hardly any streaks
            filtered = DegradationSequence([RainStreaks(cover=(1e-4, 1e-4), **veil), filtered])
        return Mixture([(2, filtered), (1, streaks)])

    def describe(self) -> str:
        """Returns a summary of the fit as text of several lines."""
        lines = [f"{self.photos} photos used, {len(self.skipped)} skipped; {self.rainy} have rain."]
        if self.streaks is None:
            return "\n".join([*lines, "No rain found that can be synthesized."])
        units = {"angle": " degrees from vertical", "length": " pixels", "width": " pixels"}
        for name, (low, high) in self.streaks.items():
            lines.append(f"{name.capitalize()}: {low:.3g} to {high:.3g}{units.get(name, '')}.")
        if self.veil is None:
            lines.append("No veil.")
        else:
            lines.append(f"Veil: {self.veil[0]:.2f} to {self.veil[1]:.2f}.")
        return "\n".join(lines)


def fit_rain(photos: Photos, restorer: Restorer, seconds: float | None = None) -> RainProfile:
    """Estimates the rain of unlabeled photos from the streaks that a derainer removes.

    Rain is synthesized on the restored photos, and removed again by the derainer. The parameters of the synthesis are
    changed until the removed synthetic streaks have the same statistics as those removed from the photos, so that
    errors of the derainer affect both.

    Args:
        photos: one or several sources, or specs for `open_source`, such as folders; at least 3 usable photos in total.
        restorer: derainer, which maps (3, H, W) in [0, 1] to (3, H, W).
        seconds: time limit for restoring the photos: as many as fit into it are used; None: no limit.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; the message gives the reasons.
    """

    def restored_pair(photo: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        check_side(photo, SMALLEST)
        crop = color_crop(photo, SIDE)
        return crop, restorer(crop).clamp(0, 1)

    pairs, skipped = measure_photos(sources_of(photos), restored_pair, most=MAX_PHOTOS, seconds=seconds)
    rainy: list[StreakStatistics] = []
    backgrounds: list[torch.Tensor] = []
    for photo, background in pairs:
        light, smooth = streaks_of(gray(photo) - gray(background), background)
        statistics = measure_streaks(light, smooth)
        if (light[smooth] > LIGHT).mean() > RAINY and statistics.coherence > COHERENT:
            rainy.append(statistics)
            backgrounds.append(background)
    common: dict[str, Any] = {"photos": len(pairs), "rainy": len(rainy), "skipped": skipped}
    if len(rainy) < max(MIN_PHOTOS, RAINY_PHOTOS * len(pairs)):
        return RainProfile(None, None, None, None, **common)
    # one layer, added to the photo; the parameters in `FITTED` and the angle are replaced
    streaks = RainStreaks(
        across_probability=0, veil_probability=0, screen_probability=0, layers=(1, 1), angle_spread=(0, 2)
    )
    filtered = FilteredRain(screen_probability=0, layers=(1, 1), contrast=(0.5, 2.0), angle_spread=(0, 2))
    return RainProfile(
        _fitted(streaks, np.array(rainy), backgrounds, restorer),
        _fitted(filtered, np.array(rainy), backgrounds, restorer),
        *_veil([photo for photo, _ in pairs]),
        **common,
    )


def streaks_of(removed: np.ndarray, restored: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns the light of streaks (H, W) in the removed luma, and the mask (H, W) of smooth parts.

    Args:
        removed: luma (H, W) of a photo minus that of the restored one; its slow changes are subtracted.
        restored: restored photo (3, H, W) in [0, 1].
    """
    light = np.maximum(removed - _smooth(removed, BLUR), 0)
    slope = _smooth(np.hypot(*_gradient(gray(restored))), SLOPE_BLUR)
    return light, slope <= np.quantile(slope, SMOOTH)


def measure_streaks(light: np.ndarray, smooth: np.ndarray) -> StreakStatistics:
    """Measures the light of streaks (H, W) inside the mask `smooth` (H, W)."""
    down, right = (derivative[smooth] for derivative in _gradient(light))
    # structure tensor: direction and coherence of the gradients
    xx, yy, xy = (right**2).sum(), (down**2).sum(), (down * right).sum()
    angle = math.degrees(0.5 * math.atan2(2 * xy, xx - yy))
    coherence = math.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-12)
    first, second = light[smooth].mean(), (light[smooth] ** 2).mean()  # moments
    # autocorrelation of the rotated streaks inside the mask, divided by that of the mask, which may be near 0
    upright, mask = (_rotated(image, angle) for image in ((light - first) * smooth, 1.0 * smooth))
    correlation = _autocorrelation(upright) / np.maximum(_autocorrelation(mask), 1e-3 * mask.sum())
    correlation /= max(correlation[0, 0], 1e-12)
    half = min(light.shape) // 2
    return StreakStatistics(
        angle,
        coherence,
        float(first**2 / max(second, 1e-12)),
        float(second / max(first, 1e-9)),
        _half_width(correlation[:half, 0]),
        _half_width(correlation[0, :half]),
    )


def _gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Filters (H, W) by derivatives of Gaussians, down and right, since pixel differences are anisotropic."""
    offsets = torch.arange(-4, 5, dtype=torch.float32)  # pixels; the Gaussian has a standard deviation of 1
    gaussian = torch.exp(-(offsets**2) / 2)
    gaussian, slope = gaussian / gaussian.sum(), offsets * gaussian / (offsets**2 * gaussian).sum()
    padded = F.pad(_tensor(image), (4,) * 4, mode="reflect")
    down = F.conv2d(F.conv2d(padded, slope.view(1, 1, -1, 1)), gaussian.view(1, 1, 1, -1))
    right = F.conv2d(F.conv2d(padded, slope.view(1, 1, 1, -1)), gaussian.view(1, 1, -1, 1))
    return down[0, 0].numpy(), right[0, 0].numpy()


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Filters (H, W) by a Gaussian of standard deviation `sigma` in pixels."""
    return gaussian_filter(_tensor(image), sigma)[0, 0].numpy()


def _rotated(image: np.ndarray, angle: float) -> np.ndarray:
    """Rotates (H, W) about its center such that lines `angle` degrees from vertical become vertical; zero outside."""
    height, width = image.shape
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    rotation = torch.tensor([[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]])
    grid = F.affine_grid(rotation, [1, 1, height, width], align_corners=False)
    return F.grid_sample(_tensor(image), grid, align_corners=False)[0, 0].numpy()


def _tensor(image: np.ndarray) -> torch.Tensor:
    """Converts (H, W) to (1, 1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]


def _autocorrelation(image: np.ndarray) -> np.ndarray:
    """Computes the autocorrelation (2H, 2W) of (H, W), which is zero outside; lag (0, 0) comes first."""
    size = [2 * side for side in image.shape]  # zero padding: not circular
    return np.fft.irfft2(np.abs(np.fft.rfft2(image, size)) ** 2, size)


def _half_width(correlation: np.ndarray) -> float:
    """Returns the position at which values (N,) starting at 1 first fall to a half, by linear interpolation."""
    below = np.flatnonzero(correlation < 0.5)
    if not len(below):
        return float(len(correlation))
    last = below[0] - 1  # the last position above a half
    return float(last + (correlation[last] - 0.5) / (correlation[last] - correlation[last + 1]))


def _fitted(
    rain: RainStreaks | FilteredRain, rainy: np.ndarray, backgrounds: list[torch.Tensor], restorer: Restorer
) -> dict[str, tuple[float, float]]:
    """Fits ranges of the angle and of the parameters `FITTED`, the other fields being those of `rain`.

    The parameters of the median photo are found by rounds of synthesis. The ranges around these are as wide as the
    spread of the photos' statistics.

    Args:
        rain: kind of rain to fit.
        rainy: `StreakStatistics` of each rainy photo, (N, 6).
        backgrounds: the restored photos, on which rain is synthesized.
        restorer: derainer.
    """
    columns = [StreakStatistics._fields.index(name) for name in FITTED]
    target = np.median(rainy, 0)[columns]
    angle = float(np.median(rainy[:, 0]))
    value = target * (1, 1, 2, 1)  # initial guess: an autocorrelation falls to a half at about half the length
    backgrounds = backgrounds[:TRIED]
    # what the derainer removes from backgrounds without rain (detail, remaining rain) is subtracted below
    offsets = [gray(background) - gray(restorer(background).clamp(0, 1)) for background in backgrounds]
    values = []
    for _ in range(ROUNDS):
        value = value.clip(LOWEST, HIGHEST)
        parameters: dict[str, Any] = {
            name: (number, number) for name, number in zip(FITTED, value.tolist(), strict=True)
        }
        candidate = replace(rain, angle=(angle, angle), **parameters)
        statistics = []
        for number, background in enumerate(backgrounds):
            photo = candidate(background[None], generator_for(0, "fit rain", number))[0]
            restored = restorer(photo).clamp(0, 1)
            removed = gray(photo) - gray(restored) - offsets[number]
            statistics.append(measure_streaks(*streaks_of(removed, restored)))
        measured = np.median(np.array(statistics), 0)[columns]
        value = value * (target / np.maximum(measured, 1e-6)).clip(0.3, 3) ** 0.8  # damped fixed-point iteration
        values.append(np.log(value))
    value = np.exp(np.mean(values[-AVERAGED:], axis=0))
    # parameters of photos are assumed to be proportional to their statistics
    least, most = np.maximum(np.quantile(rainy[:, columns], (0.1, 0.9), axis=0), 1e-6)
    spread = np.sqrt(most / least)
    bounds = np.stack([value / spread, value * spread], 1).clip(LOWEST[:, None], HIGHEST[:, None])  # (parameters, 2)
    angles = np.quantile(rainy[:, 0], (0.05, 0.95)) + (-1, 1)  # a degree more on both sides
    ranges = {name: _rounded(pair, 4) for name, pair in zip(FITTED, bounds, strict=True)}
    return {**ranges, "angle": _rounded(angles.clip(-90, 90), 2)}


def _rounded(pair: np.ndarray, digits: int) -> tuple[float, float]:
    low, high = pair.tolist()
    return round(low, digits), round(high, digits)


def _veil(photos: list[torch.Tensor]) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Estimates the ranges of strength and gray of the veil; None if there is none.

    The estimate uses the darkest values of neighborhoods (He et al. 2009, "Single image haze removal using dark channel
    prior"), which are black in nearly every photo without a veil.
    """
    strengths, grays = [], []
    for photo in photos:
        dark = -F.max_pool2d(-photo.amin(0)[None], DARKEST, stride=DARKEST // 2)  # minima of neighborhoods
        grays.append(max(float(np.quantile(gray(photo), 0.99)), MIN_VEIL_GRAY))
        strengths.append(float(np.quantile(dark.numpy(), 0.02)) / grays[-1])
    if np.median(strengths) < MIN_VEIL:
        return None, None
    veil = np.quantile(strengths, (0.1, 0.9)).clip(0, 0.9)
    return _rounded(veil, 3), _rounded(np.quantile(grays, (0.1, 0.9)).clip(0, 1), 3)
