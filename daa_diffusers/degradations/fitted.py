"""Fitted noise: additive noise with statistics measured by `fitting.noise` on photos."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import ConfigurationError
from ..photos.pixels import LUMA_WEIGHTS
from .base import ConfigurableDegradation, register_degradation
from .camera_noise import apply_tone, invert_tone, tone_slope
from .checks import check_clean, check_flag, check_number, check_whole_range
from .draws import normal, uniform
from .jpeg_coding import code_some

FORMAT_VERSION = 1
# Order of the squares in `correlation`: each color with itself, then pairs of different colors.
COLOR_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
SPREAD_BOUNDS = (1.0, 10.0)  # of the field `spread`
MAX_LAG = 3  # pixels, largest offset of measured correlations; camera noise is hardly correlated beyond
KERNEL = 16  # side in pixels of the filters that correlate noise

Numbers = tuple[float, ...]


@register_degradation("fitted")
@dataclass(frozen=True)
class FittedNoise(ConfigurableDegradation):
    """Additive noise with measured dependence on brightness, correlation and JPEG coding.

    Per sample, a noise level is drawn, and stationary Gaussian noise of unit variance with the given correlation
    between pixels and colors. The noise of each pixel and color is multiplied by `level * deviation(brightness)`.

    Args:
        brightness: K >= 1 increasing values in [0, 1] at which `deviation` was measured; linear in between, constant
            outside.
        deviation: standard deviation (1/255) of the noise of the median photo in red, green and blue, each at K
            brightnesses.
        level: evenly spaced quantiles (from lowest to highest) of the ratio of a photo's noise to that of the median
            photo.
        spread: range of another random factor of the level, log-uniform in [1 / spread, spread], to train on noise
            slightly below and above the measured one; 1 to 10.
        correlation: 6 squares of odd side (at most 15), the correlation with the pixel at each offset (down, right)
            from the center: of red, green and blue with themselves (1 at the center), red-green, red-blue, green-blue.
            None: white noise.
        jpeg_quality: range of the JPEG quality (whole numbers in [1, 100]), uniform; None: no JPEG coding.
        jpeg_probability: share of the samples that are JPEG-coded, with a random offset of the 8 x 8 block grid.
        jpeg_half_chroma: whether JPEG coding halves the width and height of the chroma planes (4:2:0 instead of 4:4:4).
        clip: clip the result to [0, 1]. JPEG-coded samples are always clipped.
        gamma: exponent, 1.5 to 4, of a tone curve (`camera_noise.apply_tone`; 2.4 is sRGB). The noise then has zero
            mean in linear light, and the curve, which is concave, darkens the noisy photo on average. `deviation` is
            exact only to first order in noise / (brightness + 0.055): strong noise is up to a fifth stronger, and noise
            clipped near black is weaker. None: the noise has zero mean in the stored values.
        version: version of these fields, 1.

    Raises:
        ConfigurationError: values are out of range or inconsistent.
    """

    brightness: Numbers
    deviation: tuple[Numbers, Numbers, Numbers]
    level: Numbers = (1.0,)
    spread: float = 1.0
    correlation: tuple[tuple[Numbers, ...], ...] | None = None
    jpeg_quality: tuple[int, int] | None = None
    jpeg_probability: float = 1.0
    clip: bool = True
    gamma: float | None = None
    jpeg_half_chroma: bool = True
    version: int = FORMAT_VERSION

    def __post_init__(self):
        if self.version != FORMAT_VERSION:
            raise ConfigurationError(f"`version` of fitted noise must be {FORMAT_VERSION}, got {self.version!r}")
        # the dataclass is frozen: the validated values are set by `object.__setattr__`
        brightness = _numbers("brightness", self.brightness, 0, 1)
        if any(a >= b for a, b in zip(brightness, brightness[1:], strict=False)):
            raise ConfigurationError(f"`brightness` must increase, got {list(brightness)}")
        if not _is_list(self.deviation) or len(self.deviation) != 3:
            raise ConfigurationError(f"`deviation` must be three lists (red, green, blue), got {self.deviation!r}")
        deviation = tuple(_numbers("deviation", d, 0, 255) for d in self.deviation)
        if {len(d) for d in deviation} != {len(brightness)}:
            raise ConfigurationError(
                f"`deviation` must hold {len(brightness)} numbers per color, one for each `brightness`, got "
                f"{[len(d) for d in deviation]}"
            )
        level = _numbers("level", self.level, 0, math.inf)
        if any(a > b for a, b in zip(level, level[1:], strict=False)):
            raise ConfigurationError(f"`level` must be quantiles that do not decrease, got {list(level)}")
        object.__setattr__(self, "brightness", brightness)
        object.__setattr__(self, "deviation", deviation)
        object.__setattr__(self, "level", level)
        check_number("spread", self.spread, *SPREAD_BOUNDS)
        check_number("jpeg_probability", self.jpeg_probability, 0, 1)
        if self.correlation is not None:
            object.__setattr__(self, "correlation", _checked_correlation(self.correlation))
        check_flag("clip", self.clip)
        check_flag("jpeg_half_chroma", self.jpeg_half_chroma)
        if self.gamma is not None:
            check_number("gamma", self.gamma, 1.5, 4)
        if self.jpeg_quality is not None:
            object.__setattr__(self, "jpeg_quality", check_whole_range("jpeg_quality", self.jpeg_quality, 1, 100))

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Adds noise to photos (B, 1 or 3, H, W) in [0, 1], to gray ones its luma; raises ValueError for others."""
        check_clean(clean)
        batch, channels, height, width = clean.shape
        if channels not in (1, 3):
            raise ValueError(f"`clean` must be (B, 1 or 3, H, W) for fitted noise, got {tuple(clean.shape)}")
        quantiles = torch.tensor(self.level).to(clean)
        rank = uniform((batch,), 0, 1, clean, generator)  # 0.5 is the median
        level = _interpolate(rank, torch.linspace(0, 1, len(quantiles)).to(clean), quantiles)  # (B,)
        level = level * uniform((batch,), -1, 1, clean, generator).mul(math.log(self.spread)).exp()
        size = (batch, 3, height + KERNEL - 1, width + KERNEL - 1) if self.correlation else (batch, 3, height, width)
        unit = normal(size, clean, generator)
        if self.correlation:
            unit = F.conv2d(unit, correlation_kernels(expand_pairs(self.correlation)).to(clean))
        photo = clean.expand(-1, 3, -1, -1)
        noise = unit * self.deviation_of(photo) * level[:, None, None, None]  # (B, 3, H, W)
        if self.gamma is not None:
            gamma = torch.tensor(self.gamma).to(clean)
            noise = apply_tone(invert_tone(photo, gamma) + noise / tone_slope(photo, gamma), gamma) - photo
        if channels == 1:
            noise = (noise * torch.from_numpy(LUMA_WEIGHTS).to(clean)[:, None, None]).sum(1, keepdim=True)
        degraded = clean + noise
        if self.clip:
            degraded = degraded.clamp(0, 1)
        return code_some(degraded, self.jpeg_quality, self.jpeg_probability, generator, self.jpeg_half_chroma)

    def deviation_of(self, photo: torch.Tensor) -> torch.Tensor:
        """Returns the noise's standard deviation (B, 3, H, W), in [0, 1], at level 1 and the brightness of `photo`."""
        knots = torch.tensor(self.brightness).to(photo)
        curves = torch.tensor(self.deviation).to(photo) / 255  # (3, K)
        return torch.stack([_interpolate(photo[:, c].contiguous(), knots, curves[c]) for c in range(3)], 1)


def expand_pairs(correlation: Sequence[Sequence[Sequence[float]]]) -> torch.Tensor:
    """Expands `FittedNoise.correlation` (6, n, n) to (3, 3, n, n): color a with color b at an offset (down, right)."""
    pairs = torch.tensor(correlation, dtype=torch.float32)
    full = pairs.new_zeros(3, 3, *pairs.shape[1:])
    for (a, b), square in zip(COLOR_PAIRS, pairs, strict=True):
        full[a, b] = square
        full[b, a] = square.flip(0, 1)  # R_ba(offset) = R_ab(-offset)
    return full


def correlation_kernels(correlation: torch.Tensor) -> torch.Tensor:
    """Computes filters that turn white noise into noise of unit variance with a given correlation.

    The filters are the square root of the spectrum of the correlation, whose negative eigenvalues are set to zero.

    Args:
        correlation: (C, C, n, n), n odd and at most 15, by offset from the center.

    Returns:
        (C, C, 16, 16), zero-phase, for `F.conv2d`.
    """
    channels, n = correlation.shape[0], correlation.shape[-1]
    grid = correlation.new_zeros(channels, channels, KERNEL, KERNEL)
    grid[..., :n, :n] = correlation
    spectrum = torch.fft.fft2(grid.roll((-(n // 2), -(n // 2)), (2, 3))).permute(2, 3, 0, 1)  # (16, 16, C, C)
    values, vectors = torch.linalg.eigh((spectrum + spectrum.mH) / 2)
    root = (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mH
    kernels = torch.fft.fftshift(torch.fft.ifft2(root.permute(2, 3, 0, 1)).real, dim=(2, 3))
    return kernels / kernels.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def _interpolate(x: torch.Tensor, knots: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Interpolates (knots, values) linearly at `x`; constant outside of the knots."""
    if len(knots) == 1:
        return values.expand(x.shape)
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    weight = ((x - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], weight)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _numbers(name: str, values: Any, low: float, high: float) -> Numbers:
    if not _is_list(values) or not values:
        raise ConfigurationError(f"`{name}` must be a list of numbers, got {values!r}")
    return tuple(check_number(name, v, low, high) for v in values)


def _checked_correlation(squares: Any) -> tuple[tuple[Numbers, ...], ...]:
    """Returns the field `correlation` as tuples; raises ConfigurationError."""
    wanted = "`correlation` must be 6 squares of the same odd side, at most 15"
    if not _is_list(squares) or len(squares) != len(COLOR_PAIRS) or not all(_is_list(s) for s in squares):
        raise ConfigurationError(f"{wanted}, got {squares!r:.80}")
    checked = tuple(tuple(_numbers("correlation", row, -1, 1) for row in square) for square in squares)
    side = len(checked[0])
    sides = {len(square) for square in checked} | {len(row) for square in checked for row in square}
    if sides != {side} or side % 2 == 0 or side >= KERNEL:
        raise ConfigurationError(f"{wanted}, got sides {sorted(sides)}")
    center = [checked[c][side // 2][side // 2] for c in range(3)]
    if center != [1.0] * 3:
        raise ConfigurationError(f"`correlation` of a color with itself must be 1 at the center, got {center}")
    return checked
