"""WebP format, lossless and lossy (8 bits)."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import WebPImagePlugin

from ..errors import UnreadablePhotoError
from . import by_pillow
from .exif import orientation_of
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import Encoding, StoredPhoto

DEFAULT_QUALITY = 90  # files do not state their quality
_LEFT_OUT = {"ANIM": "further frames", "ANMF": "further frames", "C2PA": "content credentials (C2PA)"}
_KNOWN = frozenset({"VP8 ", "VP8L", "VP8X", "ALPH", "ICCP", "EXIF", "XMP "})


def recognizes(source: Source) -> bool:
    """Whether a file is a WebP file."""
    start = source.read(0, 12)
    return start[:4] == b"RIFF" and start[8:] == b"WEBP"


def chunks(source: Source) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset of the content, size of the content) of the chunks of a file."""
    at = 12
    while len(head := source.read(at, 8)) == 8:
        size = struct.unpack("<I", head[4:])[0]
        yield head[:4].decode("latin-1"), at + 8, size
        at += 8 + size + size % 2


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    for name, at, _ in chunks(source):
        start = source.read(at, 10)
        if name == "VP8X" and len(start) == 10:
            return 1 + int.from_bytes(start[4:7], "little"), 1 + int.from_bytes(start[7:10], "little")
        if name == "VP8 " and len(start) == 10:
            return int.from_bytes(start[6:8], "little") & 0x3FFF, int.from_bytes(start[8:10], "little") & 0x3FFF
        if name == "VP8L" and len(start) >= 5:
            bits = int.from_bytes(start[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise UnreadablePhotoError("the WebP holds no picture")


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads the picture, or the first frame of an animation."""
    check(*size(source))
    names = [name for name, _, _ in chunks(source)]
    notes = left_out({_LEFT_OUT.get(name, f"the chunk {name}") for name in names if name not in _KNOWN})
    with WebPImagePlugin.WebPImageFile(source.stream()) as image:
        check(*image.size)
        metadata = by_pillow.metadata_of(image)
        pixels, alpha, converted = by_pillow.pixels_of(image)
    encoding = Encoding(lossless="VP8L" in names or _first_frame_is_lossless(source))
    return StoredPhoto(pixels, alpha, "WEBP", orientation_of(metadata.exif), metadata, encoding, (*notes, *converted))


def _first_frame_is_lossless(source: Source) -> bool:
    first = next((at for name, at, _ in chunks(source) if name == "ANMF"), None)
    return first is not None and source.read(first + 16, 4) == b"VP8L"  # after position, size and duration


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a WebP file; photos from lossless WebP files stay lossless unless `quality` is given."""
    lossless = photo.format == "WEBP" and photo.encoding.lossless and quality is None
    options = {"quality": DEFAULT_QUALITY if quality is None else quality, "lossless": lossless}
    # exact: keep the colors of transparent pixels
    write_pieces(path, [by_pillow.encode("WEBP", photo, pixels, alpha, exact=True, **options)])
    return ["gray became RGB"] if pixels.shape[2] == 1 else []


FORMAT = PhotoFormat("webp", (".webp",), recognizes, read, size, write, lossy=True, max_side=16383)
