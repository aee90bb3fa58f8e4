"""Reading of photos as arrays for training and evaluation: full bit depth, upright, one or three channels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UnreadablePhotoError
from .listing import list_photos
from .opening import check_file, open_source, pixel_limit, size_of_source
from .registry import PHOTO_SUFFIXES
from .source import Source
from .stored import upright

if TYPE_CHECKING:
    import torch

__all__ = ["PHOTO_SUFFIXES", "decode_photo", "list_photos", "photo_size", "read_photo", "to_float"]


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """Reads a photo in its own bit depth, with the EXIF orientation applied. Alpha is dropped.

    Args:
        path: file in a format of `registry.REGISTRY`.

    Returns:
        (H, W, C), C = 1 (gray) or 3 (RGB), uint8 in [0, 255] or uint16 in [0, 65535], contiguous, writable.

    Raises:
        UnreadablePhotoError: see `open_photo`; also if the format requires an extra that is not installed.
    """
    path = Path(path)
    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadablePhotoError(f"cannot read photo {str(path)!r}: {error.strerror or error}") from error
    return decode_photo(content, str(path))


def decode_photo(content: bytes, name: str = "photo") -> np.ndarray:
    """Reads a photo as `read_photo` does, from the bytes of a file (in a dataset or an archive).

    Args:
        content: content of the file.
        name: file name for messages; its suffix identifies raw files.
    """
    photo = open_source(Source(name, content), pixel_limit(None))
    return np.require(upright(photo.pixels, photo.orientation), requirements=["C", "W"])


def photo_size(photo: str | os.PathLike | bytes, name: str = "photo") -> tuple[int, int]:
    """(width, height) as stored, without EXIF orientation. Only the header is read, so a damaged photo may pass.

    Args:
        photo: path or content of a file.
        name: file name for messages if `photo` is content; its suffix identifies raw files.

    Raises:
        UnreadablePhotoError: the file does not exist, or is not a photo.
    """
    if isinstance(photo, bytes):
        return size_of_source(Source(name, photo))
    check_file(Path(photo))
    with Source(str(photo), path=photo) as source:
        return size_of_source(source)


def to_float(photo: np.ndarray) -> torch.Tensor:
    """Converts (H, W, C) uint8 or uint16 to (C, H, W) float32 in [0, 1]; raises ValueError for other arrays."""
    if photo.ndim != 3 or photo.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"`photo` must be (H, W, C) of uint8 or uint16, got {photo.shape} of {photo.dtype}")
    import torch

    scaled = photo.astype(np.float32) / np.float32(np.iinfo(photo.dtype).max)
    return torch.from_numpy(scaled).permute(2, 0, 1).contiguous()
