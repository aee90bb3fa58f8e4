"""The noise of a folder of photos without ground truth, as the degradation that makes more of it."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ConfigurationError
from ...photos.pixels import middle
from ...sources.folders import PhotoSource
from ...sources.specs import open_source
from ..base import Degradation
from ..camera_noise import SRGB_GAMMA
from ..draws import generator_for
from ..fitted import FittedNoise
from ..jpeg_coding import blockiness, jpeg_quality
from ..mixture import Mixture
from ..stored import write_degradation
from .noise_curve import (
    BRIGHTNESS,
    NOISE_FREE,
    PhotoSeen,
    bend_of,
    calibrated,
    colour_pairs,
    fit_bend,
    fit_curve,
    fit_poisson,
    nested,
    unit_correlation,
)
from .photo_noise import BLOCK, FlatBlocks, removed_noise

Restorer = Callable[[torch.Tensor], torch.Tensor]

logger = logging.getLogger(__name__)

MIN_PHOTOS = 3
MAX_PHOTOS = 200  # more are thinned out evenly
REGION = 1024  # middle of a larger photo that is looked at
RESTORED = 384  # middle that is restored, where there is a restorer
BLOCKY = 1.15
WHITE = 0.2  # correlation of neighbours below which a denoiser takes all of the noise away
QUANTILES = 11
# Share of the tone curve's skewness from which on noise is taken to have come through it. The skewness of light itself,
# which is Poisson's, takes off up to 0.57 of it where shot noise is all there is.
BENT = 0.25
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class NoiseProfile:
    """The noise of a folder of photos.

    Attributes:
        degradation: makes such noise; None where the photos have none.
        observed: (3, 10), blocks of red, green and blue that were seen at each brightness; 0 where `degradation` has
            continued its curve.
        as_seen: (3, 10), the standard deviation (1/255) in the photos as they are, that is, after JPEG coding.
        shot, read: of the best `variance = shot * brightness + read**2` of the green curve (brightness as stored, white
            = 1), and `poisson_error`, its largest relative error in standard deviation: above 0.15 or so it does not
            describe the noise (a tone curve bends it).
        lag: correlation of the noise of horizontal and vertical neighbours, before JPEG coding, mean of the colours.
        colours: correlation of the noise of red-green, red-blue and green-blue in one pixel.
        bend: third moment of the noise in flat parts, over that of Gaussian noise which the tone curve of sRGB bends:
            0.4 (shot noise alone) to 1 where it came through such a curve, near 0 where it is symmetric, or where JPEG
            coding of quality 75 or less has hidden it. It says whether strong noise also darkens (`FittedNoise.gamma`),
            which photos without ground truth do not show otherwise.
        photos: number used.
        noise_free: number of these that have no noise.
        blocky: number of files other than JPEG whose pixels look as if they had been JPEG-coded, at unknown quality.
        skipped: photos left out, and why.
    """

    degradation: FittedNoise | None
    observed: tuple[tuple[int, ...], ...]
    as_seen: tuple[tuple[float, ...], ...]
    shot: float
    read: float
    poisson_error: float
    lag: float
    colours: tuple[float, ...]
    bend: float
    photos: int
    noise_free: int
    blocky: int
    skipped: dict[str, str] = field(default_factory=dict)

    def to_degradation(self, *, spread: float = 1.25, mixed: bool = False) -> Degradation:
        """What a trainer should synthesise.

        Args:
            spread: see `FittedNoise`; the default allows for the error of the estimate.
            mixed: add other noise, for restorers that will meet other photos too: of 6 samples 4 are fitted noise,
                1 is camera noise and 1 white Gaussian noise of sigma up to 50.

        Raises:
            ConfigurationError: the photos have no noise.
        """
        if self.degradation is None:
            raise ConfigurationError(f"no noise to synthesise: {self.noise_free} of {self.photos} photos have none")
        fitted = replace(self.degradation, spread=spread)
        if not mixed:
            return fitted
        from ..camera_noise import CameraNoise
        from ..gaussian import BlindGaussian

        return Mixture([(4, fitted), (1, CameraNoise()), (1, BlindGaussian(sigma_max=50))])

    def save(self, path: str | os.PathLike, *, spread: float = 1.25, mixed: bool = False) -> Path:
        """Writes `to_degradation(...)` as a YAML or JSON file, which `degradation: FILE` in a training config reads."""
        return write_degradation(self.to_degradation(spread=spread, mixed=mixed).to_config(), path, self.describe())

    def describe(self) -> str:
        """What was found, in plain words, some lines."""
        lines = [f"{self.photos} photos looked at, {len(self.skipped)} left out."]
        if self.degradation is None:
            return lines[0] + f"\nNo noise found: {self.noise_free} of them have less than half a step of 8 bits."
        noise = self.degradation
        green, seen = noise.deviation[1], self.observed[1]
        shown = [k for k in range(len(green)) if seen[k]]
        curve = ", ".join(f"{noise.brightness[k]:g}: {green[k]:.1f}" for k in shown[:: max(1, len(shown) // 5)])
        lines.append(f"Noise level (green, in 1/255, by brightness, of the middle photo): {curve}.")
        lines.append(f"Photos differ: their levels are {noise.level[1]:.2f} to {noise.level[-2]:.2f} times that.")
        kind = "white: neighbouring pixels are independent" if abs(self.lag) < 0.1 else "correlated between neighbours"
        lines.append(
            f"The noise is {kind} ({self.lag:.2f}); between colours: {', '.join(f'{c:.2f}' for c in self.colours)}."
        )
        if noise.gamma is not None:
            lines.append(f"It is skewed as by a tone curve ({self.bend:.2f} of sRGB's): strong noise darkens as well.")
        elif noise.jpeg_probability >= 0.5:
            lines.append("Whether strong noise darkens cannot be told: JPEG coding hides the skewness; taken not to.")
        if self.poisson_error <= 0.15:
            lines.append(
                f"Shot noise {self.shot:.2e}, read noise {self.read:.2e} describe it within {self.poisson_error:.0%}."
            )
        if noise.jpeg_quality:
            low, high = noise.jpeg_quality
            lines.append(f"{noise.jpeg_probability:.0%} of the files are JPEG, of quality {low} to {high}; ")
            lines[-1] += "the levels are those before coding."
        if self.blocky:
            lines.append(f"{self.blocky} photos look as if JPEG-coded before they were stored; the quality is unknown.")
        if self.noise_free:
            lines.append(f"{self.noise_free} photos have no noise.")
        return "\n".join(lines)


def fit_noise(
    photos: str | os.PathLike | PhotoSource | Sequence[str | os.PathLike | PhotoSource],
    restorer: Restorer | None = None,
) -> NoiseProfile:
    """Estimates the noise of unlabelled photos, whose noise depends on brightness and has one kind of correlation.

    Each photo has a level of its own: the deviation at brightness b of photo i is `s_i v(b)`, both fitted in turn by
    medians in the logarithm, so that textured blocks and odd photos count little. Of JPEG files, the noise before
    coding is found by simulation: noise is coded on flat photos and changed until what is left of it is what the
    photos show.

    Args:
        photos: one or several folders (or what else `open_source` knows) or sources; at least 3 usable photos together,
            at most 200 of a source are looked at.
        restorer: a denoiser, (3, H, W) in [0, 1] -> the same. Where a photo's noise is white, its strength is that of
            what the denoiser removes, which is right in textured photos too; a denoiser leaves correlated noise, so
            that there the flat parts are believed.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; it lists why others are not.
    """
    given = [photos] if isinstance(photos, str | os.PathLike | PhotoSource) else list(photos)
    sources = [p if isinstance(p, PhotoSource) else open_source(p, cache_bytes=0, argument="photos") for p in given]
    seen: list[PhotoSeen] = []
    skipped: dict[str, str] = {}
    for source in sources:
        for index, photo in source.sample(MAX_PHOTOS):
            try:
                seen.append(_look(photo, jpeg_quality(source.encoded(index)), restorer))
            except ConfigurationError as error:
                skipped[str(source.label(index))] = str(error)
        skipped |= {str(label): reason for label, reason in source.skipped.items()}
    if len(seen) < MIN_PHOTOS:
        why = "".join(f"\n- {name}: {reason}" for name, reason in list(skipped.items())[:10])
        raise ConfigurationError(f"`photos` must hold at least {MIN_PHOTOS} usable photos, got {len(seen)}{why}")
    return _profile(seen, skipped)


def _look(photo: torch.Tensor, quality: int | None, restorer: Restorer | None) -> PhotoSeen:
    """Raises ConfigurationError with the reason why a photo (C, H, W) is of no use."""
    if min(photo.shape[1:]) < 2 * BLOCK:
        raise ConfigurationError(f"smaller than {2 * BLOCK} pixels: {photo.shape[2]} x {photo.shape[1]}")
    pixels = photo.expand(3, -1, -1).float() / torch.iinfo(photo.dtype).max
    inner = middle(pixels, REGION)
    if float(inner.amax() - inner.amin()) == 0:
        raise ConfigurationError("constant")
    flat = FlatBlocks.of(pixels, REGION)
    if flat.clipped:
        raise ConfigurationError("clipped (black or white) wherever it is flat")
    brightness, variance = flat.brightness, flat.variance
    if restorer is not None and abs(_neighbours(flat.correlation)) < WHITE:
        generator = generator_for(0, "fit noise", "removed")
        brightness, variance = removed_noise(middle(pixels, RESTORED), restorer, generator) or (brightness, variance)
    deviation = variance.sqrt().clamp(min=NOISE_FREE / 10)
    is_blocky = quality is None and blockiness(pixels) > BLOCKY
    log_deviation = deviation.log().numpy()
    return PhotoSeen(brightness.numpy(), log_deviation, colour_pairs(flat), quality, is_blocky, bend_of(flat))


def _neighbours(correlation: torch.Tensor) -> float:
    """Mean correlation of horizontal and vertical neighbours of one colour, of (C, C, n, n)."""
    half = correlation.shape[-1] // 2
    own = correlation.diagonal().permute(2, 0, 1)  # (C, n, n)
    return float((own[:, half, half + 1] + own[:, half + 1, half]).mean()) / 2


def _profile(seen: list[PhotoSeen], skipped: dict[str, str]) -> NoiseProfile:
    noisy = [one for one in seen if one.is_noisy]
    common: dict[str, Any] = {
        "photos": len(seen),
        "noise_free": len(seen) - len(noisy),
        "blocky": sum(one.blocky for one in seen),
        "skipped": skipped,
    }
    if 2 * len(noisy) < len(seen):
        nothing = tuple((0,) * len(BRIGHTNESS) for _ in COLOURS)
        return NoiseProfile(None, nothing, nothing, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0), 0.0, **common)
    curve, level, observed = fit_curve(noisy)
    bend = fit_bend(noisy)
    correlation = unit_correlation(np.median([one.correlation for one in noisy], axis=0))
    as_seen = curve
    qualities = [one.quality for one in seen if one.quality is not None]
    jpeg = None
    if qualities:
        jpeg = (int(np.quantile(qualities, 0.1)), int(np.ceil(np.quantile(qualities, 0.9))))
    curve, level, correlation = calibrated(
        noisy, curve, level, correlation, round(float(np.median(qualities))) if qualities else None
    )
    level = np.concatenate([level, np.full(len(seen) - len(noisy), level.min() / 4)])  # those without noise
    fitted = FittedNoise(
        brightness=BRIGHTNESS,
        deviation=(_rounded(255 * curve[0]), _rounded(255 * curve[1]), _rounded(255 * curve[2])),
        level=_rounded(np.quantile(level, np.linspace(0, 1, QUANTILES))),
        correlation=nested(correlation),
        jpeg_quality=jpeg,
        jpeg_probability=round(len(qualities) / len(seen), 3),
        gamma=SRGB_GAMMA if bend > BENT else None,
    )
    half = correlation.shape[-1] // 2
    lag = float(correlation[:3, half, half + 1].mean() + correlation[:3, half + 1, half].mean()) / 2
    return NoiseProfile(
        fitted,
        tuple(tuple(int(n) for n in row) for row in observed),
        tuple(_rounded(255 * row) for row in as_seen),
        *fit_poisson(curve[1], observed[1]),
        lag,
        _rounded(correlation[3:, half, half]),
        bend,
        **common,
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(v), 3) for v in values)
