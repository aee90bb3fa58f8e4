"""BMP, of 8 bits."""

import struct
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin

from . import by_pillow
from .record import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import StoredPhoto


def recognizes(source: Source) -> bool:
    """Whether a file is a BMP: its signature, and a header of a known size."""
    start = source.read(0, 18)
    return start[:2] == b"BM" and start[14:18] in _HEADERS


_HEADERS = frozenset(struct.pack("<I", one) for one in (12, 16, 40, 52, 56, 64, 108, 124))


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    start = source.read(0, 26)
    if start[14:18] == struct.pack("<I", 12):
        return struct.unpack("<HH", start[18:22])
    width, height = struct.unpack("<ii", start[18:26])
    return width, abs(height)  # negative: stored from the top


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """The whole photo."""
    check(*size(source))
    with by_pillow.opened(BmpImagePlugin.BmpImageFile, source.stream()) as image:
        check(*image.size)
        metadata = by_pillow.metadata_of(image)
        pixels, alpha, notes = by_pillow.pixels_of(image)
    return StoredPhoto(pixels, alpha, "BMP", metadata=metadata, notes=tuple(notes))


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a BMP."""
    write_pieces(path, [by_pillow.encode("BMP", photo, pixels, alpha)])
    return []


FORMAT = PhotoFormat("bmp", (".bmp",), recognizes, read, size, write, carries=frozenset({"dpi"}))
