"""TIFF format (8 and 16 bits), with memory mapping of large files and all descriptive tags."""

import struct
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from ..errors import UnreadablePhotoError
from . import by_pillow
from .exif import (
    IFD,
    IFD8,
    LONG,
    LONG8,
    RATIONAL,
    RESOLUTION_UNIT,
    STRUCTURAL,
    X_RESOLUTION,
    Y_RESOLUTION,
    Directory,
    Tags,
    orientation_of,
    read_directory,
    read_header,
    read_tags,
    value_of,
    write_block,
)
from .failures import truncated
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck
from .source import Source
from .stored import Encoding, Metadata, StoredPhoto, rescaled
from .tiff_writing import ICC, NATIVE, XMP, write

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAP_BYTES = 2**26  # smaller photos are read into memory: a mapped file must not change while it is restored
MAX_SAMPLES = 5  # per pixel: CMYK and alpha
MAX_PAGES = 1000  # number of pages that are searched for the first picture of full size
MAX_SUB_IFDS = 16  # that are searched for raw values
# Tags.
SUB_IFDS, PHOTOMETRIC, DNG_VERSION = 330, 262, 50706
SUBFILE_TYPE, DESCRIPTION, IPTC, PHOTOSHOP = 254, 270, 33723, 34377
# Tags that a new file does not have, with names for notes.
GONE = {
    SUB_IFDS: "reduced or further pictures (SubIFDs)",
    37724: "Photoshop's layers",
    50784: "the description of layers",
    52545: "content credentials (C2PA)",
}
# Tags about the storage of pixels that new files have as well, with values of their own.
REMADE = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317, 320, 322, 323, 324, 325}
    | {338, 339, 340, 341, 347, *range(512, 533), 700, 33723, 34377, 34675, 34665, 34853}
)
MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6  # photometric interpretations
SENSOR_VALUES = (32803, 34892)  # photometric interpretations of raw files
# Lossless compressions: tifffile's name when reading -> when writing.
LOSSLESS = {
    "NONE": None, "LZW": "lzw", "ADOBE_DEFLATE": "zlib", "DEFLATE": "zlib", "PACKBITS": "packbits", "LZMA": "lzma",
    "ZSTD": "zstd",
}  # fmt: skip


def recognizes(source: Source) -> bool:
    """Whether a file is a TIFF file."""
    return source.read(0, 4) in SIGNATURES


def holds_raw(source: Source) -> bool:
    """Whether a TIFF file holds raw values of a camera sensor."""
    try:
        order, big, offset = read_header(source.read(0, 16))
        main, _ = read_directory(source.read, offset, order, big)
        directories = [main, *(read_directory(source.read, at, order, big)[0] for at in _sub_ifds(main, order))]
    except ValueError:
        return False
    return DNG_VERSION in main or any(
        value_of(directory, PHOTOMETRIC, order) in SENSOR_VALUES for directory in directories
    )


def _sub_ifds(main: Directory, order: str) -> list[int]:
    """Offsets of the directories of reduced or further pictures that belong to a page."""
    entry = main.get(SUB_IFDS)
    if entry is None or entry.type not in (LONG, IFD, LONG8, IFD8):
        return []
    letter = "I" if entry.type in (LONG, IFD) else "Q"
    return list(struct.unpack(f"{order}{entry.count}{letter}", entry.data))[:MAX_SUB_IFDS]


def size(source: Source) -> tuple[int, int]:
    """(width, height) as stored."""
    import tifffile

    with tifffile.TiffFile(source.stream()) as file:
        page, _ = _main_page(file)
        return page.imagewidth, page.imagelength


def _main_page(file: Any) -> tuple[Any, int | None]:
    """The first page of full size, and its number; the number is None for a page in a SubIFD."""
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
        for sub_page in page.pages or ():
            if not sub_page.aspage().is_reduced:
                return sub_page.aspage(), None
    return first, 0


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads the first picture of full size; raises UnreadablePhotoError for unsupported samples, layouts or colors."""
    import tifffile

    with tifffile.TiffFile(source.stream()) as file:
        page, number = _main_page(file)
        check(page.imagewidth, page.imagelength)
        if page.is_tiled:
            check(page.tilewidth, page.tilelength)
        if not 1 <= page.samplesperpixel <= MAX_SAMPLES:
            raise UnreadablePhotoError(
                f"TIFF of {page.samplesperpixel} samples per pixel; 1 to {MAX_SAMPLES} are supported"
            )
        _check_samples(page)
        tags, parts = tags_of(source, page.offset), _other_pages(source, page.offset)
        if parts and tags and _describes_stack(tags):
            del tags.main[DESCRIPTION]
            parts.add("the description of a stack of pages")
        metadata, notes = metadata_of(tags), left_out(parts | _tags_left_out(tags))
        if page.bitspersample == 1:
            pixels, alpha = _bilevel(source, number, notes)
        else:
            pixels, alpha = _split(*_colors(page, _values(source, file, page), metadata.icc, notes), notes)
        encoding = _encoding(file, page, notes)
    if page.photometric == MINISWHITE:
        notes.append("white-is-zero became black-is-zero")
    if page.photometric == SEPARATED:
        metadata = replace(metadata, icc=by_pillow.srgb_profile())
    return StoredPhoto(pixels, alpha, "TIFF", orientation_of(metadata.exif), metadata, encoding, tuple(notes))


# --- pixels ---


def _compression(page: Any) -> str:
    """Tifffile's name of a page's compression."""
    import tifffile

    try:
        return tifffile.COMPRESSION(page.compression).name
    except ValueError:
        return str(page.compression)


def _encoding(file: Any, page: Any, notes: list[str]) -> Encoding:
    """Encoding of a page; lossy and bilevel compressions are replaced by zlib."""
    compression = _compression(page)
    if compression not in LOSSLESS:
        notes.append(f"compression {compression} became zlib (lossless)")
    tiles = page.is_tiled and not (page.tilelength % 16 or page.tilewidth % 16)
    if page.is_tiled and not tiles:
        notes.append("tiles became strips")
    extra = int(page.extrasamples[0]) if page.extrasamples else 0
    return Encoding(
        compression=LOSSLESS.get(compression, "zlib"),
        predictor=int(page.predictor) == 2,
        premultiplied=extra == 1,
        unknown_channel=extra == 0 and page.samplesperpixel in (2, 4, 5) and page.photometric != SEPARATED,
        tile=(page.tilelength, page.tilewidth) if tiles else None,
        planes=int(page.planarconfig) == 2,
        byte_order=file.byteorder,
        big=file.is_bigtiff,
    )


def _check_samples(page: Any) -> None:
    """Raises UnreadablePhotoError for samples and colors that restorers do not support."""
    import tifffile

    compression = _compression(page)
    kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}.get(page.sampleformat or 1, "unknown")
    if kind != "unsigned integer" or (page.bitspersample > 8 and page.bitspersample != 16):
        raise UnreadablePhotoError(
            f"TIFF samples of {page.bitspersample} bits, {kind}; unsigned integers of 8 or 16 bits are supported (the "
            "range of others is unknown: convert it first)"
        )
    if page.imagedepth != 1:
        raise UnreadablePhotoError("a TIFF of several layers (a volume) is not supported: export each layer as a file")
    jpeg = compression in ("JPEG", "OJPEG")
    supported = page.photometric in (MINISWHITE, MINISBLACK, RGB)
    supported |= page.bitspersample <= 8 and page.photometric in (PALETTE, SEPARATED)
    supported |= page.bitspersample == 8 and page.photometric == YCBCR and jpeg
    if not supported or PHOTOMETRIC not in page.tags:
        name = next((model.name for model in tifffile.PHOTOMETRIC if model == page.photometric), str(page.photometric))
        colors = name if PHOTOMETRIC in page.tags else "no stated color model"
        raise UnreadablePhotoError(
            f"TIFF of {page.bitspersample} bits in {colors} with compression {compression}; gray and RGB are "
            "supported, and with 8 bits palettes, CMYK, and YCbCr with JPEG compression: convert it to RGB first"
        )


def _bilevel(source: Source, number: int | None, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads a page of 1 bit per pixel, given its number, with Pillow, which supports the compressions of fax."""
    if number is None:
        raise UnreadablePhotoError("a black and white picture of full size in a SubIFD is not supported")
    with TiffImagePlugin.TiffImageFile(source.stream()) as image:
        image.seek(number)
        pixels, alpha, converted = by_pillow.pixels_of(image)
    notes += converted
    return pixels, alpha


def _colors(page: Any, values: np.ndarray, icc: bytes | None, notes: list[str]) -> tuple[np.ndarray, int]:
    """Converts stored values to gray or RGB of 8 or 16 bits (H, W, S); also returns how many of the S are colors."""
    values = values[..., None] if values.ndim == 2 else values  # (H, W, S)
    bits, photometric = int(page.bitspersample), page.photometric
    if photometric == PALETTE:
        notes.append("the palette became RGB")
        palette = page.colormap.T if page.colormap.max() < 256 else page.colormap.T >> 8  # some writers use 8 bits
        return _joined(palette.astype(np.uint8)[values[..., 0]], values[..., 1:]), 3
    if bits < 8:
        notes.append(f"{bits} bits per sample became 8")
        values = rescaled(values, 2**bits - 1, 255, np.uint8)
    if photometric == SEPARATED:
        with Image.fromarray(np.ascontiguousarray(values[..., :4]), "CMYK") as image:
            pixels, _, converted = by_pillow.pixels_of(image, icc)
        notes += converted
        return _joined(pixels, values[..., 4:]), 3
    colors = 1 if photometric in (MINISWHITE, MINISBLACK) else 3
    if photometric == MINISWHITE:
        values = _joined(np.iinfo(values.dtype).max - values[..., :1], values[..., 1:])
    return values, colors


def _joined(colors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Joins colors (H, W, C) and further channels (H, W, any number)."""
    return np.dstack([colors, others]) if others.shape[2] else colors


def _values(source: Source, file: Any, page: Any) -> np.ndarray:
    """Stored values (H, W) or (H, W, S); a memory map if they are large and uncompressed."""
    native = file.byteorder == NATIVE or page.bitspersample == 8
    if source.path is not None and page.is_memmappable and page.nbytes >= MAP_BYTES and native:
        # copy-on-write: writable for torch, without changing the file
        values = np.memmap(source.path, page.dtype, "c", int(page.dataoffsets[0]), tuple(page.shape))
    else:
        # the file has fewer bytes than its uncompressed pixels need
        if page.compression == 1 and page.bitspersample >= 8 and 0 < sum(page.databytecounts) < page.nbytes:
            raise UnreadablePhotoError(truncated("TIFF"))
        values = page.asarray()
    return np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values  # separate planes


def _split(values: np.ndarray, colors: int, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Splits (H, W, S), the first `colors` of which are colors, into these and alpha (H, W) or None."""
    if values.shape[2] > colors + 1:
        notes.append(f"{values.shape[2] - colors - 1} further channels are not kept")
    if values.shape[2] == colors:
        return values, None
    pixels = values[..., :colors]
    if not isinstance(values, np.memmap):
        pixels = np.ascontiguousarray(pixels)
    return pixels, np.ascontiguousarray(values[..., colors])


# --- tags ---


def tags_of(source: Source, offset: int = 0) -> Tags | None:
    """Tags of a file's first directory, merged with those of the directory at `offset`, if any; None if damaged."""
    try:
        return read_tags(source.read, offset)
    except ValueError:
        return None


def _describes_stack(tags: Tags) -> bool:
    """Whether the description of a page describes all pages of the file, as written by ImageJ, tifffile and OME."""
    entry = tags.main.get(DESCRIPTION)
    return entry is not None and entry.data.lstrip().startswith((b"ImageJ=", b'{"shape"', b"<?xml", b"<OME"))


def metadata_of(tags: Tags | None) -> Metadata:
    """Metadata in the tags of a picture, among them the descriptive tags."""
    if tags is None:
        return Metadata()
    main = tags.main
    blocks = tuple((str(tag), main[tag].data) for tag in (IPTC, PHOTOSHOP) if tag in main)
    xmp, icc = (main[tag].data if tag in main else None for tag in (XMP, ICC))
    return Metadata(write_block(tags), xmp, icc, _dpi(main, tags.order), blocks)


def _tags_left_out(tags: Tags | None) -> set[str]:
    """Names of the tags that a new file does not have."""
    import tifffile

    gone = tags.main.keys() & STRUCTURAL - REMADE if tags else set()
    return {GONE.get(tag, f"the tag {tifffile.TIFF.TAGS.get(tag, 'unknown')} ({tag})") for tag in gone}


def _other_pages(source: Source, chosen: int) -> set[str]:
    """Descriptions of the pages of a file other than that whose directory is at offset `chosen`."""
    parts: set[str] = set()
    try:
        order, big, offset = read_header(source.read(0, 16))
        visited: set[int] = set()
        while offset and offset not in visited and len(visited) < MAX_PAGES:
            visited.add(offset)
            page, following = read_directory(source.read, offset, order, big)
            if offset != chosen:
                is_reduced = value_of(page, SUBFILE_TYPE, order) & 1
                parts.add("reduced pages (thumbnails or a pyramid)" if is_reduced else "further pages")
            offset = following
    except ValueError:
        pass
    return parts


def _dpi(main: Directory, order: str) -> tuple[float, float] | None:
    """Pixels per inch from the tags of the resolution; None if they are not stated, or invalid."""
    units_per_inch = {2: 1.0, 3: 2.54}.get(value_of(main, RESOLUTION_UNIT, order, 2))  # inch, centimeter
    entries = [main[tag] for tag in (X_RESOLUTION, Y_RESOLUTION) if tag in main and main[tag].type == RATIONAL]
    if units_per_inch is None or len(entries) < 2:
        return None
    (a, b), (c, d) = (struct.unpack(f"{order}II", entry.data[:8]) for entry in entries)
    return (units_per_inch * a / b, units_per_inch * c / d) if a and b and c and d else None


FORMAT = PhotoFormat("tiff", (".tif", ".tiff"), recognizes, read, size, write, aliases=("tif",), depths=(8, 16))
