"""Result of a noise estimation: the degradation that synthesizes the noise, and a summary as text."""

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

TWO_KINDS = 6.0  # ratio of the photos' levels above which the photos with least noise may be clean
LARGEST_POISSON_ERROR = 0.15  # error up to which shot and read noise count as a description of the noise
INDEPENDENT = 0.1  # correlation of neighbors below which they count as independent


@dataclass(frozen=True)
class NoiseProfile(Profile):
    """Noise of a set of photos.

    Attributes:
        degradation: degradation that synthesizes the noise; None if the photos have none.
        observed: (3, 10), number of blocks of red, green and blue at each brightness; without blocks, `degradation`
            extrapolates.
        as_seen: (3, 10), standard deviation (1/255) in the files, after JPEG coding.
        shot, read: parameters of `variance = shot * brightness + read**2`, fitted to the green curve (stored
            brightness, white = 1).
        poisson_error: largest relative error of this fit in standard deviation. Above `LARGEST_POISSON_ERROR`, the two
            parameters do not describe the noise, because of the tone curve.
        lag: correlation of the noise of horizontal and vertical neighbors before JPEG coding, mean of the colors.
        colors: correlations of the noise of red-green, red-blue and green-blue in one pixel.
        bend: third moment of the noise in flat parts, relative to that of Gaussian noise passed through sRGB's tone
            curve. It is 0.4 (pure shot noise) to 1 for noise that passed through such a curve, and near 0 for symmetric
            noise, or if JPEG coding of quality 75 or less has hidden the skewness. It decides whether the synthesized
            noise darkens photos (`FittedNoise.gamma`), since darkening cannot be measured without ground truth.
        photos: number of used photos.
        noise_free: number of used photos whose noise cannot be measured.
        coded_twice: number of JPEG files with an earlier, coarser JPEG coding, which is then the one that is simulated.
        codecs: number of lossy files other than JPEG, by codec; their levels are those after coding.
        blocky: number of other files whose pixels show blocks of an earlier JPEG coding of unknown quality.
        skipped: photos that cannot be used -> reason.
        unfit: photos whose noise cannot be measured -> reason (`suitability.Signs.unfit`).
        impulses: share of salt-and-pepper pixels, or 0; they are not part of the fit.
        bands: "rows" or "columns" along which the noise of most photos is constant (banding); not part of the fit.
        is_bound: whether JPEG coding hides so much noise that its level is unknown; `as_seen` is then a lower bound.
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
        """Returns the degradation for training.

        Args:
            spread: see `FittedNoise`; the default covers the error of the estimate.
            mixed: add other noise, for restorers that are also used on other photos: 4 of 6 samples have fitted noise,
                1 camera noise and 1 white Gaussian noise of sigma up to 50.

        Raises:
            ConfigurationError: the photos have no noise.
        """
        if self.degradation is None:
            raise ConfigurationError(
                f"no noise to synthesize: the noise of {self.noise_free} of {self.photos} photos cannot be measured"
                f"{self.reasons()}"
            )
        fitted = replace(self.degradation, spread=spread)
        if not mixed:
            return fitted
        return Mixture([(4, fitted), (1, CameraNoise()), (1, BlindGaussian(sigma_max=50))])

    def save(self, path: str | os.PathLike, *, spread: float = 1.25, mixed: bool = False) -> Path:
        """Writes `to_degradation(...)` as a YAML or JSON file, for `degradation: FILE` in a training config."""
        return write_degradation(self.to_degradation(spread=spread, mixed=mixed).to_config(), path, self.describe())

    def describe(self) -> str:
        """Returns a summary of the fit as text of several lines."""
        lines = [f"{self.photos} photos used, {len(self.skipped)} skipped."]
        if self.unfit:
            lines.append(f"Noise cannot be measured in {len(self.unfit)} of them{self.reasons()}")
        if self.impulses:
            lines.append(
                f"Salt and pepper: {self.impulses:.1%} of the pixels are black or white unlike their surroundings. "
                "They are not part of the fit, and the degradation has none."
            )
        if self.degradation is None:
            return "\n".join([*lines, "No noise found that can be synthesized."])
        noise = self.degradation
        measured = [
            (brightness, deviation)
            for brightness, deviation, count in zip(noise.brightness, noise.deviation[1], self.observed[1], strict=True)
            if count
        ]
        shown = measured[:: max(1, len(measured) // 5)]  # at most 9 of the 10 brightnesses
        curve = ", ".join(f"{brightness:g}: {deviation:.1f}" for brightness, deviation in shown)
        lines.append(f"Noise level of the median photo (green, in 1/255, by brightness): {curve}.")
        least, most = noise.level[1], noise.level[-2]  # the 0.1 and 0.9 quantiles
        lines.append(f"Levels of the photos: {least:.2f} to {most:.2f} times that of the median photo.")
        if most > TWO_KINDS * least:
            quietest = least * float(np.median([deviation for _, deviation in measured]))
            lines.append(
                f"Photos with the least noise, {quietest:.1f}/255, may be clean. The fit is better for photos with "
                "similar noise, and clean photos need no adaptation."
            )
        kind = (
            "white: neighboring pixels are independent"
            if abs(self.lag) < INDEPENDENT
            else "correlated between neighbors"
        )
        colors = ", ".join(f"{correlation:.2f}" for correlation in self.colors)
        lines.append(f"The noise is {kind} ({self.lag:.2f}); between colors: {colors}.")
        if self.bands:
            lines.append(f"It has bands along {self.bands}; the degradation has noise of this strength without bands.")
        if noise.gamma is not None:
            lines.append(f"It is skewed as by a tone curve ({self.bend:.2f} of sRGB's): strong noise also darkens.")
        elif noise.jpeg_probability >= 0.5:
            lines.append("JPEG coding hides the skewness; strong noise is assumed not to darken.")
        if self.poisson_error <= LARGEST_POISSON_ERROR:
            lines.append(
                f"Shot noise {self.shot:.2e}, read noise {self.read:.2e} describe it with an error of at most "
                f"{self.poisson_error:.0%}."
            )
        if noise.jpeg_quality:
            lines.append(self._jpeg_described())
        if self.coded_twice:
            lines.append(
                f"{self.coded_twice} of them were coded twice, first with lower quality, which is the one given here."
            )
        if self.codecs:
            files = ", ".join(f"{count} {codec}" for codec, count in self.codecs.items())
            lines.append(
                f"Files of other lossy codecs ({files}): their levels are those after coding, which are lower than "
                "before. Use lossless files, or JPEG files of high quality, if possible."
            )
        if self.blocky:
            lines.append(
                f"{self.blocky} photos show blocks of an earlier JPEG coding of unknown quality; the levels are those "
                "after it."
            )
        return "\n".join(lines)

    def reasons(self) -> str:
        """Returns ": ", then the reasons why noise cannot be measured and their numbers of photos; "" without any."""
        kinds = Counter(reason.partition(":")[0] for reason in self.unfit.values())  # "nearly clean: ..." by its kind
        return ": " + "; ".join(f"{kind} ({count})" for kind, count in kinds.most_common()) + "." if kinds else ""

    def _jpeg_described(self) -> str:
        """Returns the sentence of `describe` on JPEG coding."""
        assert self.degradation is not None and self.degradation.jpeg_quality is not None
        low, high = self.degradation.jpeg_quality
        chroma = ", with colors at half the resolution" if self.degradation.jpeg_half_chroma else ""
        files = f"{self.degradation.jpeg_probability:.0%} of the files are JPEG, of quality {low} to {high}{chroma}; "
        if not self.is_bound:
            return files + "the levels are those before coding."
        least = max(seen for seen, count in zip(self.as_seen[1], self.observed[1], strict=True) if count)
        return (
            f"{files}coding hides so much noise that its level before coding is unknown: at least {least:.1f}. The "
            "levels above are rough estimates."
        )
