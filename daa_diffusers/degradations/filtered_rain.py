"""Synthetic rain by filtering: sparse noise, blurred along a line and thresholded."""

import math
from dataclasses import dataclass

import torch

from .base import ConfigurableDegradation, register_degradation
from .checks import check_clean, check_flag, check_whole_range
from .draws import log_uniform, normal, uniform
from .psf import convolve, trajectory_psf
from .rain import FWHM, MAX_LENGTH, used_layers, with_light

POINTS = 64  # number of points of the line along which a grain is blurred
MIN_THRESHOLD = 0.03  # smallest threshold, as a share of the brightest pixel; darker pixels are ringing of the blur
QUANTILE_PIXELS = 1 << 16  # approximate number of pixels of a layer from which quantiles are estimated


@register_degradation("filtered_rain")
@dataclass(frozen=True)
class FilteredRain(ConfigurableDegradation):
    """Rain as synthesized by image editors, and as in Rain100L, Rain100H and similar data sets.

    Each sample has one main angle and a few layers. A layer is sparse noise: a share `density` of its pixels are grains
    of random brightness. It is blurred to the width of a streak and along a line, and a threshold keeps the brightest
    pixels, a share of `cover` over all layers,

        rain = brightness * min(1, contrast (noise - threshold) / mean of (noise - threshold) above the threshold).

    With few grains, streaks are separate and of one length. Many grains overlap, and form streaks of irregular length
    and outline, side by side or in rows, unlike `RainStreaks`, which draws each streak separately. The rain is added to
    the photo or screened: 1 - (1 - clean) (1 - rain). There is no veil.

    Args:
        cover: range of the share of the pixels covered by rain, log-uniform; over all layers.
        layers: range of the number of layers (whole numbers, at least 1), uniform. Each layer has its own density,
            length, width and contrast.
        density: range of the share of the pixels that are grains, log-uniform.
        length: range of the length of the line in pixels, log-uniform; at most 200.
        taper: range of the taper of the brightness along the line, uniform: at 0 it is constant, at 1 it falls linearly
            to zero at both ends.
        width: range of the full width at half maximum of a blurred grain in pixels, log-uniform.
        angle: range of the angle in degrees from vertical, uniform; positive leans to the right at the top.
        angle_spread: range of the standard deviation in degrees of the layers' angles around the main angle, uniform.
        across_probability: probability that the rain of a sample is rotated by 90 degrees (see `RainStreaks`).
        lens: range of the standard deviation in pixels of the final Gaussian blur of the streaks, uniform.
        brightness: range of the peak brightness (white = 1), uniform.
        contrast: range of the contrast, log-uniform: below 0.3 few pixels reach the peak brightness, above 2 most do.
        screen_probability: probability that the rain of a sample is screened; otherwise it is added.
        clip: clip the result to [0, 1], as files do.

    Raises:
        ConfigurationError: a value is not a number, not a pair, or out of range.
    """

    cover: tuple[float, float] = (0.02, 0.3)
    layers: tuple[int, int] = (1, 2)
    density: tuple[float, float] = (0.003, 0.5)
    length: tuple[float, float] = (10.0, 60.0)
    taper: tuple[float, float] = (0.0, 1.0)
    width: tuple[float, float] = (0.8, 3.0)
    angle: tuple[float, float] = (-40.0, 40.0)
    angle_spread: tuple[float, float] = (0.0, 3.0)
    across_probability: float = 0.0
    lens: tuple[float, float] = (0.0, 0.7)
    brightness: tuple[float, float] = (0.15, 1.0)
    contrast: tuple[float, float] = (0.25, 3.0)
    screen_probability: float = 0.2
    clip: bool = True

    def __post_init__(self):
        bounds = {
            "cover": (1e-4, 0.9),
            "density": (1e-4, 1),
            "length": (1, MAX_LENGTH),
            "taper": (0, 1),
            "width": (0.3, 20),
            "angle": (-90, 90),
            "angle_spread": (0, 90),
            "lens": (0, 5),
            "brightness": (1e-3, 1),
            "contrast": (0.05, 20),
        }
        self.check_fields(bounds, ("across_probability", "screen_probability"))
        check_flag("clip", self.clip)
        object.__setattr__(self, "layers", check_whole_range("layers", self.layers, 1, 10))

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Adds rain to photos (B, C, H, W) in [0, 1]; raises ValueError for another rank or dtype."""
        check_clean(clean)
        per_sample = (clean.shape[0], 1, 1, 1)
        rain = self._layers(clean, generator).sum(1, keepdim=True).clamp(max=1)  # (B, 1, H, W)
        point = rain.new_ones(per_sample)  # PSF without motion: only the lens blurs
        rain = convolve(rain, point, uniform(per_sample, *self.lens, clean, generator)).clamp(min=0)
        rain = rain * uniform(per_sample, *self.brightness, clean, generator)
        degraded = with_light(clean, rain, self.screen_probability, generator)
        return degraded.clamp(0, 1) if self.clip else degraded

    def _layers(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws layers (B, most, H, W) in [0, 1]; those that a sample does not use are zero."""
        batch, _, height, width = clean.shape
        most = self.layers[1]
        per_layer = (batch * most,)
        used = used_layers(self.layers, clean, generator)  # (B, most)
        cover = log_uniform((batch, 1), *self.cover, clean, generator) / used.sum(1, keepdim=True)
        density, length, streak_width, contrast = (
            log_uniform(per_layer, *bounds, clean, generator)
            for bounds in (self.density, self.length, self.width, self.contrast)
        )
        taper = uniform(per_layer, *self.taper, clean, generator)
        angle, spread = (uniform((batch, 1), *bounds, clean, generator) for bounds in (self.angle, self.angle_spread))
        across = uniform((batch, 1), 0, 1, clean, generator) < self.across_probability
        lean = angle + spread * normal((batch, most), clean, generator) + 90 * across
        psf = trajectory_psf(_lines(length, taper, torch.deg2rad(lean).flatten()))
        # margins: streaks of grains outside the photo extend into it
        margin = psf.shape[-1] // 2
        size = (batch * most, 1, height + 2 * margin, width + 2 * margin)
        chance, light = (uniform(size, 0, 1, clean, generator) for _ in range(2))
        grains = torch.where(chance < density[:, None, None, None], light, 0.0)
        noise = convolve(grains, psf, (streak_width / FWHM)[:, None, None, None])
        noise = noise[..., margin : margin + height, margin : margin + width]
        layers = _threshold(noise, cover.expand(batch, most).flatten(), contrast)
        return layers.view(batch, most, height, width) * used[:, :, None, None]


def _lines(length: torch.Tensor, taper: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Returns paths (N, POINTS, 2) along lines; points carry equal light, and are sparser where the line is darker.

    Arguments are (N,): lengths in pixels, tapers in [0, 1], and angles in radians from vertical.
    """
    even = (torch.arange(POINTS, dtype=length.dtype, device=length.device) + 0.5) / POINTS * 2 - 1  # in (-1, 1)
    triangle = even.sign() * (1 - (1 - even.abs()).sqrt())  # quantiles of a triangular distribution
    along = even + taper[:, None] * (triangle - even)  # (N, POINTS)
    along = along * length[:, None] / 2
    return torch.stack([-along * angle.cos()[:, None], along * angle.sin()[:, None]], dim=-1)


def _threshold(noise: torch.Tensor, cover: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
    """Subtracts from noise (N, 1, H, W) the threshold that a share `cover` (N,) of its pixels exceeds.

    The result is scaled by `contrast` (N,) and clipped to [0, 1].
    """
    pixels = noise.flatten(1)
    step = math.ceil(pixels.shape[1] / QUANTILE_PIXELS)
    ordered = pixels[:, ::step].sort(dim=1).values
    last = ordered.shape[1] - 1
    rank = ((1 - cover) * last).round().long().clamp(0, last)[:, None]
    threshold = ordered.gather(1, rank).maximum(MIN_THRESHOLD * ordered[:, -1:])
    above = (ordered - threshold).clamp(min=0)
    mean = above.sum(1, keepdim=True) / (above > 0).sum(1, keepdim=True).clamp(min=1)
    scale = contrast[:, None] / mean.clamp(min=torch.finfo(noise.dtype).eps)
    return ((pixels - threshold) * scale).clamp(0, 1).view_as(noise)
