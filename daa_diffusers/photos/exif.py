"""Reading and writing of EXIF blocks and TIFF directories by entry, keeping unknown values.

An EXIF block is a small TIFF file. `exif_edits` edits blocks in place.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
# Types of values (TIFF 6.0, section 2; 16 to 18 are from BigTIFF), and type -> bytes of a value.
BYTE, SHORT, LONG, RATIONAL, UNDEFINED, IFD, LONG8, IFD8 = 1, 3, 4, 5, 7, 13, 16, 18
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
MAX_ENTRIES = 4096  # of a directory; damaged and malicious files state more
MAX_BYTES = 2**26  # of the values of an entry; malicious files state more than they contain

# TIFF tags about the storage of pixels, which are not copied to new files.
STRUCTURAL = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292}
    | {293, 297, 301, 317, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 338, 339, 340, 341, 342, 343, 347}
    | {400, 700, *range(512, 533), 559, 32997, 32998, 33723, 34377, 34675, EXIF_IFD, GPS_IFD, INTEROP_IFD, 37724, 52545}
    | {*range(50706, 51200)}  # DNG: conversion of raw values to colors; others: storage of layers and stacks
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Value of a tag: type (key of `SIZES`), number of values, and their bytes in the file's byte order.

    `at` is the offset of the entry, `value_at` that of its values, both from the start of the block.
    """

    type: int
    count: int
    data: bytes
    at: int = 0
    value_at: int = 0


Directory = dict[int, Entry]  # tag -> entry
Reader = Callable[[int, int], bytes]  # (offset, number of bytes) -> at most that many bytes


@dataclass(frozen=True)
class Tags:
    """The directories of an EXIF block or of a TIFF file's first page; `order` is "<" or ">"."""

    order: Literal["<", ">"]
    main: Directory
    exif: Directory
    gps: Directory
    interop: Directory


def read_header(start: bytes) -> tuple[Literal["<", ">"], bool, int]:
    """Parses a header of 16 bytes: (order, whether BigTIFF, offset of the first directory); or raises ValueError."""
    order: Literal["<", ">"] = "<" if start[:2] == b"II" else ">"
    if start[:2] not in (b"II", b"MM") or len(start) < 8:
        raise ValueError("no TIFF header")
    version = struct.unpack(f"{order}H", start[2:4])[0]
    if version == 42:
        return order, False, struct.unpack(f"{order}I", start[4:8])[0]
    if version == 43 and len(start) >= 16:
        return order, True, struct.unpack(f"{order}Q", start[8:16])[0]
    raise ValueError(f"TIFF version {version}")


def _layout(order: str, big: bool) -> tuple[str, str, str, int]:
    """Formats, for `struct`, of a directory's number of entries, of an entry's tag, type and number, and of an offset.

    Last comes the size in bytes of an offset; an entry has a field of this size, with its values if they fit into it.
    """
    formats = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    count_format, entry_format, offset_format = (order + letters for letters in formats)
    return count_format, entry_format, offset_format, struct.calcsize(offset_format)


def read_directory(read: Reader, offset: int, order: str, big: bool = False) -> tuple[Directory, int]:
    """Reads the entries of the directory at `offset`, and the offset of the next directory (0: none).

    Entries outside the file or of an unknown type are skipped.

    Raises:
        ValueError: there is no directory.
    """
    count_format, entry_format, offset_format, inline = _layout(order, big)
    head = struct.calcsize(count_format)
    size = struct.calcsize(entry_format) + inline
    start = read(offset, head) if offset > 0 else b""
    if len(start) < head:
        raise ValueError(f"no directory at {offset}")
    count = struct.unpack(count_format, start)[0]
    if not 0 < count <= MAX_ENTRIES:
        raise ValueError(f"a directory of {count} entries")
    table = read(offset + head, count * size)
    entries: Directory = {}
    for position in range(0, len(table) - size + 1, size):
        tag, kind, values = struct.unpack_from(entry_format, table, position)
        length = SIZES.get(kind, 0) * values
        if not 0 < length <= MAX_BYTES:
            continue
        value_at = offset + head + position + size - inline
        if length > inline:
            value_at = struct.unpack_from(offset_format, table, position + size - inline)[0]
        data = read(value_at, length)
        if len(data) == length:
            entries.setdefault(tag, Entry(kind, values, data, offset + head + position, value_at))
    after = read(offset + head + count * size, inline)
    return entries, struct.unpack(offset_format, after)[0] if len(after) == inline else 0


def value_of(directory: Mapping[int, Entry], tag: int, order: str, default: int = 0) -> int:
    """The first value of an integer tag, or `default`."""
    entry = directory.get(tag)
    if entry is None or entry.type not in (BYTE, SHORT, LONG, IFD, LONG8, IFD8):
        return default
    letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[SIZES[entry.type]]
    return struct.unpack_from(f"{order}{letter}", entry.data)[0]


def read_tags(read: Reader, picture: int = 0) -> Tags:
    """Reads all directories of a block, except the thumbnail's.

    Args:
        read: reader of the block or TIFF file.
        picture: offset of the directory of a picture in a TIFF file, merged into the first directory; 0: none.

    Raises:
        ValueError: the header or the first directory is damaged. Damaged subdirectories are returned empty.
    """
    order, big, offset = read_header(read(0, 16))
    main, _ = read_directory(read, offset, order, big)
    if picture not in (0, offset):
        main |= read_directory(read, picture, order, big)[0]

    def subdirectory(directory: Directory, tag: int) -> Directory:
        try:
            return read_directory(read, value_of(directory, tag, order), order, big)[0]
        except ValueError:
            return {}

    exif = subdirectory(main, EXIF_IFD)
    return Tags(order, main, exif, subdirectory(main, GPS_IFD), subdirectory(exif, INTEROP_IFD))


def reader_of(block: bytes) -> Reader:
    """A `Reader` of an EXIF block in memory."""
    return lambda offset, size: block[offset : offset + size]


def orientation_of(block: bytes | None) -> int:
    """The orientation (1 to 8) in an EXIF block; 1 if it is absent or damaged."""
    try:
        tags = read_tags(reader_of(block or b""))
    except ValueError:
        return 1
    orientation = value_of(tags.main, ORIENTATION, tags.order, 1)
    return orientation if 1 <= orientation <= 8 else 1


def write_directory(entries: Mapping[int, Entry], order: str, start: int, big: bool = False) -> bytes:
    """Encodes a directory for offset `start`, followed by its values; the offset of the next directory is 0."""
    count_format, entry_format, offset_format, inline = _layout(order, big)
    table = bytearray(struct.pack(count_format, len(entries)))
    size = len(table) + len(entries) * (struct.calcsize(entry_format) + inline) + inline
    values = bytearray()
    for tag, entry in sorted(entries.items()):
        table += struct.pack(entry_format, tag, entry.type, entry.count)
        if len(entry.data) <= inline:
            table += entry.data.ljust(inline, b"\0")
        else:
            table += struct.pack(offset_format, start + size + len(values))
            values += entry.data + bytes(len(entry.data) % 2)  # values start at even offsets
    return bytes(table + bytes(inline) + values)


def pointer(offset: int, order: str, big: bool = False) -> Entry:
    """An entry that holds the offset of a directory."""
    return Entry(LONG8 if big else LONG, 1, struct.pack(_layout(order, big)[2], offset))


def write_subdirectories(tags: Tags, start: int, big: bool = False) -> tuple[bytes, Directory]:
    """Encodes the EXIF, GPS and interoperability directories for offset `start` (even). Also returns their pointers."""
    content, pointers = bytearray(), {}

    def add(directory: Mapping[int, Entry]) -> Entry:
        offset = start + len(content)
        content.extend(write_directory(directory, tags.order, offset, big))
        content.extend(bytes(len(content) % 2))
        return pointer(offset, tags.order, big)

    exif = {tag: entry for tag, entry in tags.exif.items() if tag != INTEROP_IFD}
    if tags.interop:
        exif[INTEROP_IFD] = add(tags.interop)
    if exif:
        pointers[EXIF_IFD] = add(exif)
    if tags.gps:
        pointers[GPS_IFD] = add(tags.gps)
    return bytes(content), pointers


def write_block(tags: Tags) -> bytes | None:
    """Encodes the descriptive tags as an EXIF block; None if there are none."""
    main = {tag: entry for tag, entry in tags.main.items() if tag not in STRUCTURAL and entry.type < LONG8}
    if not main and not tags.exif and not tags.gps:
        return None
    subdirectories, pointers = write_subdirectories(tags, 8)
    offset = 8 + len(subdirectories)  # after the header of 8 bytes
    header = (b"II*\0" if tags.order == "<" else b"MM\0*") + struct.pack(f"{tags.order}I", offset)
    return header + subdirectories + write_directory({**main, **pointers}, tags.order, offset)
