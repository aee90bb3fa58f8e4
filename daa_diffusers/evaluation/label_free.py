"""What can be said about restored photos without ground truth: statistics of what was removed, and an estimated gain.

All images are floating point, (C, H, W) or (B, C, H, W), in [0, 1]; they may exceed it a little (nothing here clamps
but the PSNR). One image gives scalars (), a batch (B,).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .metrics import psnr

Restorer = Callable[[torch.Tensor], torch.Tensor]

WHITE = 1 / 255  # a residual below one step of 8 bit counts as none
LOCAL_SIGMA = 3.0  # pixels over which "local" variance is taken
DETAIL_SIGMA = 2.0  # what a Gaussian filter of this width takes away is detail
DRIFT_BLOCK = 32

NOISE_BLOCK = 16  # pixels: noise is looked at in blocks, half overlapping
NOISE_REGION = 512  # middle of a larger photo from which its noise is estimated
FLAT_SHARE = 0.05  # of the blocks of each brightness
BRIGHTNESS_BINS = 6
BRIGHTNESS_WIDTH = 0.08
PROBE_STEP = 0.2  # of the finite difference, in noise standard deviations
MIN_MSE = 1e-3  # of the relative error: at most 30 dB of gain are told apart


def residual_whiteness(degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """How white the residual `degraded - restored` is: 1 like white noise, 0 like a constant.

    `1 - rms(rho)` over the lags within two pixels, averaged over channels, where rho is the spatial autocorrelation of
    the residual divided by its local standard deviation, so that noise that follows the signal is white too. Noise of a
    camera that demosaics is not white (0.4 to 0.8 at lag one), so values compare restorers of the same photos only. A
    residual of zero counts as white.

    Raises:
        ValueError: on images that differ in shape or are smaller than 16 pixels.
    """
    degraded, restored, one = _pair(degraded, restored)
    residual = _over_local_deviation(degraded - restored - (degraded - restored).mean((2, 3), keepdim=True))
    height, width = residual.shape[2:]
    energy = residual.square().mean((2, 3)).clamp(min=1e-6)  # (B, C)
    squares = []
    for down in range(3):
        for right in range(-2, 3):
            if down == 0 and right <= 0:  # the other half plane mirrors this one
                continue
            ours = residual[..., down:, max(right, 0) : width + min(right, 0)]
            theirs = residual[..., : height - down, max(-right, 0) : width - max(right, 0)]
            squares.append(((ours * theirs).mean((2, 3)) / energy).square())
    return _given(1 - torch.stack(squares).mean(0).sqrt().mean(1), one)


def residual_signal_correlation(degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Correlation in [-1, 1] of detail in the residual `degraded - restored` with detail in the restored photo.

    Both lose what a Gaussian filter of sigma 2 keeps and are divided by their local standard deviation. Above 0: what
    was removed looks like what was kept: the photo is restored by half, whether noise was left or detail removed.
    Below 0: detail was added. An untouched photo gives 0.

    Raises:
        ValueError: as `residual_whiteness`.
    """
    degraded, restored, one = _pair(degraded, restored)
    parts = [_over_local_deviation(x - _blur(x, DETAIL_SIGMA)) for x in (degraded - restored, restored)]
    return _given((parts[0] * parts[1]).mean((1, 2, 3)), one)


def colour_drift(degraded: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Mean absolute colour change, in 1/255, of the photos averaged over blocks of 32 pixels; 0 is best.

    Noise does not quite average out: of noise of 20/255, about 1/255 is left where neighbours are correlated.

    Raises:
        ValueError: as `residual_whiteness`.
    """
    degraded, restored, one = _pair(degraded, restored)
    block = min(DRIFT_BLOCK, *degraded.shape[2:])
    return _given(255 * F.avg_pool2d(restored - degraded, block).abs().mean((1, 2, 3)), one)


def clean_fidelity(restorer: Restorer, clean: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of `restorer(clean)` against `clean`, which should come back unchanged; inf where it does.

    Args:
        restorer: maps (B, C, H, W) in [0, 1] to the same.
        clean: clean photos. Real ones hold some noise, so that a good denoiser reaches 35 to 50 dB, not more.
    """
    batch = clean[None] if clean.ndim == 3 else clean
    with torch.no_grad():
        restored = restorer(batch)
    return _given(psnr(restored, batch), clean.ndim == 3)


@dataclass(frozen=True)
class Noise:
    """A photo's own noise, as its flat parts show it.

    Attributes:
        brightness, variance: (K, C), mean and noise variance of K flat blocks.
        kernels: (C, C, 16, 16), which turn white noise into noise of unit variance with the correlation, between
            pixels and colours, of the photo's.
    """

    brightness: torch.Tensor
    variance: torch.Tensor
    kernels: torch.Tensor

    @classmethod
    def of(cls, photo: torch.Tensor) -> "Noise":
        """Estimates the noise of `photo` (C, H, W), both sides at least 32 pixels, from its flattest blocks.

        Of the blocks of each brightness, those whose 4 x 4 means follow a plane best are flat. Assumes noise that
        depends on brightness alone; on photos without any flat part it is overestimated.

        Raises:
            ValueError: on another shape.
        """
        if photo.ndim != 3 or min(photo.shape[1:]) < 2 * NOISE_BLOCK:
            raise ValueError(
                f"`photo` must be (C, H, W) with sides of at least {2 * NOISE_BLOCK}, got {tuple(photo.shape)}"
            )
        photo = _middle(photo.detach().float(), NOISE_REGION)
        blocks = photo.unfold(1, NOISE_BLOCK, NOISE_BLOCK // 2).unfold(2, NOISE_BLOCK, NOISE_BLOCK // 2)
        blocks = blocks.reshape(len(photo), -1, NOISE_BLOCK, NOISE_BLOCK).transpose(0, 1)  # (L, C, 16, 16)
        mean, residual = _without_plane(blocks)
        flat = _flattest(blocks, mean, residual)
        residual = residual[flat]  # (K, C, 16, 16)
        pixels = NOISE_BLOCK**2
        variance = residual.square().mean((2, 3)) * pixels / (pixels - 3)  # a plane has three parameters
        return cls(mean[flat][..., 0, 0], variance, _correlation_kernels(residual))

    def deviation(self, photo: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the noise (C, H, W) at every pixel of `photo` (C, H, W), by its local brightness."""
        levels = torch.linspace(0, 1, 65, device=photo.device)
        distance = (levels[:, None, None] - self.brightness).abs()  # (65, K, C)
        # a narrow kernel, and a wide one where no flat block is near
        weight = torch.exp(-0.5 * (distance / BRIGHTNESS_WIDTH).square()) + 1e-6 * torch.exp(-distance)
        table = ((weight * self.variance).sum(1) / weight.sum(1)).sqrt()  # (65, C)
        index = (_blur(photo[None], LOCAL_SIGMA)[0].clamp(0, 1) * 64).round().long()
        return torch.stack([table[index[c], c] for c in range(len(photo))])

    def sample(self, photo: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """New noise (C, H, W), on the device of `photo` (C, H, W), as that photo could have had."""
        channels, height, width = photo.shape
        more = NOISE_BLOCK - 1
        white = torch.randn(1, channels, height + more, width + more, generator=generator)
        return self.deviation(photo) * F.conv2d(white.to(photo), self.kernels.to(photo))[0]


def estimated_gain(restorer: Restorer, degraded: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Estimated share of the noise that is still there, as a gain in dB over the untouched input, whose gain is 0.

    Stein's unbiased risk estimate with a Monte Carlo divergence (Ramani, Blu, Unser 2008) for noise that may be
    correlated and depend on brightness. With residual `r = f(x) - x`, drawn noise n and `h` = 0.2,

        mse = mean(r^2) - mean(n^2) + 2 mean(n (f(x + h n) - f(x - h n)) / 2h),
        gain = -10 log10( mean over photos of mse / mean(n^2) ),

    so every photo counts relative to its own noise. It needs additive noise: it says nothing about rain or blur.

    Args:
        restorer: maps (B, C, H, W) in [0, 1] to the same.
        degraded: (B, C, H, W).
        noise: (K, B, C, H, W), K draws by `Noise.sample`.

    Returns:
        Scalar, at most 30.
    """
    check = degraded.shape == noise.shape[1:] and degraded.ndim == 4
    if not check:
        raise ValueError(
            f"`noise` must be (K, B, C, H, W) for `degraded` (B, C, H, W), got {tuple(noise.shape)} for "
            f"{tuple(degraded.shape)}"
        )
    with torch.no_grad():
        changed = (restorer(degraded) - degraded).double().square().mean((1, 2, 3))  # (B,)
        passed = torch.zeros_like(changed)
        for n in noise:
            difference = restorer(degraded + PROBE_STEP * n) - restorer(degraded - PROBE_STEP * n)
            passed += (n * difference).double().mean((1, 2, 3)) / (2 * PROBE_STEP * len(noise))
    power = noise.double().square().mean((0, 2, 3, 4)).clamp(min=1e-8)
    relative = ((changed - power + 2 * passed) / power).mean()
    return -10 * torch.log10(relative.clamp(min=MIN_MSE))


def label_free_score(gain: float, correlation: float) -> float:
    """One number to choose between restorers of the same noisy photos; higher is better, 0 that of untouched photos.

        score = gain - 2 max(0, |correlation| - 0.25)

    in dB, of `estimated_gain` and the mean `residual_signal_correlation`. The gain counts drift, lost detail and left
    noise for what they cost. But noise is easily underestimated, which favours restorers that do too little; those
    keep noise that looks like what they removed, hence the second term. Whiteness, drift and clean fidelity are left
    out: on real pairs they do not order restorers beyond this, and the best (supervised on the photos) had the lowest
    fidelity. Constant errors of the restored photos that training on pairs could know of are not seen.
    See benchmarks/selection.py for what selecting by it costs.
    """
    return gain - 2 * max(0.0, abs(correlation) - 0.25)


def _without_plane(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (..., 1, 1) of square blocks, and the blocks less their least-squares planes."""
    ramp = torch.linspace(-1, 1, blocks.shape[-1], device=blocks.device)
    ramp = ramp / ramp.square().mean().sqrt()
    mean = blocks.mean((-2, -1), keepdim=True)
    residual = blocks - mean
    for slope in (ramp[:, None], ramp[None, :]):
        residual = residual - (residual * slope).mean((-2, -1), keepdim=True) * slope
    return mean, residual


def _flattest(blocks: torch.Tensor, mean: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Indices of the flattest blocks (L, C, 16, 16) of each brightness, clipped ones left out where possible."""
    structure = F.avg_pool2d(residual, 4).square().mean((1, 2, 3))  # (L,): noise averages out, edges do not
    is_clipped = ((blocks < WHITE) | (blocks > 1 - WHITE)).float().mean((1, 2, 3)) > 0.1
    usable = torch.where(is_clipped, torch.inf, structure)
    chosen = []
    for group in mean.mean((1, 2, 3)).argsort().chunk(BRIGHTNESS_BINS):
        best = group[usable[group].argsort()[: max(1, int(FLAT_SHARE * len(group)))]]
        chosen.append(best[usable[best].isfinite()])
    flat = torch.cat(chosen)
    return flat if len(flat) else structure.argsort()[:4]


def _correlation_kernels(residual: torch.Tensor) -> torch.Tensor:
    """Square root of the mean cross-spectrum of blocks (K, C, 16, 16), as zero-phase kernels (C, C, 16, 16)."""
    unit = residual / (residual.square().mean((2, 3), keepdim=True).sqrt() + 1e-4)
    spectrum = torch.fft.fft2(unit, norm="ortho")
    cross = torch.einsum("kahw,kbhw->hwab", spectrum, spectrum.conj())
    values, vectors = torch.linalg.eigh(cross)
    root = (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mH  # (16, 16, C, C)
    kernels = torch.fft.fftshift(torch.fft.ifft2(root.permute(2, 3, 0, 1)).real, dim=(2, 3))
    return kernels / kernels.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def _over_local_deviation(x: torch.Tensor) -> torch.Tensor:
    return x / (_blur(x.square(), LOCAL_SIGMA).clamp(min=0) + (WHITE / 4) ** 2).sqrt()


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian filter of (B, C, H, W), mirrored at borders. (torchvision's costs seconds to import.)"""
    radius = math.ceil(2.5 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])


def _middle(photo: torch.Tensor, side: int) -> torch.Tensor:
    for axis in (1, 2):
        if photo.shape[axis] > side:
            photo = photo.narrow(axis, (photo.shape[axis] - side) // 2, side)
    return photo


def _pair(degraded: torch.Tensor, restored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
    if degraded.shape != restored.shape or degraded.ndim not in (3, 4) or min(degraded.shape[-2:]) < NOISE_BLOCK:
        raise ValueError(
            f"`degraded` and `restored` must have one shape, (C, H, W) or (B, C, H, W), with sides of at least "
            f"{NOISE_BLOCK}, got {tuple(degraded.shape)} and {tuple(restored.shape)}"
        )
    one = degraded.ndim == 3
    return (degraded[None], restored[None], True) if one else (degraded, restored, False)


def _given(values: torch.Tensor, one: bool) -> torch.Tensor:
    return values[0] if one else values
