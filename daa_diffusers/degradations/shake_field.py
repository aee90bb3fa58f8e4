"""Spatially varying blur of camera shake: the mean of moved copies of a photo over the exposure."""

import math

import torch
import torch.nn.functional as F

MAX_COPIES = 256  # largest number of copies that are averaged
DEPTH_CELLS = 3  # cells per side of the coarse grid from which `nearness` is interpolated
MIN_NEARNESS = 0.05  # nearness must be positive: all parts of a photo move in the same direction


def blur_along(
    light: torch.Tensor, paths: torch.Tensor, turn: torch.Tensor, zoom: torch.Tensor, nearness: torch.Tensor
) -> torch.Tensor:
    """Averages copies of photos, each translated, rotated and scaled according to the camera motion at one time.

    To first order in the angles, pixel p (relative to the center of the photo) is projected at time t to

        p + nearness(p) path(t) + turn(t) (-p_x, p_y) + zoom(t) p,      p = (p_y, p_x).

    The means of each sample's path, turn and zoom are subtracted, so that the photo is blurred, not shifted. Photos are
    mirrored beyond their borders.

    Args:
        light: (B, C, H, W), linear light of any range.
        paths: (B, T, 2), positions (y, x) in pixels, equally spaced in time.
        turn: (B, T), rotation in radians.
        zoom: (B, T), relative change of scale; 0.01 enlarges by 1 %.
        nearness: (B, 1, H, W), factor of the path for each pixel, with mean 1; larger for near objects.

    Returns:
        Blurred photos (B, C, H, W).
    """
    batch, _, height, width = light.shape
    motion = torch.cat([paths, turn[..., None], zoom[..., None]], dim=-1)  # (B, T, 4)
    y, x = (torch.arange(side).to(light) - (side - 1) / 2 for side in (height, width))
    y, x = y[:, None].expand(height, width), x[None].expand(height, width)
    # displacement of the photo's corners, which move most, over the exposure; in pixels
    corner = math.hypot(height, width) / 2  # distance from the center
    pixels_per_unit = motion.new_tensor([1.0, 1.0, corner, corner])  # unit of path (y, x), turn and zoom
    distance = (motion.diff(dim=1) * pixels_per_unit).norm(dim=-1).sum(1).max().item()
    # copies at most a pixel apart, up to MAX_COPIES
    copies = min(MAX_COPIES, max(1, math.ceil(distance * nearness.max().item())))
    motion = F.interpolate(motion.mT, size=copies, mode="linear", align_corners=copies > 1).mT  # (B, copies, 4)
    motion = motion - motion.mean(1, keepdim=True)
    blurred = torch.zeros_like(light)
    for dy, dx, angle, scale in (moment.unbind(-1) for moment in motion.unbind(1)):  # (B,) each
        dy, dx, angle, scale = (value[:, None, None] for value in (dy, dx, angle, scale))
        at_y = y - nearness[:, 0] * dy + angle * x - scale * y  # (B, H, W), where to sample the photo
        at_x = x - nearness[:, 0] * dx - angle * y - scale * x
        grid = torch.stack([at_x * 2 / width, at_y * 2 / height], dim=-1)  # (B, H, W, 2); the photo spans [-1, 1]
        blurred += F.grid_sample(light, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return blurred / copies


def smooth_field(coarse: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolates a field (B, 1, H, W) with mean 1 over each photo from (B, 1, DEPTH_CELLS, DEPTH_CELLS)."""
    field = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True).clamp(min=MIN_NEARNESS)
    return field / field.mean((2, 3), keepdim=True)
