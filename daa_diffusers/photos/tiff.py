"""TIFF: 8 and 16 bits, large ones mapped into memory, and all descriptive tags in both directions."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UnreadablePhotoError
from .exif import (
    RESOLUTION_UNIT,
    STRUCTURAL,
    X_RESOLUTION,
    Y_RESOLUTION,
    Directory,
    Entry,
    Tags,
    orientation_of,
    read_directory,
    read_header,
    read_tags,
    reader_of,
    value_of,
    write_below,
    write_block,
    write_directory,
)
from .stored import Encoding, Metadata, StoredPhoto, strips

MAP_BYTES = 2**26  # smaller photos are read: a file that is mapped must stay as it is until it is restored
MAX_SAMPLES = 5
XMP, ICC, IPTC, PHOTOSHOP = 700, 34675, 33723, 34377
# tifffile's names of the compressions that lose nothing -> what it calls them for writing
LOSSLESS = {
    "NONE": None,
    "LZW": "lzw",
    "ADOBE_DEFLATE": "zlib",
    "DEFLATE": "zlib",
    "PACKBITS": "packbits",
    "LZMA": "lzma",
    "ZSTD": "zstd",
}


def read(path: Path, check: Callable[[int, int], None]) -> StoredPhoto | None:
    """The first page of a TIFF; None where Pillow has to read it (palettes, CMYK, fewer than 8 bits).

    Args:
        path: the file.
        check: raises on a (width, height) that is too large.

    Raises:
        UnreadablePhotoError: for samples, layouts or colours that no restorer can take.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        if not file.pages:
            raise UnreadablePhotoError("the TIFF holds no image")
        page = file.pages.first
        check(page.imagewidth, page.imagelength)
        if page.is_tiled:
            check(page.tilewidth, page.tilelength)
        if not 1 <= page.samplesperpixel <= MAX_SAMPLES:
            raise UnreadablePhotoError(
                f"TIFF of {page.samplesperpixel} samples per pixel; up to {MAX_SAMPLES} are read"
            )
        photometric = getattr(page.photometric, "name", str(page.photometric))
        compression = getattr(page.compression, "name", str(page.compression))
        plain = photometric in ("MINISBLACK", "MINISWHITE", "RGB") and page.imagedepth == 1
        if page.bitspersample != 16 and page.sampleformat in {None, 1}:
            if page.bitspersample > 8:
                raise UnreadablePhotoError(f"TIFF samples of {page.bitspersample} bits; 8 or 16 are supported")
            if not (plain and page.bitspersample == 8 and compression in LOSSLESS and page.fillorder == 1):
                return None
        _check_samples(page, photometric, plain)
        values = _values(path, file, page)
        notes = ["only the first of several pages is kept"] if _has_second_page(path) else []
        metadata = metadata_of(path)
        premultiplied = bool(page.extrasamples) and int(page.extrasamples[0]) == 1
        predictor = int(page.predictor) == 2
    if photometric == "MINISWHITE":
        values = np.iinfo(values.dtype).max - values
        notes.append("white-is-zero became black-is-zero")
    pixels, alpha = _split(values, notes)
    encoding = Encoding(compression=LOSSLESS.get(compression, "zlib"), predictor=predictor, premultiplied=premultiplied)
    if compression not in LOSSLESS:
        notes.append(f"compression {compression} became zlib, which loses nothing")
    return StoredPhoto(pixels, alpha, "TIFF", orientation_of(metadata.exif), metadata, encoding, tuple(notes))


def _check_samples(page, photometric: str, plain: bool) -> None:
    kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}.get(page.sampleformat or 1, "unknown")
    if page.bitspersample not in (8, 16) or kind != "unsigned integer":
        raise UnreadablePhotoError(
            f"TIFF samples of {page.bitspersample} bits, {kind}; 8 or 16 bits of unsigned integer are supported (the "
            "range of anything else is a guess: convert it first)"
        )
    if not plain:
        layers = " in several layers" if page.imagedepth != 1 else ""
        raise UnreadablePhotoError(f"TIFF of 16 bits in {photometric}{layers}; grey and RGB are supported")


def _values(path: Path, file, page) -> np.ndarray:
    """(H, W) or (H, W, S) as stored, mapped where it is large and nothing needs decoding."""
    native = file.byteorder == ("<" if sys.byteorder == "little" else ">")
    if page.is_memmappable and page.nbytes >= MAP_BYTES and (native or page.bitspersample == 8):
        # copy on write: writable for torch, and never written to the file
        values = np.memmap(path, page.dtype, "c", int(page.dataoffsets[0]), tuple(page.shape))
    else:
        if sum(page.databytecounts) > 0 and page.compression == 1 and sum(page.databytecounts) < page.nbytes:
            raise UnreadablePhotoError("image file is truncated")
        values = page.asarray()
    return np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values  # planes one after another


def _split(values: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W, 1 or 3) and alpha (H, W) or None."""
    values = values[..., None] if values.ndim == 2 else values
    colours = 1 if values.shape[2] < 3 else 3
    if values.shape[2] > colours + 1:
        notes.append(f"{values.shape[2] - colours - 1} further channels are not kept")
    if values.shape[2] == colours:
        return values, None
    alpha = np.ascontiguousarray(values[..., colours])
    if isinstance(values, np.memmap):
        return values[..., :colours], alpha
    return np.ascontiguousarray(values[..., :colours]), alpha


def _reader(file: BinaryIO) -> Callable[[int, int], bytes]:
    """Reads (offset, size) of a file."""

    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    return read


def metadata_of(path: Path) -> Metadata:
    """The descriptive tags of a TIFF file's first page."""
    with open(path, "rb") as file:
        reader = _reader(file)
        try:
            tags = read_tags(reader)
        except ValueError:
            return Metadata()
    main = tags.main
    blocks = tuple((str(tag), main[tag].data) for tag in (IPTC, PHOTOSHOP) if tag in main)
    xmp, icc = (main[tag].data if tag in main else None for tag in (XMP, ICC))
    return Metadata(write_block(tags), xmp, icc, _dpi(main, tags.order), blocks)


def _dpi(main: Directory, order: str) -> tuple[float, float] | None:
    unit = {2: 1.0, 3: 2.54}.get(value_of(main, RESOLUTION_UNIT, order, 2))
    both = [main.get(tag) for tag in (X_RESOLUTION, Y_RESOLUTION)]
    if unit is None or any(entry is None or entry.type != 5 for entry in both):
        return None
    (a, b), (c, d) = (struct.unpack(f"{order}II", entry.data[:8]) for entry in both if entry is not None)
    return (unit * a / b, unit * c / d) if a and b and c and d else None


def _has_second_page(path: Path) -> bool:
    """Whether the first directory is followed by another that is no thumbnail."""
    with open(path, "rb") as file:
        reader = _reader(file)
        try:
            order, big, offset = read_header(reader(0, 16))
            _, following = read_directory(reader, offset, order, big)
            second, _ = read_directory(reader, following, order, big) if following else ({}, 0)
        except ValueError:
            return False
        return bool(second) and not value_of(second, 254, order) & 1


# --- writing ---


def write(path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None) -> list[str]:
    """Writes a TIFF in the compression and byte order of `photo`, and returns notes on what it does not hold.

    Args:
        path: the file, which is overwritten.
        photo: where its metadata is taken from.
        pixels: (H, W, 1 or 3), uint8 or uint16.
        alpha: (H, W) of the same dtype, or None.
    """
    import tifffile

    own, notes = photo.format == "TIFF", []
    try:
        tags = read_tags(reader_of(photo.metadata.exif)) if photo.metadata.exif else None
    except ValueError:
        tags = None
        notes.append("EXIF is damaged and left out")
    if tags is None:
        tags = Tags("<" if sys.byteorder == "little" else ">", {}, {}, {}, {})
    values = pixels if alpha is None else _joined(pixels, alpha)
    compression = photo.encoding.compression if own else "zlib"
    predictor = compression in ("lzw", "zlib", "zstd", "lzma") and (photo.encoding.predictor or not own)
    extra = "assocalpha" if photo.encoding.premultiplied else "unassalpha"
    big = values.nbytes > 2**32 - 2**26
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=tags.order) as writer:
        writer.write(
            values[..., 0] if values.shape[2] == 1 else values,
            photometric="rgb" if pixels.shape[2] == 3 else "minisblack",
            extrasamples=None if alpha is None else [extra],
            planarconfig="contig" if values.shape[2] > 1 else None,
            compression=compression,
            predictor=predictor or None,
            metadata=None,
            software=False,
        )
    _add_tags(path, tags, _new_tags(photo, tags.order))
    return notes


def _joined(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    values = np.empty((*alpha.shape, pixels.shape[2] + 1), pixels.dtype)
    for rows in strips(values.shape):
        values[rows, :, :-1] = pixels[rows]
        values[rows, :, -1] = alpha[rows]
    return values


def _new_tags(photo: StoredPhoto, order: str) -> Directory:
    metadata = photo.metadata
    new: Directory = {}
    if metadata.dpi:
        x, y = (struct.pack(f"{order}II", round(one * 10000), 10000) for one in metadata.dpi)
        new |= {X_RESOLUTION: Entry(5, 1, x), Y_RESOLUTION: Entry(5, 1, y)}
        new[RESOLUTION_UNIT] = Entry(3, 1, struct.pack(f"{order}H", 2))
    if metadata.xmp:
        new[XMP] = Entry(1, len(metadata.xmp), metadata.xmp)
    if metadata.icc:
        new[ICC] = Entry(7, len(metadata.icc), metadata.icc)
    if photo.format == "TIFF":
        new |= {int(name): Entry(7, len(content), content) for name, content in metadata.blocks}
    return new


def _add_tags(path: Path, tags: Tags, new: Directory) -> None:
    """Writes a second first directory at the end of the file: its own tags, `new` ones, and those of `tags`.

    tifffile writes no EXIF and GPS directories.
    """
    with open(path, "r+b") as file:
        reader = _reader(file)
        order, big, offset = read_header(reader(0, 16))
        own, _ = read_directory(reader, offset, order, big)
        kept = {tag: entry for tag, entry in tags.main.items() if tag not in STRUCTURAL}
        end = file.seek(0, 2)
        file.write(bytes(end % 2))
        end += end % 2
        below, pointers = write_below(tags, end, big)
        start = end + len(below)
        directory = write_directory({**own, **new, **kept, **pointers}, order, start, big)
        file.write(below + directory)
        file.seek(8 if big else 4)
        file.write(struct.pack(f"{order}{'Q' if big else 'I'}", start))
