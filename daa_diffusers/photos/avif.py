"""AVIF format (8 bits)."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import AvifImagePlugin

from . import av1, boxes, by_pillow
from .exif import orientation_of
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import Encoding, StoredPhoto

DEFAULT_QUALITY = 90  # files do not state their quality


def recognizes(source: Source) -> bool:
    """Whether a file is an AVIF file."""
    return bool(boxes.brands(source) & {b"avif", b"avis"})


def size(source: Source) -> tuple[int, int]:
    """(width, height) as stored."""
    return boxes.size_of(boxes.read_items(source)) or AvifImagePlugin.AvifImageFile(source.stream()).size


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads the main picture as stored, in 8 bits; raises the errors of `boxes.check_color`."""
    items = boxes.read_items(source)
    stated = boxes.size_of(items)
    if stated:
        check(*stated)
    boxes.check_color(items, "AVIF", av1.color_of(items.data_of_primary(source, "av01", av1.MAX_BYTES)))
    notes = left_out(boxes.other_parts(items))
    if (bits := boxes.depth_of(items)) > 8:
        notes.append(f"{bits} bits per sample became 8")
    with AvifImagePlugin.AvifImageFile(source.stream()) as image:
        check(*image.size)
        metadata = by_pillow.metadata_of(image)
        pixels, alpha, converted = by_pillow.pixels_of(image)
    encoding = Encoding(subsampling=boxes.subsampling_of(items))
    return StoredPhoto(pixels, alpha, "AVIF", orientation_of(metadata.exif), metadata, encoding, (*notes, *converted))


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes an AVIF file; photos from AVIF files keep their chroma subsampling."""
    options: dict[str, Any] = {"quality": DEFAULT_QUALITY if quality is None else quality}
    if photo.format == "AVIF" and photo.encoding.subsampling:
        options["subsampling"] = photo.encoding.subsampling
    write_pieces(path, [by_pillow.encode("AVIF", photo, pixels, alpha, **options)])
    return ["gray became RGB"] if pixels.shape[2] == 1 and alpha is not None else []


FORMAT = PhotoFormat("avif", (".avif",), recognizes, read, size, write, lossy=True, max_side=65536)
