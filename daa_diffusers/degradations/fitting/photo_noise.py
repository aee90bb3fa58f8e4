"""Noise estimation from the flat blocks of a single photo.

A block's coarse part is the means of its 4 x 4 cells. Among the blocks of each brightness, those with the least coarse
energy are candidates. A candidate is flat if the coarse part is a small share of its energy: natural photos have most
of their energy in low frequencies, noise has not. The residual of a flat block after subtraction of a fitted plane is
noise. Unlike estimators with high-pass filters or principal components (Liu, Tanaka, Okutomi 2013; Pyatykh, Hesser,
Zheng 2013; Chen, Zhu, Heng 2015), this does not assume white noise. Still, the flattest blocks have less noise than
others if it is correlated: at a correlation of neighbors of 0.5, the deviation is 5 % too low, at 0.75 9 %.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...photos.pixels import center_crop
from ..filters import gaussian_filter
from ..fitted import KERNEL, MAX_LAG, correlation_kernels

BLOCK = 16  # side in pixels of the blocks in which noise is measured; they overlap by half
CELL = 4  # side in pixels of the cells
NOISE_REGION = 512  # side in pixels of the center crop from which noise is estimated
FLAT_SHARE = 0.05  # share of the blocks of each brightness that are candidates
FLAT_RATIO = 1.5  # largest coarse share of a flat block, relative to the 0.2 quantile of the candidates' coarse shares
BRIGHTNESS_BINS = 6  # groups of blocks by brightness, from which candidates are taken
CLIPPED = 1 / 255  # distance from black or white below which a value counts as clipped
MAX_CLIPPED = 0.1  # largest share of clipped values in a block that does not count as clipped
WHITE = 0.2  # `FlatBlocks.neighbors` below which a denoiser for white noise removes all of the noise
# interpolation by brightness, in `Noise.deviation`
BRIGHTNESS_WIDTH = 0.08  # standard deviation in brightness of the kernel
BRIGHTNESS_STEPS = 64  # steps between black and white
LOCAL_SIGMA = 3.0  # standard deviation in pixels of the filter for a photo's local brightness
MIN_REMOVED = 0.36  # least share of the noise power, 60 % of the amplitude, that a denoiser must remove for an estimate


@dataclass(frozen=True)
class FlatBlocks:
    """The K flat blocks of a photo.

    Attributes:
        brightness: (K, C), means of the blocks.
        residual: (K, C, 16, 16), the blocks minus fitted planes, which is noise.
        correlation: (C, C, 7, 7), unbiased correlation of the noise of color a with that of color b at an offset (down,
            right) from the center.
        gain: (C,), ratio of the noise's variance to that of the residual; above 1, as planes contain noise.
        clipped: whether all blocks of the photo are clipped; the flat blocks are then unreliable.
    """

    brightness: torch.Tensor
    residual: torch.Tensor
    correlation: torch.Tensor
    gain: torch.Tensor
    clipped: bool

    @classmethod
    def of(cls, photo: torch.Tensor, region: int = NOISE_REGION) -> "FlatBlocks":
        """Finds the flat blocks in the center of a photo.

        Args:
            photo: (C, H, W) in [0, 1], at least 32 pixels wide and high.
            region: side of the center crop in pixels.

        Raises:
            ValueError: wrong shape.
        """
        if photo.ndim != 3 or min(photo.shape[1:]) < 2 * BLOCK:
            raise ValueError(f"`photo` must be (C, H, W) with sides of at least {2 * BLOCK}, got {tuple(photo.shape)}")
        photo = center_crop(photo.detach().float(), region)
        blocks = photo.unfold(1, BLOCK, BLOCK // 2).unfold(2, BLOCK, BLOCK // 2)
        blocks = blocks.reshape(len(photo), -1, BLOCK, BLOCK).transpose(0, 1)  # (L, C, 16, 16)
        mean, residual = without_plane(blocks)
        flat, clipped = _flattest(blocks, mean, residual)
        residual = residual[flat]
        correlation, gain = _correlation(residual)
        return cls(mean[flat][..., 0, 0], residual, correlation, gain, clipped)

    @property
    def variance(self) -> torch.Tensor:
        """Variance (K, C) of the noise of each block."""
        return self.residual.square().mean((2, 3)) * self.gain

    @property
    def neighbors(self) -> float:
        """Correlation of the noise of horizontal and vertical neighbors, mean of the colors."""
        same_color = self.correlation.diagonal().permute(2, 0, 1)  # (C, 7, 7)
        return float((same_color[:, MAX_LAG, MAX_LAG + 1] + same_color[:, MAX_LAG + 1, MAX_LAG]).mean()) / 2


@dataclass(frozen=True)
class Noise:
    """Noise of one photo, estimated from its flat blocks.

    Attributes:
        brightness, variance: (K, C), mean and noise variance of K flat blocks.
        kernels: (C, C, 16, 16), filters that turn white noise into noise of unit variance with the correlation, between
            pixels and colors, of the photo's noise.
    """

    brightness: torch.Tensor
    variance: torch.Tensor
    kernels: torch.Tensor

    @classmethod
    def of(cls, photo: torch.Tensor) -> "Noise":
        """Estimates the noise of `photo` (C, H, W), at least 32 pixels wide and high, from its flat blocks.

        Assumes noise that depends on brightness alone; in photos without flat parts it is overestimated.

        Raises:
            ValueError: wrong shape.
        """
        flat = FlatBlocks.of(photo)
        return cls(flat.brightness, flat.variance, correlation_kernels(flat.correlation))

    def deviation(self, photo: torch.Tensor) -> torch.Tensor:
        """Returns the noise's standard deviation (C, H, W) for the local brightness at each pixel of `photo`."""
        grid = torch.linspace(0, 1, BRIGHTNESS_STEPS + 1, device=photo.device)
        distance = (grid[:, None, None] - self.brightness).abs()  # (65, K, C)
        # the wide second term decides only at brightnesses far from those of all flat blocks
        weight = torch.exp(-0.5 * (distance / BRIGHTNESS_WIDTH).square()) + 1e-6 * torch.exp(-distance)
        curve = ((weight * self.variance).sum(1) / weight.sum(1)).sqrt()  # (65, C), the deviation
        index = (gaussian_filter(photo[None], LOCAL_SIGMA)[0].clamp(0, 1) * BRIGHTNESS_STEPS).round().long()
        return torch.stack([curve[index[c], c] for c in range(len(photo))])

    def sample(self, photo: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws noise (C, H, W) like that of the measured photo for `photo` (C, H, W), on its device."""
        channels, height, width = photo.shape
        white = torch.randn(1, channels, height + KERNEL - 1, width + KERNEL - 1, generator=generator)
        return self.deviation(photo) * F.conv2d(white.to(photo), self.kernels.to(photo))[0]


def removed_noise(
    photo: torch.Tensor, denoise: Callable[[torch.Tensor], torch.Tensor], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Estimates white noise from the residual of a denoiser in the smoother half of a photo's blocks.

    The texture in the residual is estimated by denoising the denoised photo once more. The share of noise that the
    denoiser removes is measured with white noise of about the same strength, added to the denoised photo.

    Args:
        photo: (C, H, W) in [0, 1], at least 16 pixels wide and high.
        denoise: denoiser, which maps (C, H, W) to (C, H, W).
        generator: source of the added noise.

    Returns:
        Brightness and variance of the noise, each (K, C); None if the denoiser removes less than 60 % of the amplitude,
        since the estimate would be unreliable.
    """

    def blocks(image: torch.Tensor) -> torch.Tensor:  # (L, C, 16, 16)
        grid = image.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)
        return grid.reshape(len(image), -1, BLOCK, BLOCK).transpose(0, 1)

    def power(image: torch.Tensor) -> torch.Tensor:  # (K, C)
        return blocks(image)[smooth].square().mean((2, 3))

    # 1. the smoother half of the blocks that are not clipped
    clean = denoise(photo)
    clean_blocks = blocks(clean)
    structure = clean_blocks.var((2, 3)).mean(1)
    structure[_is_clipped(blocks(photo))] = torch.inf
    smooth = structure.argsort()[: max(1, int(structure.isfinite().sum()) // 2)]
    # 2. power that the denoiser removes from the photo: noise and texture
    removed = power(photo - clean)
    texture = clean - denoise(clean)
    # 3. share of white noise of this strength that the denoiser removes, beyond that texture
    scale = removed.median(0).values.sqrt()[:, None, None]  # (C, 1, 1)
    probe = (clean + scale * torch.randn(photo.shape, generator=generator)).clamp(0, 1)
    share = power(probe - denoise(probe) - texture).mean(0) / power(probe - clean).mean(0).clamp(min=1e-12)  # (C,)
    if bool((share < MIN_REMOVED).any()):
        return None
    return clean_blocks[smooth].mean((2, 3)), (removed - power(texture)).clamp(min=0) / share


def without_plane(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the means (..., 1, 1) of square blocks, and the blocks minus their least-squares planes."""
    ramp = torch.linspace(-1, 1, blocks.shape[-1], device=blocks.device)
    ramp = ramp / ramp.square().mean().sqrt()
    mean = blocks.mean((-2, -1), keepdim=True)
    residual = blocks - mean
    for slope in (ramp[:, None], ramp[None, :]):
        residual = residual - (residual * slope).mean((-2, -1), keepdim=True) * slope
    return mean, residual


def _flattest(blocks: torch.Tensor, mean: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Returns the indices of flat blocks among (L, C, 16, 16), and whether all blocks are clipped.

    Clipped blocks are skipped; if all are clipped, the four with the least coarse energy are returned.
    """
    coarse = F.avg_pool2d(residual, CELL).square().mean((1, 2, 3))  # (L,): noise averages out, edges do not
    usable = torch.where(_is_clipped(blocks), torch.inf, coarse)
    chosen = []
    # candidates: in each bin of brightness, the blocks with the least coarse energy
    for group in mean.mean((1, 2, 3)).argsort().chunk(BRIGHTNESS_BINS):
        best = group[usable[group].argsort()[: max(1, int(FLAT_SHARE * len(group)))]]
        chosen.append(best[usable[best].isfinite()])
    candidates = torch.cat(chosen)
    if not len(candidates):
        return coarse.argsort()[:4], True
    # flat: the coarse share of the energy is close to that of the best candidates
    share = coarse[candidates] / residual[candidates].square().mean((1, 2, 3)).clamp(min=1e-12)
    return candidates[share <= FLAT_RATIO * share.quantile(0.2)], False


def _is_clipped(blocks: torch.Tensor) -> torch.Tensor:
    """Returns which of the blocks (L, C, 16, 16) are clipped, (L,) bool."""
    return ((blocks < CLIPPED) | (blocks > 1 - CLIPPED)).float().mean((1, 2, 3)) > MAX_CLIPPED


def _correlation(residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes `FlatBlocks.correlation` (C, C, 7, 7) and `FlatBlocks.gain` (C,) from residuals (K, C, 16, 16).

    Blocks have equal weights, whatever their noise level. Subtracting a plane removes the three lowest frequencies, and
    with them about 3 S(0) of the energy of noise with spectrum S: `r S(0)` of the covariance at each small offset, with
    r = 3 / 16**2. S(0), the sum of the noise's covariance over the n offsets, follows from that of the residual:
    `S(0) = sum(residual's covariance) + n r S(0)`.
    """
    unit = residual / (residual.square().mean((2, 3), keepdim=True).sqrt() + 1e-4)
    side, lags = residual.shape[-1], 2 * MAX_LAG + 1
    # mean cross-covariance of the residuals, by the Wiener-Khinchin theorem
    spectrum = torch.fft.rfft2(unit, s=(2 * side, 2 * side))
    cross = torch.einsum("kahw,kbhw->abhw", spectrum.conj(), spectrum) / len(unit)
    products = torch.fft.irfft2(cross, s=(2 * side, 2 * side)).roll((MAX_LAG, MAX_LAG), (2, 3))[..., :lags, :lags]
    overlap = side - (torch.arange(lags, device=unit.device) - MAX_LAG).abs()
    covariance = products / (overlap[:, None] * overlap)  # covariance of the residual, (C, C, 7, 7)
    r = 3 / side**2
    zero_frequency = covariance.sum((2, 3), keepdim=True) / (1 - r * lags**2)  # S(0)
    with_plane = covariance + r * zero_frequency  # covariance of the noise
    variance, residual_variance = (torch.diagonal(x[..., MAX_LAG, MAX_LAG]) for x in (with_plane, covariance))  # (C,)
    deviation = variance.clamp(min=1e-12).sqrt()
    correlation = with_plane / (deviation[:, None] * deviation)[..., None, None]
    return correlation.clamp(-1, 1), variance / residual_variance.clamp(min=1e-12)
