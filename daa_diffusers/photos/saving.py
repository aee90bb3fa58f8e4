"""Writing restored photos as their files were: format, depth, quality, and everything beside the pixels."""

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ConfigurationError
from ..files import replacing
from . import heic, jpeg, png, tiff
from .exif import turned_upright
from .location import without_location
from .reading import upright
from .stored import Encoding, StoredPhoto, rescaled, strips, with_bits

# What `format` may say -> the suffixes of its files, the usual one first.
FORMATS = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "tiff": (".tif", ".tiff"),
    "webp": (".webp",),
    "avif": (".avif",),
    "heic": (".heic", ".heif", ".hif"),
    "pnm": (".ppm", ".pgm", ".pnm"),
    "bmp": (".bmp",),
}
ALIASES = {"jpg": "jpeg", "tif": "tiff", "ppm": "pnm", "pgm": "pnm", "heif": "heic"}
DEEP = frozenset({"png", "tiff", "pnm", "heic"})  # hold 16 bits (HEIC 10 or 12)
LOSSY = frozenset({"jpeg", "webp", "avif", "heic"})
WITHOUT_ALPHA = frozenset({"jpeg", "pnm"})
WITHOUT_METADATA = frozenset({"pnm", "bmp"})
DEFAULT_QUALITY = 90  # of WebP and AVIF, whose files do not tell theirs
MAX_SIDE = {"jpeg": 65500, "webp": 16383, "avif": 65536, "heic": 65535}


@dataclass(frozen=True)
class SavedPhoto:
    """A file that `save_photo` wrote.

    Args:
        path: where.
        format: one of `FORMATS`.
        bits: per sample.
        notes: what could not be kept as it was, each a short sentence; those of the opened photo come first.
    """

    path: Path
    format: str
    bits: int
    notes: tuple[str, ...]


def checked_format(format: str | None) -> str | None:
    """A key of `FORMATS`, its aliases ("jpg", "tif", ...) and upper case understood; None stays None.

    Raises:
        ConfigurationError: on another.
    """
    if format is None:
        return None
    name = format.lower().removeprefix(".")
    name = ALIASES.get(name, name)
    if name not in FORMATS:
        raise ConfigurationError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    return name


def check_options(format: str | None, bits: int | None, quality: int | None) -> None:
    """ConfigurationError where options of `save_photo` cannot work, alone or together."""
    name = checked_format(format)
    if bits not in (None, 8, 16):
        raise ConfigurationError(f"`bits` must be 8 or 16, got {bits!r}")
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise ConfigurationError(f"`quality` must be a whole number from 1 to 100, got {quality!r}")
    if bits == 16 and name is not None and name not in DEEP:
        raise ConfigurationError(f"`bits` 16 does not fit into {name}; choose `format` png or tiff")
    if quality is not None and name is not None and name not in LOSSY:
        raise ConfigurationError(f"`quality` is for lossy formats ({', '.join(sorted(LOSSY))}), not for {name}")


def own_format(photo: StoredPhoto) -> str:
    """The format that a photo is written in unless another is asked for; a raw file becomes a TIFF."""
    return {"RAW": "tiff"}.get(photo.format, photo.format.lower())


def save_photo(
    path: str | os.PathLike,
    photo: StoredPhoto,
    pixels: np.ndarray | None = None,
    *,
    format: str | None = None,
    bits: int | None = None,
    quality: int | None = None,
    strip_location: bool = False,
    overwrite: bool = False,
) -> SavedPhoto:
    """Writes a photo with new pixels, and with all else as it was opened.

    In its own format, the pixels and their EXIF orientation stay as stored, a JPEG keeps its quantisation tables and
    subsampling, a TIFF its compression. In another format the photo is turned upright and its orientation reset,
    because not every reader of that format would turn it. docs/photos.md says what each format keeps. The file is
    written under a temporary name in the same folder and renamed: nobody sees a part of it.

    Args:
        path: the file; its suffix decides nothing.
        photo: what `open_photo` gave.
        pixels: (H, W, 1 or 3) of the photo's size and number of colours, uint8 or uint16; None: the photo's own.
        format: one of `FORMATS`; None: the photo's, TIFF for a raw file.
        bits: 8 or 16 per sample; None: the photo's where the format holds them, else 8.
        quality: 1 to 100, of lossy formats (others ignore it); None: a JPEG's own, else 95, or 90 for WebP, AVIF and
            HEIC.
        strip_location: leave out GPS and place names.
        overwrite: replace an existing file.

    Raises:
        ConfigurationError: on options that cannot work, or a photo that the format cannot hold.
        ValueError: on `pixels` that are not of the photo's shape.
        FileExistsError: where `path` exists and `overwrite` is False.
    """
    path = Path(path)
    check_options(format, bits, quality)
    target = checked_format(format) or own_format(photo)
    pixels = photo.pixels if pixels is None else pixels
    if pixels.shape != photo.pixels.shape or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"`pixels` must be uint8 or uint16 of shape {photo.pixels.shape}, got {pixels.dtype} {pixels.shape}"
        )
    if max(pixels.shape[:2]) > MAX_SIDE.get(target, sys.maxsize):
        raise ConfigurationError(
            f"{target} holds at most {MAX_SIDE[target]} pixels a side; choose `format` tiff or png"
        )
    if bits == 16 and target not in DEEP:
        raise ConfigurationError(f"`bits` 16 does not fit into {target}; choose `format` png or tiff")
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{str(path)!r} exists; `overwrite` would replace it")
    depth = bits or (photo.bits if target in DEEP else 8)
    photo, pixels, alpha, notes = _prepared(photo, pixels, target, depth, strip_location)
    with replacing(path) as temporary:
        notes += _write(temporary, target, photo, pixels, alpha, quality)
    return SavedPhoto(path, target, depth, (*photo.notes, *notes))


def _prepared(
    photo: StoredPhoto, pixels: np.ndarray, target: str, bits: int, strip_location: bool
) -> tuple[StoredPhoto, np.ndarray, np.ndarray | None, list[str]]:
    """The photo, its pixels and its alpha as `target` holds them, and notes."""
    notes: list[str] = []
    alpha, metadata = photo.alpha, photo.metadata
    if pixels.dtype == np.uint16 and bits == 8:
        notes.append("16 bits became 8")
    pixels = with_bits(pixels, bits)
    if alpha is not None:
        alpha = with_bits(alpha, bits)
        if target in WITHOUT_ALPHA:
            alpha = None
            notes.append(f"{target} holds no alpha channel: it is left out")
        elif photo.encoding.premultiplied and target != "tiff":
            notes.append("colours stay multiplied by alpha")
    if target != own_format(photo) or (photo.orientation != 1 and target in WITHOUT_METADATA):
        pixels = np.ascontiguousarray(upright(pixels, photo.orientation))
        alpha = None if alpha is None else np.ascontiguousarray(upright(alpha[..., None], photo.orientation)[..., 0])
        dpi = metadata.dpi[::-1] if metadata.dpi and photo.orientation >= 5 else metadata.dpi
        exif = metadata.exif
        if exif is not None and photo.orientation != 1:
            exif = turned_upright(exif)
        metadata = replace(metadata, exif=exif, dpi=dpi)
        names = sorted({name for name, _ in metadata.blocks} - {"APP0", "pHYs", "sRGB", "tIME"})
        if names and photo.format != "RAW":
            notes.append(f"{target} does not hold the file's {', '.join(names)}")
    if strip_location:
        metadata, more = without_location(metadata)
        notes += more
    if target in WITHOUT_METADATA:
        lost = [name for name in ("exif", "xmp", "icc") if getattr(metadata, name)]
        if lost:
            notes.append(f"{target} holds no {', '.join(lost).upper()}")
    return replace(photo, metadata=metadata), pixels, alpha, notes


def _write(
    path: Path, target: str, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    notes: list[str] = []
    if target == "tiff":
        return tiff.write(path, photo, pixels, alpha)
    pieces: Sequence[bytes | memoryview]
    if target == "jpeg":
        pieces, notes = jpeg.encode(photo, pixels, quality)
    elif target == "png":
        pieces = png.encode(photo, pixels, alpha)
    elif target == "pnm":
        pieces = _pnm(photo.encoding, pixels)
    elif target == "heic":
        pieces = heic.encode(photo, pixels, alpha, quality)
    else:
        pieces = [_by_pillow(target, photo, pixels, alpha, quality)]
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
    return notes


def _by_pillow(
    target: str, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> memoryview:
    """WebP, AVIF and BMP."""
    values = pixels if alpha is None else np.dstack([pixels, alpha])
    if alpha is not None and values.shape[2] == 2:  # none of them has grey with alpha
        values = np.dstack([pixels, pixels, pixels, alpha])
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    metadata = photo.metadata
    kept = {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": metadata.icc, "dpi": metadata.dpi}
    options: dict[str, Any] = {name: value for name, value in kept.items() if value is not None}
    if target != "bmp":
        options["quality"] = DEFAULT_QUALITY if quality is None else quality
    if target == "webp":
        options["lossless"] = photo.format == "WEBP" and photo.encoding.lossless and quality is None
        options["exact"] = True  # colours below transparent pixels too
    stream = io.BytesIO()
    image.save(stream, target.upper(), **options)
    return stream.getbuffer()


def _pnm(encoding: Encoding, pixels: np.ndarray) -> list[bytes | memoryview]:
    height, width, channels = pixels.shape
    full = int(np.iinfo(pixels.dtype).max)
    maximum = encoding.maximum if encoding.maximum and pixels.dtype == np.uint16 else full
    dtype = np.uint8 if maximum <= 255 else np.uint16
    header = f"P{5 if channels == 1 else 6}\n{width} {height}\n{maximum}\n".encode()
    pieces: list[bytes | memoryview] = [header]
    for rows in strips(pixels.shape):
        values = rescaled(pixels[rows], full, maximum, dtype)
        pieces.append(values.astype(">u2").tobytes() if dtype is np.uint16 else values.tobytes())
    return pieces
