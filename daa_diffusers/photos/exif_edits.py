"""In-place edits of EXIF blocks.

Rewriting a block moves its values, which breaks maker notes: their offsets are relative to the start of the block.
"""

import struct

from .exif import (
    EXIF_IFD,
    GPS_IFD,
    INTEROP_IFD,
    ORIENTATION,
    Directory,
    read_directory,
    read_header,
    reader_of,
    value_of,
)

JPEG_OFFSET, JPEG_SIZE, STRIP_OFFSETS, STRIP_SIZES = 513, 514, 273, 279  # tags of a thumbnail
GEOGRAPHIC = frozenset({GPS_IFD, 33550, 33922, 34264, 34735, 34736, 34737})  # the others: GeoTIFF


def rotated_upright(block: bytes) -> bytes:
    """Sets the orientation of a block to 1, and removes the thumbnail, which is not rotated with the photo."""
    try:
        order, big, offset = read_header(block[:16])
        main, following = read_directory(reader_of(block), offset, order, big)
    except ValueError:
        return block
    changed = bytearray(block)
    if ORIENTATION in main:
        entry = main[ORIENTATION]
        one = (1).to_bytes(len(entry.data), "little" if order == "<" else "big")
        changed[entry.value_at : entry.value_at + len(one)] = one
    if following and not big:  # set the offset of the next directory, which follows 12 bytes per entry, to 0
        end = offset + 2 + 12 * struct.unpack_from(f"{order}H", block, offset)[0]
        changed[end : end + 4] = bytes(4)
    return bytes(changed)


def without_thumbnail(block: bytes) -> tuple[bytes, bool]:
    """Removes the thumbnail of a block, by overwriting or truncation. Also returns whether there was one."""
    try:
        order, big, offset = read_header(block[:16])
        main, following = read_directory(reader_of(block), offset, order, big)
        thumbnail, _ = read_directory(reader_of(block), following, order, big)
    except (ValueError, struct.error):
        return block, False
    if big:
        return block, False
    count = struct.unpack_from(f"{order}H", block, offset)[0]
    end = offset + 2 + 12 * count
    changed = bytearray(block)
    changed[end : end + 4] = bytes(4)
    spans = [(following, 2 + 12 * struct.unpack_from(f"{order}H", block, following)[0] + 4)]
    spans += [(entry.value_at, len(entry.data)) for entry in thumbnail.values() if len(entry.data) > 4]
    for at, size in ((JPEG_OFFSET, JPEG_SIZE), (STRIP_OFFSETS, STRIP_SIZES)):
        spans.append((value_of(thumbnail, at, order), value_of(thumbnail, size, order)))
    needed = _extents(main, order, block) | {(offset, end + 4 - offset)}
    for start, size in spans:
        apart = all(start + size <= one or one + length <= start for one, length in needed)
        if 8 <= start < len(block) and size and apart:
            changed[start : start + size] = bytes(len(changed[start : start + size]))
    last = max(start + size for start, size in needed)
    tail = max((start + size for start, size in spans if start >= last), default=0)
    # truncate a block that ends with the thumbnail, or with one byte of padding after it
    if tail >= len(changed) - 1 and not any(changed[last:]):
        del changed[last:]
    return bytes(changed), True


def _extents(main: Directory, order: str, block: bytes) -> set[tuple[int, int]]:
    """(offset, size) of the values of all directories, and of the directories themselves except the first one."""
    spans, pending, visited = set(), [main], set()
    while pending:
        directory = pending.pop()
        spans |= {(entry.value_at, len(entry.data)) for entry in directory.values()}
        for at in (value_of(directory, tag, order) for tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD) if tag in directory):
            if at in visited:
                continue
            visited.add(at)
            try:
                pending.append(read_directory(reader_of(block), at, order)[0])
            except ValueError:
                continue
            spans.add((at, 6 + 12 * struct.unpack_from(f"{order}H", block, at)[0]))
    return spans


def without_gps(block: bytes) -> bytes | None:
    """Removes the GPS directory and GeoTIFF tags of a block, by overwriting. None if that cannot be guaranteed."""
    changed = bytearray(block)
    try:
        order, big, offset = read_header(block[:16])
        visited: set[int] = set()
        while offset and offset not in visited and not big:
            visited.add(offset)
            directory, following = read_directory(reader_of(bytes(changed)), offset, order)
            if GPS_IFD in directory:
                _erase_directory(changed, value_of(directory, GPS_IFD, order), order)
            entries = [directory[tag] for tag in GEOGRAPHIC & directory.keys()]
            for entry in sorted(entries, key=lambda entry: -entry.at):  # last first: removal moves entries up
                changed[entry.value_at : entry.value_at + len(entry.data)] = bytes(len(entry.data))
                _erase_entry(changed, offset, entry.at, order)
            if len(directory) > len(entries):
                left, following = read_directory(reader_of(bytes(changed)), offset, order)
                if GEOGRAPHIC & left.keys():
                    return None
            offset = following
    except (ValueError, struct.error):
        return None
    return None if big else bytes(changed)


def _erase_directory(block: bytearray, offset: int, order: str) -> None:
    try:
        entries, _ = read_directory(reader_of(bytes(block)), offset, order)
    except ValueError:
        return
    count = struct.unpack_from(f"{order}H", block, offset)[0]
    for entry in entries.values():
        block[entry.value_at : entry.value_at + len(entry.data)] = bytes(len(entry.data))
    block[offset : offset + 6 + 12 * count] = bytes(len(block[offset : offset + 6 + 12 * count]))


def _erase_entry(block: bytearray, offset: int, at: int, order: str) -> None:
    """Removes the 12 bytes of an entry: later entries and the offset of the next directory move up."""
    count = struct.unpack_from(f"{order}H", block, offset)[0]
    end = offset + 2 + 12 * count + 4
    block[at:end] = block[at + 12 : end] + bytes(12)
    struct.pack_into(f"{order}H", block, offset, count - 1)
