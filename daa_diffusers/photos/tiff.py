"""TIFF: 8 and 16 bits, large ones mapped into memory, and all descriptive tags in both directions."""

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import TiffImagePlugin

from ..errors import UnreadablePhotoError
from . import by_pillow
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
from .failures import truncated
from .record import PhotoFormat, SizeCheck
from .source import Source
from .stored import Encoding, Metadata, StoredPhoto, strips

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAP_BYTES = 2**26  # smaller photos are read: a file that is mapped must stay as it is until it is restored
MAX_SAMPLES = 5
MAX_PAGES = 1000  # that are looked through for the first picture of full size
SUB_IFDS, PHOTOMETRIC, DNG_VERSION = 330, 262, 50706
SENSOR_VALUES = (32803, 34892)  # photometric interpretations of raw files
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


def recognizes(source: Source) -> bool:
    """Whether a file is a TIFF."""
    return source.read(0, 4) in SIGNATURES


def holds_raw(source: Source) -> bool:
    """Whether a TIFF holds the values of a camera's sensor."""
    try:
        order, big, offset = read_header(source.read(0, 16))
        main, _ = read_directory(source.read, offset, order, big)
        below = [read_directory(source.read, one, order, big)[0] for one in _sub_ifds(main, order)]
    except ValueError:
        return False
    return DNG_VERSION in main or any(value_of(one, PHOTOMETRIC, order) in SENSOR_VALUES for one in (main, *below))


def _sub_ifds(main: Directory, order: str) -> list[int]:
    entry = main.get(SUB_IFDS)
    if entry is None or entry.type not in (4, 13, 16, 18):
        return []
    size = len(entry.data) // entry.count
    return [
        int.from_bytes(entry.data[k : k + size], "little" if order == "<" else "big")
        for k in range(0, len(entry.data), size)
    ][:16]


def size(source: Source) -> tuple[int, int]:
    """(width, height) as stored."""
    import tifffile

    with tifffile.TiffFile(source.stream()) as file:
        page, _ = _main_page(file)
        return page.imagewidth, page.imagelength


def _main_page(file: Any) -> tuple[Any, int | None]:
    """The first page of full size, and its number; None for one that another page holds (SubIFD)."""
    if not file.pages:
        raise UnreadablePhotoError("the TIFF holds no image")
    first = file.pages.first
    if not first.is_reduced:
        return first, 0
    for number, page in enumerate(file.pages):
        if number > MAX_PAGES:
            break
        page = page.aspage()
        if not page.is_reduced:
            return page, number
        for below in page.pages or ():
            if not below.aspage().is_reduced:
                return below.aspage(), None
    return first, 0


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """The first picture of full size.

    Raises:
        UnreadablePhotoError: for samples, layouts or colors that no restorer can take.
    """
    import tifffile

    with tifffile.TiffFile(source.stream()) as file:
        page, number = _main_page(file)
        check(page.imagewidth, page.imagelength)
        if page.is_tiled:
            check(page.tilewidth, page.tilelength)
        if not 1 <= page.samplesperpixel <= MAX_SAMPLES:
            raise UnreadablePhotoError(
                f"TIFF of {page.samplesperpixel} samples per pixel; up to {MAX_SAMPLES} are read"
            )
        photometric, compression = _name(page.photometric), _name(page.compression)
        plain = _is_plain(page)
        notes = ["only the first of several pages is kept"] if _has_second_page(source) else []
        metadata = metadata_of(source, page.offset)
        if plain:
            pixels, alpha = _split(_values(source, file, page), notes)
        else:
            pixels, alpha = _by_pillow(source, number, page, metadata.icc, notes)
        premultiplied = bool(page.extrasamples) and int(page.extrasamples[0]) == 1
        predictor = int(page.predictor) == 2
    if photometric == "MINISWHITE":
        if plain:
            pixels = np.iinfo(pixels.dtype).max - pixels
        notes.append("white-is-zero became black-is-zero")
    if photometric == "SEPARATED":
        metadata = Metadata(metadata.exif, metadata.xmp, by_pillow.srgb_profile(), metadata.dpi, metadata.blocks)
    encoding = Encoding(compression=LOSSLESS.get(compression, "zlib"), predictor=predictor, premultiplied=premultiplied)
    if compression not in LOSSLESS:
        notes.append(f"compression {compression} became zlib, which loses nothing")
    return StoredPhoto(pixels, alpha, "TIFF", orientation_of(metadata.exif), metadata, encoding, tuple(notes))


def _name(value: Any) -> str:
    return getattr(value, "name", str(value))


def _is_plain(page: Any) -> bool:
    """Whether a page is gray or RGB of 8 or 16 bits, which tifffile decodes. Pillow decodes others of up to 8 bits."""
    photometric = _name(page.photometric)
    kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}.get(page.sampleformat or 1, "unknown")
    colors = photometric in ("MINISBLACK", "MINISWHITE", "RGB") and page.imagedepth == 1
    if kind != "unsigned integer" or (page.bitspersample > 8 and page.bitspersample != 16):
        raise UnreadablePhotoError(
            f"TIFF samples of {page.bitspersample} bits, {kind}; 8 or 16 bits of unsigned integer are supported (the "
            "range of anything else is a guess: convert it first)"
        )
    if page.bitspersample <= 8:
        return colors and page.bitspersample == 8 and _name(page.compression) in LOSSLESS and page.fillorder == 1
    if not colors:
        layers = " in several layers" if page.imagedepth != 1 else ""
        raise UnreadablePhotoError(f"TIFF of 16 bits in {photometric}{layers}; grey and RGB are supported")
    return True


def _by_pillow(
    source: Source, number: int | None, page: Any, icc: bytes | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    if number is None:
        raise UnreadablePhotoError(
            "the TIFF's picture of full size is below another one (SubIFD), and not in gray or RGB"
        )
    with by_pillow.opened(TiffImagePlugin.TiffImageFile, source.stream()) as image:
        image.seek(number)
        pixels, alpha, converted = by_pillow.pixels_of(image, icc)
    notes += converted
    return pixels, alpha


def _values(source: Source, file: Any, page: Any) -> np.ndarray:
    """(H, W) or (H, W, S) as stored, mapped where it is large and nothing needs decoding."""
    native = file.byteorder == ("<" if sys.byteorder == "little" else ">")
    if (
        source.path is not None
        and page.is_memmappable
        and page.nbytes >= MAP_BYTES
        and (native or page.bitspersample == 8)
    ):
        # copy on write: writable for torch, and never written to the file
        values = np.memmap(source.path, page.dtype, "c", int(page.dataoffsets[0]), tuple(page.shape))
    else:
        if sum(page.databytecounts) > 0 and page.compression == 1 and sum(page.databytecounts) < page.nbytes:
            raise UnreadablePhotoError(truncated("TIFF"))
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


def metadata_of(source: Source, offset: int = 0) -> Metadata:
    """The descriptive tags of a TIFF file's picture.

    Args:
        source: the file.
        offset: of the picture's directory; what that does not say, the file's first one does. 0: the first alone.
    """
    try:
        tags = read_tags(source.read, offset)
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


def _has_second_page(source: Source) -> bool:
    """Whether the first directory is followed by another that is no thumbnail."""
    try:
        order, big, offset = read_header(source.read(0, 16))
        _, following = read_directory(source.read, offset, order, big)
        second, _ = read_directory(source.read, following, order, big) if following else ({}, 0)
    except ValueError:
        return False
    return bool(second) and not value_of(second, 254, order) & 1


# --- writing ---


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a TIFF in the compression and byte order of `photo`."""
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
    with Source(str(path), path=path) as source:
        order, big, offset = read_header(source.read(0, 16))
        own, _ = read_directory(source.read, offset, order, big)
    with open(path, "r+b") as file:
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


FORMAT = PhotoFormat("tiff", (".tif", ".tiff"), recognizes, read, size, write, aliases=("tif",), depths=(8, 16))
