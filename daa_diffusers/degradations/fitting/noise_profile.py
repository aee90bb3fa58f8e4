"""Result of an estimate of noise: the degradation that synthesizes it, and a summary as text."""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...errors import ConfigurationError
from ..base import Degradation
from ..camera_noise import CameraNoise
from ..config_files import write_degradation
from ..fitted import FittedNoise
from ..gaussian import BlindGaussian
from ..mixture import Mixture
from .profile import Profile

TWO_KINDS = 6.0  # ratio of the levels of a folder's photos from which on the quietest may be clean


@dataclass(frozen=True)
class NoiseProfile(Profile):
    """The noise of a folder of photos.

    Attributes:
        degradation: makes such noise; None where the photos have none.
        observed: (3, 10), number of blocks of red, green and blue at each brightness; 0 where `degradation`
            extrapolates.
        as_seen: (3, 10), the standard deviation (1/255) in the photos as they are, that is, after JPEG coding.
        shot, read: of the best `variance = shot * brightness + read**2` of the green curve (brightness as stored, white
            = 1), and `poisson_error`, its largest relative error in standard deviation: above 0.15 or so it does not
            describe the noise (a tone curve bends it).
        lag: correlation of the noise of horizontal and vertical neighbors, before JPEG coding, mean of the colors.
        colors: correlation of the noise of red-green, red-blue and green-blue in one pixel.
        bend: third moment of the noise in flat parts, over that of Gaussian noise which the tone curve of sRGB bends:
            0.4 (shot noise alone) to 1 where it passed through such a curve, near 0 where it is symmetric, or where
            JPEG coding of quality 75 or less has hidden it. It decides whether noise also darkens
            (`FittedNoise.gamma`), which cannot be measured otherwise without ground truth.
        photos: number used.
        noise_free: number of these that have no noise.
        coded_twice: number of JPEG files that were JPEG-coded more coarsely before; the coarser coding is simulated.
        codecs: number of lossy files other than JPEG by codec, of which the levels are those after coding.
        blocky: number of files other than JPEG whose pixels look as if they had been JPEG-coded, at unknown quality.
        skipped: photos that cannot be used, and why.
        unfit: photos whose noise cannot be measured (`suitability.Signs.unfit`), and why.
        impulses: share of the pixels that are salt and pepper; 0 where photos have none. They are not part of the fit.
        bands: "rows" or "columns" along which the noise of most photos is constant (banding); the fit has no bands.
        is_bound: JPEG coding has hidden so much that the levels before it are unknown; those in `as_seen` are lower
            bounds.
    """

    degradation: FittedNoise | None
    observed: tuple[tuple[int, ...], ...]
    as_seen: tuple[tuple[float, ...], ...]
    shot: float
    read: float
    poisson_error: float
    lag: float
    colors: tuple[float, ...]
    bend: float
    photos: int
    noise_free: int
    blocky: int
    skipped: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    impulses: float = 0.0
    bands: str | None = None
    is_bound: bool = False
    coded_twice: int = 0
    codecs: dict[str, int] = field(default_factory=dict)

    def to_degradation(self, *, spread: float = 1.25, mixed: bool = False) -> Degradation:
        """The degradation for training.

        Args:
            spread: see `FittedNoise`; the default allows for the error of the estimate.
            mixed: add other noise, for restorers that are used on other photos too: of 6 samples 4 are fitted noise,
                1 is camera noise and 1 white Gaussian noise of sigma up to 50.

        Raises:
            ConfigurationError: the photos have no noise.
        """
        if self.degradation is None:
            raise ConfigurationError(
                f"no noise to synthesize: that of {self.noise_free} of {self.photos} photos cannot be measured"
                f"{self.reasons()}"
            )
        fitted = replace(self.degradation, spread=spread)
        if not mixed:
            return fitted
        return Mixture([(4, fitted), (1, CameraNoise()), (1, BlindGaussian(sigma_max=50))])

    def save(self, path: str | os.PathLike, *, spread: float = 1.25, mixed: bool = False) -> Path:
        """Writes `to_degradation(...)` as a YAML or JSON file, which `degradation: FILE` in a training config reads."""
        return write_degradation(self.to_degradation(spread=spread, mixed=mixed).to_config(), path, self.describe())

    def describe(self) -> str:
        """Summary of the fit as text, some lines."""
        return _described(self)

    def reasons(self) -> str:
        """Why the noise of photos cannot be measured, with their number; "" where it can."""
        kinds = Counter(reason.partition(":")[0] for reason in self.unfit.values())
        return ": " + "; ".join(f"{kind} ({count})" for kind, count in kinds.most_common()) + "." if kinds else ""


def _described(profile: NoiseProfile) -> str:
    """Summary of a fit as text, some lines."""
    lines = [f"{profile.photos} photos examined, {len(profile.skipped)} left out."]
    if profile.unfit:
        lines.append(f"Noise cannot be measured in {len(profile.unfit)} of them{profile.reasons()}")
    if profile.impulses:
        lines.append(
            f"Salt and pepper: {profile.impulses:.1%} of the pixels are black or white unlike their surroundings. "
            "They are not part of the fit, and the degradation has none."
        )
    if profile.degradation is None:
        return "\n".join([*lines, "No noise found that can be synthesized."])
    noise = profile.degradation
    green, counts = noise.deviation[1], profile.observed[1]
    shown = [k for k in range(len(green)) if counts[k]]
    curve = ", ".join(f"{noise.brightness[k]:g}: {green[k]:.1f}" for k in shown[:: max(1, len(shown) // 5)])
    lines.append(f"Noise level (green, in 1/255, by brightness, of the median photo): {curve}.")
    least, most = noise.level[1], noise.level[-2]
    lines.append(f"Photos differ: their levels are {least:.2f} to {most:.2f} times that.")
    if most > TWO_KINDS * least:
        quietest = least * float(np.median([green[k] for k in shown]))
        lines.append(
            f"The quietest of them may be clean: they have {quietest:.1f}/255. Photos that are alike in their "
            "noise are fitted better, and clean ones have nothing to adapt to."
        )
    kind = "white: neighboring pixels are independent" if abs(profile.lag) < 0.1 else "correlated between neighbors"
    lines.append(
        f"The noise is {kind} ({profile.lag:.2f}); between colors: {', '.join(f'{c:.2f}' for c in profile.colors)}."
    )
    if profile.bands:
        lines.append(f"It runs along {profile.bands} (banding); the degradation makes as much noise, without bands.")
    if noise.gamma is not None:
        lines.append(f"It is skewed as by a tone curve ({profile.bend:.2f} of sRGB's): strong noise darkens as well.")
    elif noise.jpeg_probability >= 0.5:
        lines.append("Whether strong noise darkens is unknown, because JPEG coding hides the skewness; assumed not to.")
    if profile.poisson_error <= 0.15:
        parts = f"Shot noise {profile.shot:.2e}, read noise {profile.read:.2e}"
        lines.append(f"{parts} describe it within {profile.poisson_error:.0%}.")
    if noise.jpeg_quality:
        lines.append(_coding(profile))
    if profile.coded_twice:
        lines.append(
            f"{profile.coded_twice} of them were coded twice, before with less quality: that is the one given here."
        )
    if profile.codecs:
        files = ", ".join(f"{count} {codec}" for codec, count in profile.codecs.items())
        lines.append(
            f"Lossy files of other codecs ({files}): they hold less noise than there was before coding, and the levels "
            "are those after it. JPEG files of high quality, or lossless ones, show more."
        )
    if profile.blocky:
        lines.append(
            f"{profile.blocky} photos look as if JPEG-coded before they were stored; the quality is unknown, and the "
            "levels are those after it."
        )
    return "\n".join(lines)


def _coding(profile: NoiseProfile) -> str:
    assert profile.degradation is not None and profile.degradation.jpeg_quality is not None
    low, high = profile.degradation.jpeg_quality
    size = ", with colors at half the size" if profile.degradation.jpeg_half_chroma else ""
    said = f"{profile.degradation.jpeg_probability:.0%} of the files are JPEG, of quality {low} to {high}{size}; "
    if not profile.is_bound:
        return said + "the levels are those before coding."
    least = max(v for v, count in zip(profile.as_seen[1], profile.observed[1], strict=True) if count)
    return said + (
        f"it hides the noise, whose level before coding cannot be known: at least {least:.1f}. Of the above "
        "coding leaves what the photos show."
    )
