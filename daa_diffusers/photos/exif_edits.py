"""In-place edits of EXIF blocks.

Rewriting a block moves its values, which breaks maker notes: their offsets are relative to the start of the block.
"""

import struct
from contextlib import suppress

from .exif import EXIF_IFD, GPS_IFD, INTEROP_IFD, ORIENTATION, Directory, read_directory, read_header, value_of

JPEG_OFFSET, JPEG_SIZE, STRIP_OFFSETS, STRIP_SIZES = 513, 514, 273, 279  # tags of a thumbnail
GEOGRAPHIC = frozenset({GPS_IFD, 33550, 33922, 34264, 34735, 34736, 34737})  # the others: GeoTIFF


class _Block:
    """A copy of an EXIF block, which is edited in place; only `directory` supports BigTIFF (`big`).

    Raises:
        ValueError: the block has no header.
    """

    def __init__(self, block: bytes):
        self.content = bytearray(block)
        self.order, self.big, self.first = read_header(block[:16])  # `first`: offset of the first directory

    def directory(self, offset: int) -> tuple[Directory, int]:
        """The directory at `offset`, and the offset of the next one (0: none); raises ValueError if there is none."""
        return read_directory(lambda at, size: bytes(self.content[at : at + size]), offset, self.order, self.big)

    def value(self, directory: Directory, tag: int) -> int:
        """The first value of an integer tag; 0 if it is absent."""
        return value_of(directory, tag, self.order)

    def end(self, offset: int) -> int:
        """End of a directory: number of entries (2 bytes), entries (12 each), and offset of the next directory (4)."""
        return offset + 2 + 12 * struct.unpack_from(f"{self.order}H", self.content, offset)[0] + 4

    def erase(self, start: int, size: int) -> None:
        """Overwrites bytes by zeros."""
        self.content[start : start + size] = bytes(len(self.content[start : start + size]))

    def erase_directory(self, offset: int) -> None:
        """Overwrites a directory and its values by zeros; raises ValueError if there is none."""
        entries, size = self.directory(offset)[0], self.end(offset) - offset
        for entry in entries.values():
            self.erase(entry.value_at, len(entry.data))
        self.erase(offset, size)

    def make_last(self, offset: int) -> None:
        """Sets the offset of the directory that follows the one at `offset` to 0."""
        self.erase(self.end(offset) - 4, 4)

    def remove_entry(self, offset: int, at: int) -> None:
        """Removes the entry at `at` from the directory at `offset`: all that follows in the directory moves up."""
        end = self.end(offset)
        self.content[at:end] = self.content[at + 12 : end] + bytes(12)
        count = struct.unpack_from(f"{self.order}H", self.content, offset)[0]
        struct.pack_into(f"{self.order}H", self.content, offset, count - 1)

    def used(self) -> set[tuple[int, int]]:
        """(offset, size) of the first directory, of those that it refers to, and of their values."""
        spans, pending, visited = set(), [self.first], set()
        while pending:
            offset = pending.pop()
            if offset in visited:
                continue
            visited.add(offset)
            try:
                directory, _ = self.directory(offset)
            except ValueError:
                continue
            spans.add((offset, self.end(offset) - offset))
            spans |= {(entry.value_at, len(entry.data)) for entry in directory.values()}
            pending += [self.value(directory, tag) for tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD) if tag in directory]
        return spans


def rotated_upright(block: bytes) -> bytes:
    """Sets the orientation of a block to 1, and removes the thumbnail, which is not rotated with the photo."""
    try:
        edited = _Block(block)
        main, following = edited.directory(edited.first)
    except ValueError:
        return block
    if ORIENTATION in main:
        at, size = main[ORIENTATION].value_at, len(main[ORIENTATION].data)
        edited.content[at : at + size] = (1).to_bytes(size, "little" if edited.order == "<" else "big")
    if following and not edited.big:
        edited.make_last(edited.first)
    return bytes(edited.content)


def without_thumbnail(block: bytes) -> tuple[bytes, bool]:
    """Removes the thumbnail of a block, by overwriting or truncation. Also returns whether there was one."""
    try:
        edited = _Block(block)
        _, following = edited.directory(edited.first)
        thumbnail, _ = edited.directory(following)
    except (ValueError, struct.error):
        return block, False
    if edited.big:
        return block, False
    # (offset, size) of the thumbnail's directory, values and picture, and of what has to be kept
    spans = [(following, edited.end(following) - following)]
    spans += [(entry.value_at, len(entry.data)) for entry in thumbnail.values() if len(entry.data) > 4]
    for offset_tag, size_tag in ((JPEG_OFFSET, JPEG_SIZE), (STRIP_OFFSETS, STRIP_SIZES)):
        spans.append((edited.value(thumbnail, offset_tag), edited.value(thumbnail, size_tag)))
    kept = edited.used()
    edited.make_last(edited.first)
    for start, size in spans:
        apart = all(start + size <= at or at + length <= start for at, length in kept)
        if 8 <= start < len(block) and size and apart:
            edited.erase(start, size)
    kept_end = max(start + size for start, size in kept)
    thumbnail_end = max((start + size for start, size in spans if start >= kept_end), default=0)
    # truncate a block that ends with the thumbnail, or with one byte of padding after it
    if thumbnail_end >= len(block) - 1 and not any(edited.content[kept_end:]):
        del edited.content[kept_end:]
    return bytes(edited.content), True


def without_gps(block: bytes) -> bytes | None:
    """Removes the GPS directory and GeoTIFF tags of a block, by overwriting. None if that cannot be guaranteed."""
    try:
        edited = _Block(block)
        if edited.big:
            return None
        offset, visited = edited.first, set()
        while offset and offset not in visited:
            visited.add(offset)
            directory, following = edited.directory(offset)
            if GPS_IFD in directory:
                with suppress(ValueError):
                    edited.erase_directory(edited.value(directory, GPS_IFD))
            entries = [directory[tag] for tag in GEOGRAPHIC & directory.keys()]
            for entry in sorted(entries, key=lambda entry: -entry.at):  # last first: removal moves entries up
                edited.erase(entry.value_at, len(entry.data))
                edited.remove_entry(offset, entry.at)
            if len(directory) > len(entries):
                left, following = edited.directory(offset)
                if GEOGRAPHIC & left.keys():  # a tag that is stated twice
                    return None
            offset = following
    except (ValueError, struct.error):
        return None
    return bytes(edited.content)
