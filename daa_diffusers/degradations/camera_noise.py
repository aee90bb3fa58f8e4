"""Camera noise: Poisson-Gaussian on the sensor, correlated by demosaicing, skewed by the tone curve, JPEG-coded."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .base import ConfigurableDegradation, register_degradation
from .checks import check_clean, check_flag, check_whole_range
from .draws import log_uniform, normal, uniform
from .filters import gaussian_filter
from .jpeg_coding import code_some

# Constants of the tone curve of sRGB (IEC 61966-2-1); `gamma` replaces its exponent.
TONE_OFFSET, SRGB_GAMMA = 0.055, 2.4
# Filters that demosaic a Bayer mosaic bilinearly, one for red and blue, one for green; missing samples are zero.
_RED_BLUE = [[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]
_GREEN = [[0.0, 0.25, 0.0], [0.25, 1.0, 0.25], [0.0, 0.25, 0.0]]


@register_degradation("camera")
@dataclass(frozen=True)
class CameraNoise(ConfigurableDegradation):
    """Camera noise, added to an otherwise unchanged photo.

    Per sample, tone curve and white balance are inverted, pixels are sampled on a Bayer mosaic of random phase, and
    noise of variance `shot * signal + read**2` is added (the Gaussian approximation of Poisson-Gaussian noise, valid
    above about ten electrons per pixel). White balance, bilinear demosaicing and tone curve follow. Only the effect of
    the noise is kept,

        degraded = clean + tone(demosaic(mosaic + noise)) - tone(demosaic(mosaic)),

    because clean photos are already demosaiced, and a restorer should not learn to invert the blur of demosaicing.
    Later processing changes the correlation of the noise. Therefore some samples skip the mosaic, so that the noise is
    independent between pixels and colors, as in downscaled photos; and the noise of some is smoothed, as by a camera's
    own denoising or by upscaling. Grayscale photos (C = 1) never have a mosaic. Color correction matrices and
    sharpening are not simulated.

    In linear light, before clipping, the noise has zero mean; the curvature of the tone curve then makes dark photos
    slightly darker on average, as in cameras. With a mosaic, the correlation of the noise of neighboring pixels is
    about 0.65 in red and blue and 0.4 in green.

    Args:
        shot: range of the shot noise coefficient (linear light, white = 1; its inverse is the number of electrons at
            white), log-uniform. The default range extends from a large sensor in daylight to a phone in the dark at ISO
            6400 and beyond.
        read: range of the standard deviation of the read noise (linear light), log-uniform.
        demosaic_probability: share of the samples whose noise is sampled on the Bayer mosaic and demosaiced.
        smoothing_probability: share of the samples whose noise is smoothed by a Gaussian filter, in linear light.
        smoothing: range of the standard deviation of that filter in pixels, uniform; at most 3.
        gamma: range of the exponent of the tone curve, uniform; sRGB is 2.4. Within [1.5, 4].
        white_balance: range of the gains of red and blue against green, uniform and independent.
        jpeg_quality: range of the JPEG quality (whole numbers in [1, 100]), uniform; None: no JPEG coding.
        jpeg_probability: share of the samples that are JPEG-coded, with a random offset of the 8 x 8 block grid.
        clip: clip the result to [0, 1], as in a camera's files. JPEG-coded samples are always clipped.

    Raises:
        ConfigurationError: a value is not a number, not a pair, or out of range.

    Examples:
        >>> import torch
        >>> from daa_diffusers.degradations import CameraNoise
        >>> degrade = CameraNoise(shot=(1e-3, 1e-2), jpeg_quality=None)
        >>> noisy = degrade(torch.full((2, 3, 32, 32), 0.5), torch.Generator().manual_seed(0))
        >>> noisy.shape, bool(noisy.std() > 0.01)
        (torch.Size([2, 3, 32, 32]), True)
    """

    shot: tuple[float, float] = (5e-5, 5e-2)
    read: tuple[float, float] = (3e-4, 2e-2)
    demosaic_probability: float = 0.6
    smoothing_probability: float = 0.4
    smoothing: tuple[float, float] = (0.4, 1.2)
    gamma: tuple[float, float] = (2.0, 2.6)
    white_balance: tuple[float, float] = (1.2, 2.4)
    jpeg_quality: tuple[int, int] | None = (60, 98)
    jpeg_probability: float = 0.5
    clip: bool = True

    def __post_init__(self):
        bounds = {
            "shot": (1e-8, 1),
            "read": (1e-8, 1),
            "gamma": (1.5, 4),
            "white_balance": (0.25, 8),
            "smoothing": (0, 3),
        }
        self.check_fields(bounds, ("demosaic_probability", "smoothing_probability", "jpeg_probability"))
        check_flag("clip", self.clip)
        if self.jpeg_quality is not None:
            object.__setattr__(self, "jpeg_quality", check_whole_range("jpeg_quality", self.jpeg_quality, 1, 100))

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Adds noise to photos (B, 1 or 3, H, W) in [0, 1], H and W at least 2; raises ValueError for others."""
        check_clean(clean)
        batch, channels, height, width = clean.shape
        if channels not in (1, 3) or min(height, width) < 2:
            raise ValueError(
                f"`clean` must be (B, 1 or 3, H, W), H and W at least 2, for camera noise, got {tuple(clean.shape)}"
            )
        # 1. parameters of each sample
        per_sample = (batch, 1, 1, 1)
        shot = log_uniform(per_sample, *self.shot, clean, generator)
        read = log_uniform(per_sample, *self.read, clean, generator)
        gamma = uniform(per_sample, *self.gamma, clean, generator)
        # 2. sensor noise in linear light, before white balance
        linear = invert_tone(clean, gamma)
        if channels == 1:
            light, change = linear, _sensor_noise(linear, shot, read, generator)
        else:
            gains = torch.ones(batch, 3, 1, 1, dtype=clean.dtype, device=clean.device)
            gains[:, ::2] = uniform((batch, 2, 1, 1), *self.white_balance, clean, generator)
            mask = bayer_masks(torch.randint(4, (batch,), generator=generator, device=generator.device), height, width)
            mask = mask.to(clean)  # (B, 3, H, W)
            noise = _sensor_noise(linear / gains, shot, read, generator)  # for all colors; the mosaic selects one
            # 3. demosaicing and white balance; demosaicing is linear: signal and noise are demosaiced separately
            mosaicked = uniform(per_sample, 0, 1, clean, generator) < self.demosaic_probability
            light = torch.where(mosaicked, demosaic(linear * mask), linear)  # (B, 3, H, W)
            change = torch.where(mosaicked, demosaic(noise * mask), noise) * gains
        # 4. smoothing after the sensor
        if self.smoothing_probability:
            sigma = uniform(per_sample, *self.smoothing, clean, generator)
            smoothed = uniform(per_sample, 0, 1, clean, generator) < self.smoothing_probability
            radius = min(math.ceil(3 * sigma.max().item()), height - 1, width - 1)
            change = torch.where(smoothed, gaussian_filter(change, sigma, radius), change)
        # 5. tone curve, keeping only the effect of the noise; clipping and JPEG coding
        degraded = clean + apply_tone(light + change, gamma) - apply_tone(light, gamma)
        if self.clip:
            degraded = degraded.clamp(0, 1)
        return code_some(degraded, self.jpeg_quality, self.jpeg_probability, generator)


def apply_tone(linear: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Converts linear light to tone-mapped values: a power law with a linear toe, sRGB for gamma = 2.4.

    The toe also applies below zero, so that noise around black keeps its mean. `gamma` (above 1) broadcasts against
    `linear`.
    """
    slope, knee = _toe(gamma)
    bent = (1 + TONE_OFFSET) * linear.clamp(min=1e-12) ** (1 / gamma) - TONE_OFFSET
    return torch.where(linear * slope <= knee, linear * slope, bent)


def invert_tone(toned: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Inverts `apply_tone`."""
    slope, knee = _toe(gamma)
    bent = ((toned.clamp(min=0) + TONE_OFFSET) / (1 + TONE_OFFSET)) ** gamma
    return torch.where(toned <= knee, toned / slope, bent)


def tone_slope(toned: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Returns the derivative of `apply_tone` at the points where its result is `toned`."""
    slope, knee = _toe(gamma)
    bent = (1 + TONE_OFFSET) / gamma * ((toned.clamp(min=0) + TONE_OFFSET) / (1 + TONE_OFFSET)) ** (1 - gamma)
    return torch.where(toned <= knee, slope, bent)


def tone_bend(toned: torch.Tensor, gamma: float) -> torch.Tensor:
    """Returns the factor b by which the curvature of `apply_tone` shifts and skews weak noise, at the values `toned`.

    Noise that is Gaussian in linear light and has variance v after `apply_tone` then also has mean `b v` and third
    moment `6 b v^2`, to second order and above the toe. The third moment of Poisson noise adds to this; it is of
    opposite sign and, for sRGB, 0.57 times as large.
    """
    return (1 - gamma) / 2 / (toned + TONE_OFFSET)


def _toe(gamma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the slope of the linear toe, and the tone-mapped value above which the power law continues smoothly."""
    a = TONE_OFFSET
    slope = (1 + a) ** gamma * (gamma - 1) ** (gamma - 1) / (a ** (gamma - 1) * gamma**gamma)
    return slope, a / (gamma - 1)


def bayer_masks(phase: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Returns masks of the color that each pixel of a Bayer mosaic samples.

    Args:
        phase: (B,), whole numbers 0 to 3: RGGB, GRBG, GBRG, BGGR.

    Returns:
        (B, 3, height, width) bool, exactly one of the three True at each pixel.
    """
    row = (torch.arange(height, device=phase.device) + phase[:, None] // 2)[:, :, None] % 2  # (B, H, 1)
    column = (torch.arange(width, device=phase.device) + phase[:, None] % 2)[:, None, :] % 2  # (B, 1, W)
    return torch.stack([(row == 0) & (column == 0), row != column, (row == 1) & (column == 1)], dim=1)


def demosaic(sampled: torch.Tensor) -> torch.Tensor:
    """Demosaics bilinearly: fills the zeros of (B, 3, H, W), sampled by `bayer_masks`, from their neighbors.

    The operation is linear, and exact for constant colors. H and W must be at least 2; reflection at the borders
    preserves the mosaic's phase.
    """
    kernels = torch.tensor([_RED_BLUE, _GREEN, _RED_BLUE], dtype=sampled.dtype, device=sampled.device)[:, None]
    return F.conv2d(F.pad(sampled, (1, 1, 1, 1), mode="reflect"), kernels, groups=3)


def _sensor_noise(signal: torch.Tensor, shot: torch.Tensor, read: torch.Tensor, generator: torch.Generator):
    """Draws noise of variance `shot * signal + read**2`, of the shape of `signal`."""
    deviation = (shot * signal.clamp(min=0) + read**2).sqrt()
    return deviation * normal(signal.shape, signal, generator)
