"""BMP format (8 bits)."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin

from . import by_pillow
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import METERS_PER_INCH, StoredPhoto

# Header sizes, as in the first field of the header.
_CORE_HEADER = struct.pack("<I", 12)
_HEADERS = frozenset(struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124))


def recognizes(source: Source) -> bool:
    """Whether a file has the signature of a BMP file and a header of known size."""
    start = source.read(0, 18)
    return start[:2] == b"BM" and start[14:18] in _HEADERS


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    start = source.read(0, 26)
    if start[14:18] == _CORE_HEADER:
        return struct.unpack("<HH", start[18:22])
    width, height = struct.unpack("<ii", start[18:26])
    return width, abs(height)  # negative: top row first


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads a photo; samples of fewer than 8 bits are converted to 8 bits."""
    check(*size(source))
    with BmpImagePlugin.BmpImageFile(source.stream()) as image:
        check(*image.size)
        metadata = replace(by_pillow.metadata_of(image), icc=_profile(source))
        pixels, alpha, notes = by_pillow.pixels_of(image)
    header = source.read(14, 20)
    bits, compression = struct.unpack_from("<HI", header, 14)
    if header[:4] == _CORE_HEADER:
        bits, compression = struct.unpack_from("<H", header, 10)[0], 0
    samples = pixels.shape[2] + (alpha is not None)
    if bits in (2, 4, 16, 32) and bits != 8 * samples:
        notes.append(f"{bits} bits per pixel became {8 * samples}")
    if compression in (1, 2):  # BI_RLE8, BI_RLE4
        notes.append("run-length coding was removed")
    return StoredPhoto(pixels, alpha, "BMP", metadata=metadata, notes=tuple(notes))


def _profile(source: Source) -> bytes | None:
    """The ICC profile in a header of version 5, if any."""
    header = source.read(14, 124)
    if len(header) < 124 or header[:4] != struct.pack("<I", 124) or header[56:60] != b"DEBM":  # "MBED", little-endian
        return None
    offset, length = struct.unpack_from("<II", header, 112)
    return source.read(14 + offset, min(length, source.size)) or None


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a BMP file; with alpha, 32 bits per pixel and channel masks, without which readers ignore alpha."""
    if alpha is None:
        write_pieces(path, [by_pillow.encode("BMP", photo, pixels, alpha)])
        return []
    height, width = alpha.shape
    x, y = (round(dpi / METERS_PER_INCH) for dpi in photo.metadata.dpi or (96, 96))
    # BITMAPV4HEADER: size, width, height, planes, bits, BI_BITFIELDS, bytes of the pixels, resolution, no palette
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, 4 * alpha.size, x, y, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)  # masks, sRGB
    start = 14 + len(header)
    values = np.dstack([np.broadcast_to(pixels, (height, width, 3))[..., ::-1], alpha])  # BGRA
    file = struct.pack("<2sIHHI", b"BM", start + 4 * alpha.size, 0, 0, start)
    write_pieces(path, [file, header, np.ascontiguousarray(values[::-1]).tobytes()])  # bottom row first
    return ["gray became RGB"] if pixels.shape[2] == 1 else []


FORMAT = PhotoFormat("bmp", (".bmp",), recognizes, read, size, write, carries=frozenset({"dpi"}))
