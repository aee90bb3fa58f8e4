"""Guard of derainers: undoes changes that do not resemble rain.

Rain streaks are thin, bright and elongated. Streaks in one photo share a direction, and even dense rain adds little
light on average. A derainer may also remove a pattern of the scene, such as the print of a dress; the removed light is
then much brighter on average, or its gradients have no common direction. Both are measured in the neighborhood of each
pixel, and where the removed light does not resemble rain, the input pixels are kept.

The thresholds below were set, with a margin, on the validation photos of Rain100L and ten photos of real rain: the
densest rain there has a mean of 0.08 (1 is white), and the only pattern removed by mistake has 0.21.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .guard import Verdict
from .image_processor import Photo, as_floats

CELL = 8  # pixels, side of the cells over which the removed light is averaged
STRIP = 32  # height, in cells, of the strips in which photos are processed, to limit memory
# Standard deviation, in cells, of the Gaussian window over which light and directions are averaged.
LIGHT_SIGMA, DIRECTION_SIGMA = 3.0, 1.5
# Bounds of the mean removed light: rain up to the first number, not rain from the second on. `LIGHT` is absolute (1 is
# white), `DENSE` relative to the photo's median, for dense rain; the larger bound applies.
LIGHT, DENSE = (0.08, 0.12), (3.0, 5.0)
MARGIN = 3  # cells by which a region of too much light is dilated
# Agreement of the local direction with that of the photo, relative to the coherence of the whole photo (which is lower
# if streaks cross each other): not rain up to the first number, rain from the second on.
AGREEMENT = 0.3, 0.55
LIKE_RAIN = 0.95  # verdict "like rain" above this fraction of the removed light that stays removed, by power
FAINT = 1e-3  # rms gradient of the removed light (1 is white) below which it has no direction


@dataclass(frozen=True)
class _Removed:
    """Removed light per cell, (1, 1, H / CELL, W / CELL): its mean, and the structure tensor of its gradients."""

    light: torch.Tensor
    xx: torch.Tensor
    yy: torch.Tensor
    xy: torch.Tensor

    @property
    def power(self) -> torch.Tensor:
        """Squared gradients."""
        return self.xx + self.yy


def undo_non_rain(photo: Photo, restored: Photo) -> Verdict:
    """Replaces pixels of `restored` by those of `photo`, in place, where the removed light does not resemble rain.

    Args:
        photo, restored: pixels (C, H, W) of one size and dtype.

    Returns:
        Verdict whose strength is the fraction of the removed light, by power, that stays removed.
    """
    removed = _measure(photo, restored)
    change = 255 * float(removed.power.mean().sqrt())
    kept = _like_rain(removed)
    strength = float((kept * removed.power).sum() / removed.power.sum().clamp(min=1e-12))
    undone = float(kept.min()) <= 1 - 1e-3 and change >= 255 * FAINT
    if undone:
        _blend(photo, restored, kept)
    if undone and strength <= LIKE_RAIN:
        return Verdict(strength, "part of the change is not like rain", change)
    return Verdict(1.0, "the change is like rain", change)


def _measure(photo: Photo, restored: Photo) -> _Removed:
    """Measures the removed light, strip by strip, which bounds the memory for floating point pixels."""
    height, step = photo.size[0], CELL * STRIP
    parts = []
    for top in range(0, height, step):
        rows = slice(max(0, top - 1), min(height, top + step + 1))  # one more row at each end, for gradients
        before, after = (as_floats(each.crop(rows, slice(None))).pixels.float() for each in (photo, restored))
        light = (before - after).mean(0, keepdim=True)[None]  # (1, 1, h, W)
        padded = F.pad(light, (1, 1, 1, 1), mode="replicate")
        x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2  # gradients along rows and columns
        y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
        inside = slice(top - rows.start, top - rows.start + min(step, height - top))
        parts.append([_cells(each[..., inside, :]) for each in (light, x * x, y * y, x * y)])
    return _Removed(*(torch.cat(each, dim=2) for each in zip(*parts, strict=True)))


def _cells(values: torch.Tensor) -> torch.Tensor:
    """Means over cells; border cells may have fewer pixels."""
    return F.avg_pool2d(values, CELL, ceil_mode=True, count_include_pad=False)


def _like_rain(removed: _Removed) -> torch.Tensor:
    """Similarity to rain of each cell, from 0 (not rain) to 1 (rain)."""
    xx, yy, xy = (_smooth(each, DIRECTION_SIGMA) for each in (removed.xx, removed.yy, removed.xy))
    # agreement of the direction in a cell with that of the photo: cos(2 angle) times coherence
    across, along = (removed.xx - removed.yy).mean(), 2 * removed.xy.mean()
    length = (across.square() + along.square()).sqrt().clamp(min=1e-12)
    agreement = ((xx - yy) * across + 2 * xy * along) / length / (xx + yy).clamp(min=FAINT**2)
    median = float(removed.light.median())
    bounds = [max(bound, ratio * median) for bound, ratio in zip(LIGHT, DENSE, strict=True)]
    too_bright = _ramp(_smooth(removed.light, LIGHT_SIGMA), *bounds)
    # dilate, since at the edge of a pattern half of the window has no removed light
    too_bright = F.max_pool2d(too_bright, 2 * MARGIN + 1, stride=1, padding=MARGIN)
    coherence = float(length / removed.power.mean().clamp(min=FAINT**2))
    return _ramp(agreement, *(bound * coherence for bound in AGREEMENT)) * (1 - too_bright)


def _smooth(cells: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian filter of (1, 1, H, W) with replicated borders."""
    radius = round(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square())
    kernel = (kernel / kernel.sum())[None, None, None]
    padded = F.pad(cells, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.mT)


def _ramp(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Linear ramp: 0 up to `low`, 1 from `high` on."""
    return ((values - low) / (high - low)).clamp(0, 1)


def _blend(photo: Photo, restored: Photo, kept: torch.Tensor) -> None:
    """Writes photo + kept (restored - photo) to `restored`, strip by strip."""
    (height, width), step = photo.size, CELL * STRIP
    for top in range(0, height, step):
        rows = slice(top, min(height, top + step))
        # cells of the strip and their neighbors, for interpolation without seams
        first, last = max(0, top // CELL - 1), math.ceil(rows.stop / CELL) + 1
        part = kept[..., first:last, :]
        large = F.interpolate(part, scale_factor=CELL, mode="bilinear", align_corners=False)[0]
        weight = large[:, top - first * CELL :][:, : rows.stop - top, :width]
        before, after = photo.pixels[:, rows], restored.pixels[:, rows]
        blended = torch.lerp(before.float(), after.float(), weight)
        after.copy_(blended if after.is_floating_point() else blended.round())
