"""Synthetic rain: layers of near and distant streaks, and the veil of distant rain."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .base import ConfigurableDegradation, register_degradation
from .checks import check_clean, check_flag, check_whole_range
from .draws import log_uniform, normal, uniform
from .psf import splat

MAX_LENGTH = 200.0  # pixels, of the mean length; a streak is up to 1.6 times as long (`LENGTHS`)
# Ranges of the uniform factors by which the streaks of a layer vary. Each has mean 1, so that the expected area of a
# streak is the product of the layer's mean length and mean width.
LENGTHS, WIDTHS, BRIGHTNESSES = (0.4, 1.6), (0.6, 1.4), (0.2, 1.8)
FWHM = 2 * math.sqrt(2 * math.log(2))  # ratio of a Gaussian's full width at half maximum to its standard deviation
REACH = 2.5  # standard deviations at which the profile across a streak is truncated
STEP = 0.5  # largest distance between the points of a streak, in pixels
POINTS_AT_ONCE = 1 << 21  # approximate number of points rendered together, more than the largest streak has
VEIL_CELLS = 3  # points per side of the coarse grid between which the veil is interpolated


@register_degradation("rain")
@dataclass(frozen=True)
class RainStreaks(ConfigurableDegradation):
    """Rain streaks as in Rain100L and similar data sets, for exposures of a few milliseconds or more.

    Each sample has one main angle and a few layers at distances z; the nearest has z = 1. As in Garg and Nayar, "Vision
    and rain" (2007), length and width of a layer's streaks are those of the nearest layer divided by z. All layers
    cover the same share of the photo, so that distant ones have more streaks. Length, width, brightness and angle of
    each streak vary around those of its layer. Its light is gray, Gaussian across the streak and nearly constant along
    it, with tapered ends, and is blurred by the lens, which makes thin streaks fainter. This is the usual construction
    (sparse noise filtered by an oriented line), but with a separate line for each streak. The light is then combined
    with the photo,

        added: clean + rain,    screened: 1 - (1 - clean) (1 - rain),

    after a smoothly varying veil has mixed the photo with a gray: (1 - veil) clean + veil gray.

    Args:
        cover: range of the share of the pixels covered by streaks, overlaps counted twice, log-uniform. Rain100L has
            about 0.2.
        layers: range of the number of layers (whole numbers, at least 1), uniform.
        distance: range of z of the layers behind the first, uniform; at least 1.
        length: range of the mean length in pixels of the nearest streaks, log-uniform; the mean is at most 200.
        width: range of the mean width in pixels of the nearest streaks (full width at half maximum), log-uniform.
        angle: range of the main angle in degrees from vertical, uniform; positive leans to the right at the top.
        angle_spread: range of the standard deviation in degrees of the streaks' angles around the main angle, uniform.
        across_probability: share of the samples whose rain is rotated by 90 degrees. Real training patches are rotated
            by quarter turns, rain included (default of `TrainingPatches`).
        brightness: range of the mean brightness of the streaks before the blur of the lens (white = 1), log-uniform.
        lens: range of the standard deviation in pixels of the Gaussian blur of the streaks, uniform.
        screen_probability: share of the samples whose rain is screened; in the others it is added.
        veil_probability: share of the samples with a veil.
        veil: range of the veil's strength, which varies over a photo between two uniform draws; at most 0.9.
        veil_grey: range of the veil's gray, uniform.
        clip: clip the result to [0, 1], as files do.

    Raises:
        ConfigurationError: a value is not a number, not a pair, or out of range.
    """

    cover: tuple[float, float] = (0.05, 0.5)
    layers: tuple[int, int] = (1, 3)
    distance: tuple[float, float] = (1.0, 3.0)
    length: tuple[float, float] = (12.0, 60.0)
    width: tuple[float, float] = (1.2, 4.0)
    angle: tuple[float, float] = (-35.0, 35.0)
    angle_spread: tuple[float, float] = (0.0, 4.0)
    across_probability: float = 0.5
    brightness: tuple[float, float] = (0.08, 0.6)
    lens: tuple[float, float] = (0.3, 0.8)
    screen_probability: float = 0.5
    veil_probability: float = 0.3
    veil: tuple[float, float] = (0.0, 0.4)
    veil_grey: tuple[float, float] = (0.5, 0.9)
    clip: bool = True

    def __post_init__(self):
        bounds = {
            "cover": (1e-4, 5),
            "distance": (1, 10),
            "length": (1, MAX_LENGTH),
            "width": (0.1, 20),
            "angle": (-90, 90),
            "angle_spread": (0, 90),
            "brightness": (1e-3, 1),
            "lens": (0.3, 5),
            "veil": (0, 0.9),
            "veil_grey": (0, 1),
        }
        self.check_fields(bounds, ("across_probability", "screen_probability", "veil_probability"))
        check_flag("clip", self.clip)
        object.__setattr__(self, "layers", check_whole_range("layers", self.layers, 1, 10))

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Adds rain to photos (B, C, H, W) in [0, 1]; raises ValueError for another rank or dtype."""
        check_clean(clean)
        batch, _, height, width = clean.shape
        veil, gray = self._veil(clean, generator)
        hazy = clean + veil * (gray - clean)
        rotated = uniform((batch,), 0, 1, clean, generator) < self.across_probability
        rain = render_streaks(self._streaks(clean, rotated, generator), (batch, height, width))[:, None]  # (B, 1, H, W)
        degraded = with_light(hazy, rain, self.screen_probability, generator)
        return degraded.clamp(0, 1) if self.clip else degraded

    def _veil(self, clean: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the strength (B, 1, H, W) and gray (B, 1, 1, 1) of the veil."""
        per_sample = (clean.shape[0], 1, 1, 1)
        veiled = uniform(per_sample, 0, 1, clean, generator) < self.veil_probability
        ends = uniform((2, *per_sample), *self.veil, clean, generator)
        coarse = uniform((clean.shape[0], 1, VEIL_CELLS, VEIL_CELLS), 0, 1, clean, generator)
        place = F.interpolate(coarse, size=clean.shape[-2:], mode="bilinear", align_corners=True)  # between the ends
        strength = veiled * (ends[0] + place * (ends[1] - ends[0]))
        return strength, uniform(per_sample, *self.veil_grey, clean, generator)

    def _streaks(self, clean: torch.Tensor, rotated: torch.Tensor, generator: torch.Generator) -> "Streaks":
        """Draws the streaks of all samples; those of samples in the mask `rotated` (B,) are rotated by 90 degrees."""
        batch, _, height, width = clean.shape
        per_layer = (batch, self.layers[1])  # also of layers that a sample does not use
        used = used_layers(self.layers, clean, generator)
        z = uniform(per_layer, *self.distance, clean, generator)
        z[:, 0] = 1
        cover, length, streak_width, brightness = (
            log_uniform((batch, 1), *bounds, clean, generator)
            for bounds in (self.cover, self.length, self.width, self.brightness)
        )
        angle, spread, lens = (
            uniform((batch, 1), *bounds, clean, generator) for bounds in (self.angle, self.angle_spread, self.lens)
        )
        # streaks that extend into the photo may have their center outside
        margin = self.length[1] * LENGTHS[1] / 2
        area = (height + 2 * margin) * (width + 2 * margin)
        # expected number of streaks: the area that a layer covers, divided by the mean area of its streaks
        layer_cover = used * cover / used.sum(1, keepdim=True)  # (B, layers), 0 for unused layers
        expected = layer_cover * area / (length * streak_width / z**2)
        count = torch.poisson(expected.to(generator.device), generator=generator).long().flatten().to(clean.device)

        def for_streaks(value: torch.Tensor) -> torch.Tensor:  # (B, 1 or layers) -> (streaks,)
            return value.expand(per_layer).flatten().repeat_interleave(count)

        def varied(value: torch.Tensor, factors: tuple[float, float]) -> torch.Tensor:
            mean = for_streaks(value)
            return mean * uniform(mean.shape, *factors, clean, generator)

        sample = for_streaks(torch.arange(batch, device=clean.device)[:, None])
        y, x = (uniform(sample.shape, -margin, side + margin, clean, generator) for side in (height, width))
        lean = for_streaks(angle) + for_streaks(spread) * normal(sample.shape, clean, generator)
        streaks = Streaks(
            sample=sample,
            y=y,
            x=x,
            length=varied(length / z, LENGTHS),
            width=varied(streak_width / z, WIDTHS),
            angle=torch.deg2rad(lean + 90 * for_streaks(rotated[:, None].to(clean))),
            brightness=varied(brightness, BRIGHTNESSES),
            lens=for_streaks(lens),
        )
        return streaks.touching(height, width)


def with_light(
    photo: torch.Tensor, light: torch.Tensor, screen_probability: float, generator: torch.Generator
) -> torch.Tensor:
    """Combines photos (B, C, H, W) with light (B, 1, H, W), which is screened with this probability, else added."""
    screened = uniform((len(photo), 1, 1, 1), 0, 1, photo, generator) < screen_probability
    # screening with light above 1 would invert the order of brightnesses
    return photo + torch.where(screened, light.clamp(max=1) * (1 - photo), light)


def used_layers(layers: tuple[int, int], clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draws each sample's number of layers from a range; returns (B, most), 1 for used layers and 0 for the others."""
    least, most = layers
    number = torch.randint(least, most + 1, (len(clean), 1), generator=generator, device=generator.device)
    return (torch.arange(most, device=generator.device) < number).to(clean)


class Streaks(NamedTuple):
    """Rain streaks of a batch of photos: fields (N,), lengths in pixels, angles in radians from vertical.

    `sample` is the index of the photo, (y, x) the center, and `lens` the standard deviation of the blur of the lens.
    """

    sample: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor
    length: torch.Tensor
    width: torch.Tensor
    angle: torch.Tensor
    brightness: torch.Tensor
    lens: torch.Tensor

    @property
    def sigma(self) -> torch.Tensor:
        """Standard deviation of the profile across each streak, after the blur of the lens."""
        return ((self.width / FWHM) ** 2 + self.lens**2).sqrt()

    def touching(self, height: int, width: int) -> "Streaks":
        """Selects the streaks whose light may reach a photo of this size."""
        reach = REACH * self.sigma + 1  # `splat` distributes a point over the pixels around it, up to 1 pixel away
        down = self.length / 2 * self.angle.cos().abs() + reach
        right = self.length / 2 * self.angle.sin().abs() + reach
        kept = (self.y + down > 0) & (self.y - down < height) & (self.x + right > 0) & (self.x - right < width)
        return Streaks(*(field[kept] for field in self))


def render_streaks(streaks: Streaks, size: tuple[int, int, int]) -> torch.Tensor:
    """Renders streaks of light on black images (B, H, W), without aliasing; overlaps add up.

    A streak is a grid of points at most half a pixel apart, which `splat` renders. Its light is 1 - u**4 along the
    streak, u in [-1, 1], and a Gaussian across it, with peak `brightness` before the blur of the lens.
    """
    half_width = REACH * streaks.sigma
    rows = (streaks.length / STEP).ceil().clamp(min=1).long()  # of the grid of each streak, along it
    columns = (2 * half_width / STEP).ceil().clamp(min=1).long()  # across it
    image = torch.zeros(size, dtype=streaks.y.dtype, device=streaks.y.device)
    count = rows * columns  # of points
    if not len(count):
        return image
    # the streaks are rendered in groups of about POINTS_AT_ONCE points
    group = (count.cumsum(0) - count) // POINTS_AT_ONCE
    for chosen in torch.arange(len(count), device=count.device).split(torch.bincount(group).tolist()):
        first = count[chosen].cumsum(0) - count[chosen]  # number of each streak's first point in the group
        # one entry per point from here on: (N,)
        streak = chosen.repeat_interleave(count[chosen])
        point = torch.arange(len(streak), device=streak.device) - first.repeat_interleave(count[chosen])
        u = ((point // columns[streak]) + 0.5) / rows[streak] * 2 - 1  # in (-1, 1)
        v = ((point % columns[streak]) + 0.5) / columns[streak] * 2 - 1
        length, sigma = streaks.length[streak], streaks.sigma[streak]
        u, v = u.to(sigma), v.to(sigma)
        offset = v * half_width[streak]
        cell = length / rows[streak] * 2 * half_width[streak] / columns[streak]  # area for which a point stands
        # the lens widens the profile from width / FWHM to sigma, and lowers its peak by the same factor
        peak = streaks.brightness[streak] * streaks.width[streak] / FWHM / sigma
        light = peak * (1 - u**4) * torch.exp(-((offset / sigma) ** 2) / 2) * cell
        cos, sin = streaks.angle[streak].cos(), streaks.angle[streak].sin()
        y = streaks.y[streak] - u * length / 2 * cos + offset * sin
        x = streaks.x[streak] + u * length / 2 * sin + offset * cos
        image += splat(streaks.sample[streak], y, x, light, size)
    return image
