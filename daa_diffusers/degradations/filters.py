"""Gaussian filter of batches of photos."""

import math

import torch
import torch.nn.functional as F


def gaussian_filter(photos: torch.Tensor, sigma: float | torch.Tensor, radius: int | None = None) -> torch.Tensor:
    """Gaussian filter of (B, C, H, W), mirrored at borders. (torchvision's costs seconds to import.)

    Args:
        photos: floating.
        sigma: standard deviation in pixels: one, or (B, 1, 1, 1), one a sample.
        radius: of the kernel, less than H and W; None: 2.5 of the widest `sigma`.
    """
    batch, channels, height, width = photos.shape
    if radius is None:
        radius = math.ceil(2.5 * float(torch.as_tensor(sigma).max()))
    deviation = torch.as_tensor(sigma, dtype=photos.dtype, device=photos.device).flatten().clamp(min=1e-6)
    offset = torch.arange(-radius, radius + 1, dtype=photos.dtype, device=photos.device)
    kernel = torch.exp(-((offset / deviation[:, None]) ** 2) / 2).expand(batch, -1)  # (B, 2 radius + 1)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]  # (B C, 1, 2 radius + 1)
    padded = F.pad(photos.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
    padded = F.conv2d(padded, kernel[..., None], groups=batch * channels)
    return F.conv2d(padded, kernel[:, :, None], groups=batch * channels).view(photos.shape)
