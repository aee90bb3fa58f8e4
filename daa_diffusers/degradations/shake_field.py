"""Blur that varies over a photo: the light of its moved copies, averaged over the exposure."""

import math

import torch
import torch.nn.functional as F

MOST_COPIES = 256  # of a photo that is blurred
DEPTH_CELLS = 3  # of the coarse grid on which distance varies


def blur_along(
    light: torch.Tensor, paths: torch.Tensor, turn: torch.Tensor, zoom: torch.Tensor, nearness: torch.Tensor
) -> torch.Tensor:
    """Averages copies of photos, each moved, turned and scaled as the camera was at a time of the exposure.

    To first order in the angles, the light of pixel p (from the middle of the photo) falls at time t on

        p + nearness(p) path(t) + turn(t) (-p_x, p_y) + zoom(t) p,      p = (p_y, p_x).

    Each sample's path, turn and zoom have mean zero then, so that the photo is blurred, not moved. Beyond its borders a
    photo is taken to be mirrored.

    Args:
        light: (B, C, H, W).
        paths: (B, T, 2) positions (y, x) in pixels, equally spaced in time.
        turn: (B, T) in radians.
        zoom: (B, T) relative change of scale.
        nearness: (B, 1, H, W), how far a pixel moves along the path, relative to the mean of its photo.
    """
    batch, _, height, width = light.shape
    motion = torch.cat([paths, turn[..., None], zoom[..., None]], dim=-1)  # (B, T, 4)
    y, x = (torch.arange(side).to(light) - (side - 1) / 2 for side in (height, width))
    y, x = y[:, None].expand(height, width), x[None].expand(height, width)
    corner = math.hypot(height, width) / 2
    reach = motion.new_tensor([1.0, 1.0, corner, corner])
    along = ((motion[:, 1:] - motion[:, :-1]) * reach).norm(dim=-1).sum(1).max().item()
    copies = min(MOST_COPIES, max(1, math.ceil(along * nearness.max().item())))  # a pixel or less apart
    motion = F.interpolate(motion.mT, size=copies, mode="linear", align_corners=copies > 1).mT  # (B, copies, 4)
    motion = motion - motion.mean(1, keepdim=True)
    blurred = torch.zeros_like(light)
    for dy, dx, angle, scale in (moment.unbind(-1) for moment in motion.unbind(1)):  # (B,) each
        dy, dx, angle, scale = (value[:, None, None] for value in (dy, dx, angle, scale))
        at_y = y - nearness[:, 0] * dy + angle * x - scale * y  # (B, H, W), from where the light comes
        at_x = x - nearness[:, 0] * dx - angle * y - scale * x
        grid = torch.stack([at_x * 2 / width, at_y * 2 / height], dim=-1)  # (B, H, W, 2)
        blurred += F.grid_sample(light, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return blurred / copies


def smooth_field(coarse: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, 1, DEPTH_CELLS, DEPTH_CELLS) -> (B, 1, H, W), of mean 1 over each photo."""
    field = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True).clamp(min=0.05)
    return field / field.mean((2, 3), keepdim=True)
