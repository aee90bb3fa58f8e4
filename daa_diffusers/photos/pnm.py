"""PNM formats (PGM, PPM and PBM): binary ones with any maximum value, plain text with 8 bits."""

import math
import re
from pathlib import Path

import numpy as np
from PIL import PpmImagePlugin

from ..errors import UnreadablePhotoError
from . import by_pillow
from .failures import truncated
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import Encoding, StoredPhoto, rescaled, strips

_SPACE = rb"(?:\s|#[^\n]*\n)+"
# Type (1 to 3 plain text, 4 to 6 binary: black and white, gray, color), width and height.
_HEADER = re.compile(rb"P([1-6])" + _SPACE + rb"(\d+)" + _SPACE + rb"(\d+)")
_ALL_BEFORE_PIXELS = re.compile(rb"P[1-6](?:\s|#[^\n]*\n|\d+(?=\s))*")  # numbers, spaces and comments
# Header of binary gray or color, up to the pixels, with its maximum value.
_BINARY = re.compile(rb"P[56]" + _SPACE + rb"\d+" + _SPACE + rb"\d+" + _SPACE + rb"(\d+)\s")


def recognizes(source: Source) -> bool:
    """Whether a file is a PNM file."""
    start = source.read(0, 3)
    return (
        len(start) == 3 and start[:1] == b"P" and start[1:2] in b"123456" and (start[2:].isspace() or start[2:] == b"#")
    )


def _header(source: Source) -> tuple[bytes, int, int]:
    """Reads the type, width and height."""
    match = _HEADER.match(source.read(0, 2**16))
    if match is None:
        raise UnreadablePhotoError("its PNM header is damaged: type, width and height are missing")
    return match[1], int(match[2]), int(match[3])


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    return _header(source)[1:]


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads a photo: binary gray or color with a maximum value other than 255 as uint16, others as uint8.

    Color in plain text is scaled to 8 bits; gray in plain text is supported up to a maximum value of 255.
    """
    kind, width, height = _header(source)
    check(width, height)
    start = source.read(0, 2**16)
    notes = ["comments are left out"] if b"#" in _ALL_BEFORE_PIXELS.match(start)[0] else []  # type: ignore[index]
    match = _BINARY.match(start)
    if match is not None:
        shape = (height, width, 1 if kind == b"5" else 3)
        end = match.end() + math.prod(shape) * (1 if int(match[1]) < 256 else 2)
        after = source.read(end, source.size).strip()
        if after:
            notes += left_out({"further pictures" if _HEADER.match(after) else f"{len(after)} bytes after the picture"})
        if int(match[1]) != 255:
            pixels, maximum = _binary(source, match, shape)
            return StoredPhoto(pixels, None, "PNM", encoding=Encoding(maximum=maximum), notes=tuple(notes))
    if kind in b"123":
        notes.append("plain text became binary, with 8 bits")
    with PpmImagePlugin.PpmImageFile(source.stream()) as image:
        pixels, alpha, converted = by_pillow.pixels_of(image)
    return StoredPhoto(pixels, alpha, "PNM", notes=(*notes, *converted))


def _binary(source: Source, header: re.Match[bytes], shape: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """Pixels as uint16 in [0, 65535], and the file's maximum value."""
    maximum = int(header[1])
    if not 0 < maximum <= 65535:
        raise UnreadablePhotoError(f"it is a PNM with maximum value {maximum}; 1 to 65535 are valid")
    dtype = np.dtype(">u2" if maximum > 255 else "u1")
    content = source.read(header.end(), math.prod(shape) * dtype.itemsize)
    if len(content) < math.prod(shape) * dtype.itemsize:
        raise UnreadablePhotoError(truncated("PNM"))
    values = np.frombuffer(content, dtype).reshape(shape)
    pixels = rescaled(values, maximum, 65535, np.uint16)
    return np.ascontiguousarray(pixels, dtype=np.uint16), maximum  # native byte order


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a binary PGM or PPM file; photos from PNM files keep their maximum value."""
    height, width, channels = pixels.shape
    full = int(np.iinfo(pixels.dtype).max)
    maximum = (photo.encoding.maximum if photo.format == "PNM" and pixels.dtype == np.uint16 else None) or full
    dtype = np.uint8 if maximum <= 255 else np.uint16
    pieces: list[bytes | memoryview] = [f"P{5 if channels == 1 else 6}\n{width} {height}\n{maximum}\n".encode()]
    for rows in strips(pixels.shape):
        values = rescaled(pixels[rows], full, maximum, dtype)
        pieces.append(values.astype(">u2").tobytes() if dtype is np.uint16 else values.tobytes())
    write_pieces(path, pieces)
    return []


FORMAT = PhotoFormat(
    "pnm", (".ppm", ".pgm", ".pnm", ".pbm"), recognizes, read, size, write, aliases=("ppm", "pgm"), depths=(8, 16),
    alpha=False, carries=frozenset(),
)  # fmt: skip
