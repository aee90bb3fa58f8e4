"""PSNR at the best shift, for blind deblurring, which may shift the restored photo by a few pixels."""

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
    """Computes the highest PSNR in dB of each image over all whole-pixel shifts of at most `shift` in each direction.

    Blind deblurring determines the blur kernel, and therefore the photo, only up to a shift (Levin et al. 2009). Every
    shift is scored on the same pixels, those of `clean` at least `shift` from its border. Restorers are only comparable
    if all of them, and the untouched input, are scored at their best shift.

    Args:
        restored, clean, data_range, color, as_uint8: as for `psnr`; both sides must exceed `2 * shift`.
        shift: largest shift in pixels; 0 gives `psnr`.

    Returns:
        Scores on the CPU, float64: () for one image, (B,) for a batch.

    Raises:
        TypeError, ValueError: as for `psnr`; or `shift` is negative, or images are too small for it.
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
