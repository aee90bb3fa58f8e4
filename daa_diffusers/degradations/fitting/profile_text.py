"""Summary of an estimate of noise, for people."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .noise import NoiseProfile

TWO_KINDS = 6.0  # ratio of the levels of a folder's photos from which on the quietest may be clean


def described(profile: "NoiseProfile") -> str:
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
    lines.append(f"Noise level (green, in 1/255, by brightness, of the middle photo): {curve}.")
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


def _coding(profile: "NoiseProfile") -> str:
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
