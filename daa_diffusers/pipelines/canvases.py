"""Memory for restored pixels: newly allocated, or the caller's `out`, possibly a memory-mapped file."""

import mmap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .image_processor import Photo


def check_out(out: Any, photos: Sequence[Photo], image: Any, output_type: str) -> None:
    """Raises ValueError or TypeError if `out` is given and cannot hold the restored pixels."""
    if out is None:
        return
    if not isinstance(out, np.ndarray) or not isinstance(image, np.ndarray) or output_type != "np" or len(photos) > 1:
        raise TypeError(
            '`out` must be a numpy array, for `output_type` "np" and a single photo given as an array, got '
            f"{type(out).__name__} for {len(photos)} photos, {type(image).__name__} and {output_type!r}"
        )
    shape = image.shape[1:] if image.ndim == 4 else image.shape
    if out.shape != shape or out.dtype != image.dtype.newbyteorder("="):
        raise ValueError(
            f"`out` must have the photo's shape {shape} and dtype {image.dtype.newbyteorder('=')}, got {out.shape} and "
            f"{out.dtype.str}"
        )
    if not out.flags.writeable or any(stride < 0 for stride in out.strides):
        raise ValueError("`out` must be writable, without negative strides")
    if np.may_share_memory(out, image):
        raise ValueError("`out` must not share memory with `image`: overlapping tiles would read restored pixels")


def shared_files(*arrays: Any) -> list[np.memmap]:
    """The arrays that map files, except copy-on-write ones, whose written pages must not be released."""
    return [array for array in arrays if isinstance(array, np.memmap) and array.mode != "c"]


def release_pages(mapped: Sequence[np.memmap]) -> None:
    """Releases the memory pages of mapped files; written values stay in the file."""
    for array in mapped:
        pages = getattr(array, "_mmap", None)
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def blank(photo: Photo, out: np.ndarray | None = None) -> Photo:
    """A photo with uninitialized colors and a copy of alpha, stored as (H, W, C): in `out`, or in new memory."""
    colors, height, width = photo.pixels.shape
    if out is not None:
        memory = torch.from_numpy(out if out.ndim == 3 else out[:, :, None])
    else:
        count = colors + (0 if photo.alpha is None else photo.alpha.shape[0])
        memory = torch.empty(height, width, count, dtype=photo.pixels.dtype, device=photo.pixels.device)
    channels = memory.permute(2, 0, 1)
    if photo.alpha is not None:
        channels[colors:] = photo.alpha
    return replace(photo, pixels=channels[:colors], alpha=channels[colors:] if photo.alpha is not None else None)


def untouched(photo: Photo, out: np.ndarray | None = None) -> Photo:
    """Copies a photo into `out`, or into new memory."""
    copy = blank(photo, out)
    copy.pixels.copy_(photo.pixels)
    return copy
