"""Gaussian filter of batches of photos."""

import math

import torch
import torch.nn.functional as F


def gaussian_filter(photos: torch.Tensor, sigma: float | torch.Tensor, radius: int | None = None) -> torch.Tensor:
    """Applies a Gaussian filter with reflection at the borders, without torchvision, whose import takes seconds.

    Args:
        photos: floating-point photos (B, C, H, W).
        sigma: standard deviation in pixels, a number or (B, 1, 1, 1).
        radius: half width of the kernel in pixels, less than H and W; None: 2.5 times the largest `sigma`.
    """
    batch, channels, height, width = photos.shape
    if radius is None:
        radius = math.ceil(2.5 * float(torch.as_tensor(sigma).max()))
    deviation = torch.as_tensor(sigma, dtype=photos.dtype, device=photos.device).flatten()
    deviation = deviation.clamp(min=1e-6)  # a `sigma` of zero leaves the photo unchanged
    offset = torch.arange(-radius, radius + 1, dtype=photos.dtype, device=photos.device)
    kernel = torch.exp(-((offset / deviation[:, None]) ** 2) / 2).expand(batch, -1)  # (B, 2 radius + 1)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]  # (B C, 1, 2 radius + 1)
    padded = F.pad(photos.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
    columns_done = F.conv2d(padded, kernel[..., None], groups=batch * channels)
    return F.conv2d(columns_done, kernel[:, :, None], groups=batch * channels).view(photos.shape)
