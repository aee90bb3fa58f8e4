"""Photos as tensors (C, H, W): luma, value range and crops."""

import numpy as np
import torch

# ITU-R BT.601, as in Pillow's mode "L"
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def crop_patch(
    photo: torch.Tensor,
    patch: int,
    generator: torch.Generator,
    augment: bool = True,
    quarter_turns: bool = True,
) -> torch.Tensor:
    """Crops a random square patch; its position depends only on the generator's state and the size of the photo.

    Photos smaller than the patch are extended by reflection (repeatedly if necessary), with a random offset.

    Args:
        photo: (C, H, W), uint8, uint16, or float in [0, 1].
        patch: side of the patch in pixels.
        generator: random generator for position, flips and rotations.
        augment: apply one of the eight combinations of 90-degree rotations and flips, at random.
        quarter_turns: include rotations by 90 and 270 degrees; without them, vertical lines stay vertical.

    Returns:
        (C, patch, patch), float32 in [0, 1], contiguous.
    """
    draws = torch.rand(3, generator=generator, dtype=torch.float64, device=generator.device).tolist()
    for axis, draw in ((1, draws[0]), (2, draws[1])):
        side = photo.shape[axis]
        start = int(draw * (abs(side - patch) + 1))
        if side >= patch:
            photo = photo.narrow(axis, start, patch)
        else:
            photo = unit_float(photo).index_select(axis, _mirrored(side, patch, start))
    photo = unit_float(photo)
    if augment:
        variant = int(draws[2] * 8)  # rotation (variant % 4), and a flip from 4 on
        photo = torch.rot90(photo, variant % 4 if quarter_turns else variant % 2 * 2, (1, 2))
        if variant >= 4:
            photo = photo.flip(2)
    return photo.contiguous()


def unit_float(photo: torch.Tensor) -> torch.Tensor:
    """Converts uint8 or uint16 of any shape to float32 in [0, 1], and floating point to float32 without scaling."""
    return photo.float() if photo.is_floating_point() else photo.float() / torch.iinfo(photo.dtype).max


def _mirrored(side: int, patch: int, before: int) -> torch.Tensor:
    """Indices that extend `side` pixels to `patch`, `before` of them at the start, by reflection without the edge."""
    if side == 1:
        return torch.zeros(patch, dtype=torch.long)
    period = 2 * side - 2
    index = (torch.arange(patch) - before) % period
    return torch.minimum(index, period - index)


def center_crop(photo: torch.Tensor, side: int) -> torch.Tensor:
    """Crops a photo (C, H, W) to its center, at most `side` pixels wide and high."""
    for axis in (1, 2):
        if photo.shape[axis] > side:
            photo = photo.narrow(axis, (photo.shape[axis] - side) // 2, side)
    return photo
