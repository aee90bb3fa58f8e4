"""Noise estimation from the flat parts of a single photo.

The one noise estimator of the package: of the blocks of each brightness, those with the least coarse structure are
candidates; of these, the ones whose coarse part is a small share of the whole are flat (noise is finer than detail:
natural photos have most of their energy in low frequencies). The residual of a flat block after subtraction of a fitted
plane is noise. High-pass filters and principal components (Liu, Tanaka, Okutomi 2013; Pyatykh, Hesser, Zheng 2013;
Chen, Zhu, Heng 2015) assume white noise and underestimate it where neighboring pixels are correlated, as in photos of
cameras; blocks do not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...photos.pixels import center_crop
from ..filters import gaussian_filter
from ..fitted import KERNEL, MAX_LAG, correlation_kernels

BLOCK = 16  # pixels: side of the blocks in which noise is measured, half overlapping
CELL = 4  # pixels: side of the cells whose means are the coarse part of a block
NOISE_REGION = 512  # middle of a larger photo from which its noise is estimated
FLAT_SHARE = 0.05  # of the blocks of each brightness are candidates
FLAT_RATIO = 1.5  # a flat block's coarse share exceeds that of the best candidates by no more than this
BRIGHTNESS_BINS = 6
BRIGHTNESS_WIDTH = 0.08
LOCAL_SIGMA = 3.0  # pixels over which a photo's brightness is taken
CLIPPED = 1 / 255  # from black or white
WHITE = 0.2  # correlation of neighbors below which a denoiser removes all of the noise
MAX_CLIPPED = 0.1  # share of a block's values


@dataclass(frozen=True)
class FlatBlocks:
    """The flat blocks of a photo, K of them.

    Attributes:
        brightness: (K, C), their means.
        residual: (K, C, 16, 16), the blocks less fitted planes: noise.
        correlation: (C, C, 7, 7), of the noise of color a with that of color b at an offset (down, right), unbiased.
        gain: (C,), ratio of the noise's variance to the residual's, which lacks the part in the plane.
        clipped: all blocks of the photo are clipped, so that these are unreliable.
    """

    brightness: torch.Tensor
    residual: torch.Tensor
    correlation: torch.Tensor
    gain: torch.Tensor
    clipped: bool

    @classmethod
    def of(cls, photo: torch.Tensor, region: int = NOISE_REGION) -> "FlatBlocks":
        """Those in the middle of `photo` (C, H, W) in [0, 1], sides at least 32; ValueError on another shape."""
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
        """(K, C), of the noise of each block."""
        return self.residual.square().mean((2, 3)) * self.gain

    @property
    def neighbors(self) -> float:
        """Mean correlation of the noise of horizontal and vertical neighbors of one color."""
        own = self.correlation.diagonal().permute(2, 0, 1)  # (C, 7, 7)
        return float((own[:, MAX_LAG, MAX_LAG + 1] + own[:, MAX_LAG + 1, MAX_LAG]).mean()) / 2


@dataclass(frozen=True)
class Noise:
    """Noise of one photo, estimated from its flat parts.

    Attributes:
        brightness, variance: (K, C), mean and noise variance of K flat blocks.
        kernels: (C, C, 16, 16), which turn white noise into noise of unit variance with the correlation, between
            pixels and colors, of the photo's.
    """

    brightness: torch.Tensor
    variance: torch.Tensor
    kernels: torch.Tensor

    @classmethod
    def of(cls, photo: torch.Tensor) -> "Noise":
        """Estimates the noise of `photo` (C, H, W), both sides at least 32 pixels, from its flat blocks.

        Assumes noise that depends on brightness alone; on photos without any flat part it is overestimated.

        Raises:
            ValueError: wrong shape.
        """
        flat = FlatBlocks.of(photo)
        return cls(flat.brightness, flat.variance, correlation_kernels(flat.correlation))

    def deviation(self, photo: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the noise (C, H, W) at every pixel of `photo` (C, H, W), by its local brightness."""
        levels = torch.linspace(0, 1, 65, device=photo.device)
        distance = (levels[:, None, None] - self.brightness).abs()  # (65, K, C)
        # a narrow kernel, and a wide one where no flat block is near
        weight = torch.exp(-0.5 * (distance / BRIGHTNESS_WIDTH).square()) + 1e-6 * torch.exp(-distance)
        table = ((weight * self.variance).sum(1) / weight.sum(1)).sqrt()  # (65, C)
        index = (gaussian_filter(photo[None], LOCAL_SIGMA)[0].clamp(0, 1) * 64).round().long()
        return torch.stack([table[index[c], c] for c in range(len(photo))])

    def sample(self, photo: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """New noise (C, H, W), on the device of `photo` (C, H, W), as that photo could have had."""
        channels, height, width = photo.shape
        white = torch.randn(1, channels, height + KERNEL - 1, width + KERNEL - 1, generator=generator)
        return self.deviation(photo) * F.conv2d(white.to(photo), self.kernels.to(photo))[0]


def removed_noise(
    photo: torch.Tensor, denoise: Callable[[torch.Tensor], torch.Tensor], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Brightness and variance, each (K, C), of white noise by what a denoiser removes of a photo's smoother half.

    What it removes from the denoised photo is texture; the share of noise that it removes is measured with white noise
    of about that strength, added to the denoised photo.

    Args:
        photo: (C, H, W) in [0, 1], sides at least 16.
        denoise: maps it to the same.
        generator: draws that noise.

    Returns:
        None where less than 60 % of the amplitude is removed: the estimate would be unreliable.
    """

    def blocks(image: torch.Tensor) -> torch.Tensor:  # (L, C, 16, 16)
        cut = image.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)
        return cut.reshape(len(image), -1, BLOCK, BLOCK).transpose(0, 1)

    def power(image: torch.Tensor) -> torch.Tensor:  # (K, C)
        return blocks(image)[smooth].square().mean((2, 3))

    # 1. the smoother half of the blocks that are not clipped
    clean = denoise(photo)
    inside = blocks(clean)
    structure = inside.var((2, 3)).mean(1)
    structure[_is_clipped(blocks(photo))] = torch.inf
    smooth = structure.argsort()[: max(1, int(structure.isfinite().sum()) // 2)]
    # 2. power that the denoiser removes of the photo, and of texture in the denoised photo
    variance, texture = power(photo - clean), clean - denoise(clean)
    # 3. share of white noise of that strength which it removes
    scale = variance.median(0).values.sqrt()[:, None, None]  # (C, 1, 1)
    probe = (clean + scale * torch.randn(photo.shape, generator=generator)).clamp(0, 1)
    removed = power(probe - denoise(probe) - texture).mean(0)
    share = removed / power(probe - clean).mean(0).clamp(min=1e-12)  # (C,)
    if bool((share < 0.36).any()):
        return None
    return inside[smooth].mean((2, 3)), (variance - power(texture)).clamp(min=0) / share


def without_plane(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (..., 1, 1) of square blocks, and the blocks less their least-squares planes."""
    ramp = torch.linspace(-1, 1, blocks.shape[-1], device=blocks.device)
    ramp = ramp / ramp.square().mean().sqrt()
    mean = blocks.mean((-2, -1), keepdim=True)
    residual = blocks - mean
    for slope in (ramp[:, None], ramp[None, :]):
        residual = residual - (residual * slope).mean((-2, -1), keepdim=True) * slope
    return mean, residual


def _flattest(blocks: torch.Tensor, mean: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Indices of the flat ones of blocks (L, C, 16, 16) that are not clipped, and whether all are (then any)."""
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
    """(L,) bool of blocks (L, C, 16, 16)."""
    return ((blocks < CLIPPED) | (blocks > 1 - CLIPPED)).float().mean((1, 2, 3)) > MAX_CLIPPED


def _correlation(residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlation (C, C, 7, 7) of the noise that leaves blocks (K, C, 16, 16), and the variance that the plane took.

    Blocks count equally, whatever their noise level. A plane takes the three lowest frequencies, in which noise of
    spectrum S has 3 S(0) of its energy, about the same at every small offset; S(0) is the sum of the covariance.
    """
    unit = residual / (residual.square().mean((2, 3), keepdim=True).sqrt() + 1e-4)
    side, lags = residual.shape[-1], 2 * MAX_LAG + 1
    # mean cross-covariance of the residuals, by the Wiener-Khinchin theorem
    spectrum = torch.fft.rfft2(unit, s=(2 * side, 2 * side))
    cross = torch.einsum("kahw,kbhw->abhw", spectrum.conj(), spectrum) / len(unit)
    products = torch.fft.irfft2(cross, s=(2 * side, 2 * side)).roll((MAX_LAG, MAX_LAG), (2, 3))[..., :lags, :lags]
    overlap = side - (torch.arange(lags, device=unit.device) - MAX_LAG).abs()
    covariance = products / (overlap[:, None] * overlap)  # of the residual, (C, C, 7, 7)
    # the share that the plane took, added back to every offset
    taken = 3 / side**2
    zero_frequency = covariance.sum((2, 3), keepdim=True) / (1 - taken * lags**2)
    restored = covariance + taken * zero_frequency
    variance, left = (torch.diagonal(x[..., MAX_LAG, MAX_LAG]) for x in (restored, covariance))  # (C,)
    scale = variance.clamp(min=1e-12).sqrt()
    correlation = restored / (scale[:, None] * scale)[..., None, None]
    return correlation.clamp(-1, 1), variance / left.clamp(min=1e-12)
