"""Point spread functions (PSFs): from trajectories or points of light, and convolution with them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..errors import ConfigurationError


def psfs_of(points: Sequence[Sequence[Sequence[float]]], reach: float) -> torch.Tensor:
    """Renders PSFs that are given as points.

    Args:
        points: for each PSF a list of points (y, x, light), in pixels from the center.
        reach: largest allowed absolute value of y and x.

    Returns:
        PSFs (N, 1, K, K), each with sum 1, all with the smallest K that holds all points.

    Raises:
        ConfigurationError: no PSF, or one that is no list of points, has no light, or reaches too far.
    """
    try:
        psfs = [torch.tensor(psf, dtype=torch.float32) for psf in points]
        malformed = any(psf.ndim != 2 or psf.shape[1] != 3 or not psf.isfinite().all() for psf in psfs)
    except (TypeError, ValueError, RuntimeError):
        malformed = True
    if malformed:
        raise ConfigurationError(f"`psfs` must be a list of lists of points (y, x, light), got {points!r:.80}")
    if not psfs or not all((psf[:, 2] >= 0).all() and psf[:, 2].sum() > 0 for psf in psfs):
        raise ConfigurationError("`psfs` must hold at least one PSF, each with light, which must not be negative")
    together = torch.cat(psfs)
    radius = math.ceil(together[:, :2].abs().max().item())
    if not radius <= reach:
        raise ConfigurationError(f"points of `psfs` must be at most {reach:g} pixels from the center by row and column")
    sample = torch.arange(len(psfs)).repeat_interleave(torch.tensor([len(psf) for psf in psfs]))
    light = torch.cat([psf[:, 2] / psf[:, 2].sum() for psf in psfs])
    y, x = (together[:, :2] + radius).unbind(1)
    return splat(sample, y, x, light, (len(psfs), 2 * radius + 1, 2 * radius + 1))[:, None]


def trajectory_psf(paths: torch.Tensor) -> torch.Tensor:
    """Rasterizes paths (B, T, 2), positions (y, x) in pixels equally spaced in time, to PSFs (B, 1, K, K).

    The light of each path segment is divided among points at most half a pixel apart, and each point is distributed
    bilinearly over four pixels, so that PSFs have subpixel accuracy. PSFs are non-negative, sum to one, and have their
    center of mass at the center: photos are blurred, not shifted. K is the smallest odd side that contains all paths.
    """
    batch, steps, _ = paths.shape
    segments = paths.diff(dim=1)  # (B, T - 1, 2)
    longest = segments.norm(dim=-1).max().item() if steps > 1 else 0.0
    divisions = max(1, math.ceil(2 * longest))  # points of each segment
    share = torch.arange(divisions, dtype=paths.dtype, device=paths.device)[:, None] / divisions
    points = paths[:, :-1, None] + share * segments[:, :, None]  # (B, T - 1, divisions, 2)
    points = torch.cat([points.flatten(1, 2), paths[:, -1:]], dim=1)  # (B, N, 2)
    points = points - points.mean(1, keepdim=True)
    radius = math.ceil(points.abs().max().item())
    y, x = (points + radius).flatten(0, 1).unbind(1)  # (B N,)
    sample = torch.arange(batch, device=paths.device).repeat_interleave(points.shape[1])
    weight = torch.full_like(y, 1 / points.shape[1])
    return splat(sample, y, x, weight, (batch, 2 * radius + 1, 2 * radius + 1))[:, None]


def splat(
    sample: torch.Tensor, y: torch.Tensor, x: torch.Tensor, light: torch.Tensor, size: tuple[int, int, int]
) -> torch.Tensor:
    """Renders points of light on black images, distributing each bilinearly over the four pixels around it.

    Args:
        sample: (N,), index of the image of each point.
        y, x: (N,), positions; pixel (i, j) has its center at y = i, x = j. Light outside of the image is lost.
        light: (N,), total light of each point.
        size: shape (B, H, W) of the images.
    """
    batch, height, width = size
    image = torch.zeros(batch * height * width, dtype=light.dtype, device=light.device)
    top, left = y.floor(), x.floor()
    for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = ((sample * height + row.long()) * width + column.long())[inside]
            image.index_add_(0, index, (light * share_y * share_x)[inside])
    return image.view(batch, height, width)


def convolve(photo: torch.Tensor, psf: torch.Tensor, defocus: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Convolves photos with a PSF per sample and with a Gaussian, by Fourier transforms.

    Photos are mirrored beyond their borders; if they are smaller than the margin, their border pixels are repeated.

    Args:
        photo: photos (B, C, H, W).
        psf: PSFs (B, 1, K, K), K odd.
        defocus: standard deviation of the Gaussian in pixels, a number or (B, 1, 1, 1).
    """
    height, width = photo.shape[-2:]
    sigma = torch.as_tensor(defocus, dtype=photo.dtype, device=photo.device)
    radius = psf.shape[-1] // 2
    margin = radius + math.ceil(4 * sigma.max().item())  # the Gaussian is negligible beyond 4 sigma
    padded = F.pad(photo, (margin,) * 4, mode="reflect" if margin < min(height, width) else "replicate")
    size = padded.shape[-2:]
    transfer = torch.fft.rfft2(psf, s=size)  # (B, 1, H', W' / 2 + 1), H' and W' including the margins
    frequency_y, frequency_x = torch.fft.fftfreq(size[0]).to(photo)[:, None], torch.fft.rfftfreq(size[1]).to(photo)
    transfer = transfer * torch.exp(-2 * (math.pi * sigma) ** 2 * (frequency_y**2 + frequency_x**2))
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer, s=size)
    start = margin + radius  # the PSF's center is at `radius`, which shifts the photo by `radius` pixels
    return blurred[..., start : start + height, start : start + width]
