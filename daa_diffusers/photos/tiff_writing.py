"""Writing of TIFF files with compression, tiles, planes, byte order and descriptive tags of the original file."""

import struct
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from .exif import (
    BYTE,
    RATIONAL,
    RESOLUTION_UNIT,
    SHORT,
    STRUCTURAL,
    UNDEFINED,
    X_RESOLUTION,
    Y_RESOLUTION,
    Directory,
    Entry,
    Tags,
    read_directory,
    read_header,
    read_tags,
    reader_of,
    write_directory,
    write_subdirectories,
)
from .source import Source
from .stored import StoredPhoto, strips

XMP, ICC = 700, 34675  # tags
NATIVE: Literal["<", ">"] = "<" if sys.byteorder == "little" else ">"


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a TIFF file; photos from TIFF files keep their encoding (see `Encoding`)."""
    import tifffile

    was_tiff, notes = photo.format == "TIFF", []
    try:
        tags = read_tags(reader_of(photo.metadata.exif)) if photo.metadata.exif else None
    except ValueError:
        tags = None
        notes.append("EXIF is damaged and left out")
    if tags is None:
        tags = Tags(photo.encoding.byte_order if was_tiff else NATIVE, {}, {}, {}, {})
    values = pixels if alpha is None else _joined(pixels, alpha)
    compression = photo.encoding.compression if was_tiff else "zlib"
    predictor = compression in ("lzw", "zlib", "zstd", "lzma") and (photo.encoding.predictor or not was_tiff)
    extra = "assocalpha" if photo.encoding.premultiplied else "unassalpha"
    extra = "unspecified" if photo.encoding.unknown_channel else extra
    planarconfig = None
    if values.shape[2] == 1:
        values = values[..., 0]
    elif was_tiff and photo.encoding.planes:
        values, planarconfig = np.moveaxis(values, -1, 0), "separate"
    else:
        planarconfig = "contig"
    # a TIFF file has at most 4 GiB; 64 MiB are left for the metadata
    big = values.nbytes > 2**32 - 2**26 or (was_tiff and photo.encoding.big)
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=tags.order) as writer:
        writer.write(
            values,
            photometric="rgb" if pixels.shape[2] == 3 else "minisblack",
            extrasamples=None if alpha is None else [extra],
            planarconfig=planarconfig,
            tile=photo.encoding.tile if was_tiff else None,
            compression=compression,
            predictor=predictor or None,
            metadata=None,
            software=False,
        )
    _add_tags(path, tags, _new_tags(photo, tags.order))
    return notes


def _joined(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Joins colors (H, W, C) and alpha (H, W), strip by strip, since `pixels` may be a memory map."""
    values = np.empty((*alpha.shape, pixels.shape[2] + 1), pixels.dtype)
    for rows in strips(values.shape):
        values[rows, :, :-1] = pixels[rows]
        values[rows, :, -1] = alpha[rows]
    return values


def _new_tags(photo: StoredPhoto, order: str) -> Directory:
    """Tags for the resolution, XMP, color profile and blocks of a photo."""
    metadata = photo.metadata
    new: Directory = {}
    if metadata.dpi:
        x, y = (struct.pack(f"{order}II", round(dpi * 10000), 10000) for dpi in metadata.dpi)
        new |= {X_RESOLUTION: Entry(RATIONAL, 1, x), Y_RESOLUTION: Entry(RATIONAL, 1, y)}
        new[RESOLUTION_UNIT] = Entry(SHORT, 1, struct.pack(f"{order}H", 2))  # per inch
    if metadata.xmp:
        new[XMP] = Entry(BYTE, len(metadata.xmp), metadata.xmp)
    if metadata.icc:
        new[ICC] = Entry(UNDEFINED, len(metadata.icc), metadata.icc)
    if photo.format == "TIFF":
        new |= {int(name): Entry(UNDEFINED, len(content), content) for name, content in metadata.blocks}
    return new


def _add_tags(path: Path, tags: Tags, new: Directory) -> None:
    """Adds `new` and the descriptive tags of `tags`: a new first directory is appended to the file.

    tifffile does not write EXIF and GPS directories.
    """
    with Source(str(path), path=path) as source:
        order, big, offset = read_header(source.read(0, 16))
        written, _ = read_directory(source.read, offset, order, big)
    for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT):  # tifffile always writes a resolution
        written.pop(tag, None)
    with open(path, "r+b") as file:
        kept = {tag: entry for tag, entry in tags.main.items() if tag not in STRUCTURAL}
        end = file.seek(0, 2)
        file.write(bytes(end % 2))  # directories start at even offsets
        end += end % 2
        subdirectories, pointers = write_subdirectories(tags, end, big)
        start = end + len(subdirectories)
        directory = write_directory({**written, **new, **kept, **pointers}, order, start, big)
        file.write(subdirectories + directory)
        file.seek(8 if big else 4)
        file.write(struct.pack(f"{order}{'Q' if big else 'I'}", start))
