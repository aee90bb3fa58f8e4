"""Estimation of the noise of photos without ground truth, as a degradation that synthesizes it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...errors import ConfigurationError
from ...photos.pixels import center_crop, unit_float
from ...sources.folders import PhotoSource
from ..camera_noise import SRGB_GAMMA
from ..draws import generator_for
from ..fitted import FittedNoise
from ..jpeg_coding import chroma_sampling, jpeg_quality
from .coding import Coding, calibrated
from .earlier_coding import SIDE, earlier_quality, other_codec
from .inspection import FIT_SHARE, MAX_PHOTOS
from .noise_curve import (
    BRIGHTNESS,
    NOISE_FREE,
    PhotoStatistics,
    bend_of,
    color_pairs,
    fit_bend,
    fit_curve,
    fit_poisson,
    nested,
    unit_correlation,
)
from .noise_profile import NoiseProfile
from .photo_noise import BLOCK, WHITE, FlatBlocks, removed_noise
from .profile import Photos, check_side, measure_photos, sources_of
from .suitability import (
    HIDING_QUALITY,
    IMPULSES,
    REGION,
    measured_part,
    share_of_impulses,
    signs_of,
    without_impulses,
)

Restorer = Callable[[torch.Tensor], torch.Tensor]

RESTORED = 384  # side in pixels of the center crop that is restored
KNOWN_SHARE = 0.6  # the noise level can be estimated if coding leaves at least this share of the luma amplitude
QUANTILES = 11  # number of quantiles of the levels
# Noise is assumed to have passed through a tone curve if its skewness, as a share of that expected from sRGB's curve,
# is between BENT and MOST_BENT. Shot noise has a skewness of its own, which reduces the share by up to 0.57; a share
# above MOST_BENT comes from impulses or texture.
BENT, MOST_BENT = 0.25, 2.0


class TooStrongError(ConfigurationError):
    """Error for photos whose noise cannot be measured because it is clipped in all flat parts."""


def fit_noise(
    photos: Photos,
    restorer: Restorer | None = None,
    seconds: float | None = None,
) -> NoiseProfile:
    """Estimates the noise of unlabeled photos, assuming that all have the same correlation and noise curve.

    Each photo has its own level: the standard deviation at brightness b in photo i is `s_i v(b)`. Level s and curve v
    are fitted alternately by medians of logarithms, so that textured blocks and outlying photos have little effect. For
    JPEG files, the noise before coding is estimated by simulation: noise is coded on flat photos, and changed until the
    noise after coding equals that of the photos.

    Args:
        photos: one or several sources, or specs for `open_source`, such as folders; at least 3 usable photos in total.
            At most 200 per source are used.
        restorer: denoiser, which maps (3, H, W) in [0, 1] to (3, H, W). If the noise of a photo is white, its level is
            estimated from what the denoiser removes, also in textured photos. The level of correlated noise, which a
            denoiser leaves, is always estimated from flat parts.
        seconds: time limit for measuring the photos: as many as fit into it are used, and at least 3 if there are as
            many; None: no limit.

    Raises:
        ConfigurationError: fewer than 3 photos are usable; the message gives the reasons.

    Examples:
        >>> import tempfile
        >>> from daa_diffusers.degradations.fitting.noise import fit_noise
        >>> from daa_diffusers.sources.demo_photos import demo_photos
        >>> profile = fit_noise(demo_photos(tempfile.mkdtemp()).real_train_noisy)
        >>> degradation = profile.to_degradation()  # for a training config: `profile.save("noise.yaml")`
        >>> degradation.to_config()["type"]
        'fitted'
    """
    unfit: dict[str, str] = {}

    def measure(photo: torch.Tensor, source: PhotoSource, index: int) -> PhotoStatistics:
        statistics = _photo_statistics(photo, source.encoded(index), restorer)
        if reason := statistics.signs.unfit:
            unfit[str(source.label(index))] = reason
        return statistics

    sources = sources_of(photos)
    measured, skipped = measure_photos(sources, measure, most=MAX_PHOTOS * len(sources), seconds=seconds)
    return _profile(measured, skipped, unfit)


def _photo_statistics(photo: torch.Tensor, content: bytes, restorer: Restorer | None) -> PhotoStatistics:
    """Measures a photo (C, H, W), of the file `content`; a ConfigurationError gives the reason if it cannot be used."""
    check_side(photo, 2 * BLOCK)
    photo = photo.expand(3, -1, -1)
    stored = unit_float(measured_part(photo))
    if float(stored.amax() - stored.amin()) == 0:
        raise ConfigurationError("constant")
    pixels = without_impulses(stored)
    flat = FlatBlocks.of(pixels, REGION)
    if flat.clipped:
        raise TooStrongError("clipped (black or white) in all flat parts")
    quality = jpeg_quality(content)
    earlier = None if quality is None else earlier_quality(unit_float(photo[:, :SIDE, :SIDE]), quality)
    quality = earlier or quality
    signs = replace(signs_of(pixels, quality, flat), impulses=share_of_impulses(stored))
    brightness, variance = flat.brightness, flat.variance
    if restorer is not None and abs(flat.neighbors) < WHITE:
        generator = generator_for(0, "fit noise", "removed")
        removed = removed_noise(center_crop(pixels, RESTORED), restorer, generator)
        brightness, variance = removed or (brightness, variance)
    log_deviation = variance.sqrt().clamp(min=NOISE_FREE / 10).log().numpy()  # clamped, since variances may be 0
    return PhotoStatistics(
        brightness.numpy(),
        log_deviation,
        color_pairs(flat),
        quality,
        chroma_sampling(content),
        bend_of(flat),
        signs,
        is_coded_twice=earlier is not None,
        codec=other_codec(content),
    )


def _profile(photos: list[PhotoStatistics], skipped: dict[str, str], unfit: dict[str, str]) -> NoiseProfile:
    """Fits the noise to the measured photos; `skipped` and `unfit` are those of the profile."""
    # 1. photos whose noise can be measured, and properties that the fit does not cover
    noisy = [photo for photo in photos if photo.signs.unfit is None]
    bands = [photo.signs.bands for photo in noisy]
    direction = max(("rows", "columns"), key=bands.count)
    impulses = float(np.median([photo.signs.impulses for photo in photos]))
    common: dict[str, Any] = {
        "photos": len(photos),
        "noise_free": len(photos) - len(noisy),
        "blocky": sum(photo.quality is None and photo.signs.is_coarse for photo in photos),
        "skipped": skipped,
        "unfit": unfit,
        "coded_twice": sum(photo.is_coded_twice for photo in photos),
        "codecs": dict(Counter(photo.codec for photo in photos if photo.codec)),
        "impulses": impulses if impulses > IMPULSES else 0.0,
        "bands": direction if 2 * bands.count(direction) > len(bands) else None,
    }
    if len(noisy) < FIT_SHARE * len(photos):
        zeros = ((0,) * len(BRIGHTNESS),) * 3
        return NoiseProfile(None, zeros, zeros, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0), 0.0, **common)
    # 2. noise in the files: curve, levels, skewness, correlation
    coded_curve, _, observed = fit_curve(noisy)
    bend = fit_bend(noisy)
    correlation = unit_correlation(np.median([photo.correlation for photo in noisy], axis=0))
    # 3. JPEG coding, and the noise before it
    qualities = [photo.quality for photo in photos if photo.quality is not None]
    jpeg, coding = None, None
    if qualities:
        jpeg = (int(np.quantile(qualities, 0.1)), int(np.ceil(np.quantile(qualities, 0.9))))
        samplings = [photo.sampling for photo in photos if photo.quality is not None]
        coding = Coding(round(float(np.median(qualities))), max(samplings, key=samplings.count))
    curve, level, correlation, share = calibrated(noisy, coded_curve, correlation, coding)
    # the other photos are assumed to have a quarter of the weakest noise
    level = np.concatenate([level, np.full(len(photos) - len(noisy), level.min() / 4)])
    # 4. the degradation
    red, green, blue = (_rounded(255 * deviation) for deviation in curve)
    fitted = FittedNoise(
        brightness=BRIGHTNESS,
        deviation=(red, green, blue),
        level=_rounded(np.quantile(level, np.linspace(0, 1, QUANTILES))),
        correlation=nested(correlation),
        jpeg_quality=jpeg,
        jpeg_probability=round(len(qualities) / len(photos), 3),
        gamma=SRGB_GAMMA if BENT < bend < MOST_BENT else None,
        jpeg_half_chroma=coding is None or coding.sampling > 0,
    )
    shot, read, poisson_error = fit_poisson(curve[1], observed[1])
    center = correlation.shape[-1] // 2
    return NoiseProfile(
        fitted,
        observed=tuple(tuple(int(count) for count in row) for row in observed),
        as_seen=tuple(_rounded(255 * deviation) for deviation in coded_curve),
        shot=shot,
        read=read,
        poisson_error=poisson_error,
        lag=float(correlation[:3, center, center + 1].mean() + correlation[:3, center + 1, center].mean()) / 2,
        colors=_rounded(correlation[3:, center, center]),
        bend=bend,
        is_bound=coding is not None and (coding.quality < HIDING_QUALITY or share < KNOWN_SHARE),
        **common,
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Rounds to three decimals."""
    return tuple(round(float(v), 3) for v in values)
