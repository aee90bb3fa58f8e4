"""PSNR at the best shift, for blind deblurring, where the restored photo may be shifted by a few pixels."""

from typing import Literal

import torch

from .metrics import Image, _prepare


def psnr_shift(
    restored: Image,
    clean: Image,
    *,
    shift: int = 5,
    data_range: float | None = None,
    color: Literal["rgb", "y"] = "rgb",
    as_uint8: bool = False,
) -> torch.Tensor:
    """The highest PSNR in dB of each image over all whole-pixel shifts of at most `shift` in each direction.

    A blur kernel is known only up to a shift, and so is the photo (Levin et al. 2009). Every shift is scored on the
    same pixels: those of `clean` that are `shift` or more from its border. Rows are comparable where all of them,
    the untouched input included, may choose their shift.

    Args:
        restored, clean, data_range, color, as_uint8: as in `psnr`; both sides must exceed `2 * shift`.
        shift: 0 gives `psnr`.

    Returns:
        Scores on the CPU, float64: () for one image, (B,) for a batch.

    Raises:
        TypeError, ValueError: as `psnr`, and on a negative `shift` or images without a pixel left.
    """
    if isinstance(shift, bool) or not isinstance(shift, int) or shift < 0:
        raise ValueError(f"`shift` must be a whole number of pixels, at least 0, got {shift!r}")
    moved, fixed, is_batch = _prepare(restored, clean, data_range, color, as_uint8)
    height, width = (side - 2 * shift for side in fixed.shape[2:])
    if min(height, width) < 1:
        raise ValueError(
            f"`clean` must be larger than {2 * shift} x {2 * shift} pixels for a `shift` of {shift}, got "
            f"{fixed.shape[2]} x {fixed.shape[3]}"
        )
    inside = fixed[:, :, shift : shift + height, shift : shift + width]
    errors = [
        (moved[:, :, top : top + height, left : left + width] - inside).square().mean(dim=(1, 2, 3))
        for top in range(2 * shift + 1)
        for left in range(2 * shift + 1)
    ]
    scores = -10 * torch.log10(torch.stack(errors).amin(0))  # (B,)
    return scores if is_batch else scores[0]
