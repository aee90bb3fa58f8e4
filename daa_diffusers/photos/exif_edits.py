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
        upright = (1).to_bytes(len(entry.data), "little" if order == "<" else "big")
        changed[entry.value_at : entry.value_at + len(upright)] = upright
    if following and not big:  # set the offset of the next directory to 0
        end = _directory_end(block, offset, order)
        changed[end - 4 : end] = bytes(4)
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
    end = _directory_end(block, offset, order)
    changed = bytearray(block)
    changed[end - 4 : end] = bytes(4)  # no next directory
    # (offset, size) of the thumbnail's directory, values and picture, and of what has to be kept
    spans = [(following, _directory_end(block, following, order) - following)]
    spans += [(entry.value_at, len(entry.data)) for entry in thumbnail.values() if len(entry.data) > 4]
    for offset_tag, size_tag in ((JPEG_OFFSET, JPEG_SIZE), (STRIP_OFFSETS, STRIP_SIZES)):
        spans.append((value_of(thumbnail, offset_tag, order), value_of(thumbnail, size_tag, order)))
    kept = _extents(main, order, block) | {(offset, end - offset)}
    for start, size in spans:
        apart = all(start + size <= at or at + length <= start for at, length in kept)
        if 8 <= start < len(block) and size and apart:
            changed[start : start + size] = bytes(len(changed[start : start + size]))
    kept_end = max(start + size for start, size in kept)
    thumbnail_end = max((start + size for start, size in spans if start >= kept_end), default=0)
    # truncate a block that ends with the thumbnail, or with one byte of padding after it
    if thumbnail_end >= len(changed) - 1 and not any(changed[kept_end:]):
        del changed[kept_end:]
    return bytes(changed), True


def _directory_end(block: bytes | bytearray, offset: int, order: str) -> int:
    """End of a directory: its number of entries (2 bytes), entries (12 each), and offset of the next directory (4)."""
    return offset + 2 + 12 * struct.unpack_from(f"{order}H", block, offset)[0] + 4


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
            spans.add((at, _directory_end(block, at, order) - at))
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
    """Overwrites a directory and its values by zeros."""
    try:
        entries, _ = read_directory(reader_of(bytes(block)), offset, order)
    except ValueError:
        return
    end = min(_directory_end(block, offset, order), len(block))
    for entry in entries.values():
        block[entry.value_at : entry.value_at + len(entry.data)] = bytes(len(entry.data))
    block[offset:end] = bytes(end - offset)


def _erase_entry(block: bytearray, offset: int, at: int, order: str) -> None:
    """Removes the 12 bytes of an entry: later entries and the offset of the next directory move up."""
    end = _directory_end(block, offset, order)
    block[at:end] = block[at + 12 : end] + bytes(12)
    struct.pack_into(f"{order}H", block, offset, struct.unpack_from(f"{order}H", block, offset)[0] - 1)
