"""Parser of the boxes in HEIC and AVIF files (ISO/IEC 14496-12 and 23008-12).

A file is a sequence of boxes. Its box `meta` describes the items, such as pictures, EXIF and XMP, by boxes of its own:
`pitm` (the primary item), `iinf` (types), `iref` (references between items), `iprp` (properties, such as size and
colors) and `iloc` (location of the data). `read_items` reads these; the functions after it state facts of the main
picture.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import UnreadablePhotoError
from .color import UNSPECIFIED, check_transfer
from .exif import Reader, reader_of
from .source import Source

MAX_META = 2**24  # bytes of the `meta` box that are read
MAX_ITEMS, MAX_BOXES = 2**16, 1000  # that are read; malicious files state more
SRGB_PRIMARIES = 1  # code point (ITU-T H.273)
XMP_TYPE = "application/rdf+xml"
C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
# Types of auxiliary pictures that are alpha channels.
ALPHA = ("urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", "urn:mpeg:hevc:2015:auxid:1", "urn:mpeg:avc:2015:auxid:1")


@dataclass(frozen=True)
class Items:
    """Items of a file, from its `meta` box, and the kinds of its top-level boxes.

    Args:
        primary: ID of the primary item, the main picture.
        types: item ID -> type, such as "hvc1", "grid", "Exif" or "tmap", or MIME type ("application/rdf+xml").
        references: (kind, from, to) between item IDs, such as ("thmb", 3, (1,)).
        properties: item ID -> (kind, content) of its properties.
        boxes: (kind, first 16 bytes) of the top-level boxes.
        extents: item ID -> (offset, size) of its data in the file; only the first extent of each item.
    """

    primary: int = 0
    types: dict[int, str] = field(default_factory=dict)
    references: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    properties: dict[int, list[tuple[str, bytes]]] = field(default_factory=dict)
    boxes: tuple[tuple[str, bytes], ...] = ()
    extents: dict[int, tuple[int, int]] = field(default_factory=dict)

    def of_primary(self, kind: str) -> list[bytes]:
        """Contents of the primary item's properties of type `kind`; if it has none, those of its first tile."""
        for item in self._primary_and_tile():
            if contents := self.properties_of(item, kind):
                return contents
        return []

    def first_of_primary(self, kind: str, least: int) -> bytes:
        """The first of `of_primary` with at least `least` bytes; b"" if there is none."""
        return next((content for content in self.of_primary(kind) if len(content) >= least), b"")

    def properties_of(self, item: int, kind: str) -> list[bytes]:
        """Contents of an item's properties of type `kind`."""
        return [content for name, content in self.properties.get(item, ()) if name == kind]

    def data_of_primary(self, source: Source, kind: str, size: int) -> bytes:
        """The first `size` bytes of the primary item or its first tile, whichever has type `kind`; else b""."""
        for item in self._primary_and_tile():
            if self.types.get(item) == kind and item in self.extents:
                offset, full_size = self.extents[item]
                return source.read(offset, min(size, full_size))
        return b""

    def codec_of_primary(self) -> str:
        """Type of the primary item, or of its tiles if it is a grid, such as "hvc1"; "" if not stated."""
        return self.types.get(self._primary_and_tile()[-1], "")

    def _primary_and_tile(self) -> tuple[int, ...]:
        """The primary item and, if it is derived from others, as a grid of tiles is, the first of these."""
        for kind, item, others in self.references:
            if kind == "dimg" and item == self.primary and others:
                return self.primary, others[0]
        return (self.primary,)


def brands(source: Source) -> set[bytes]:
    """The brands in a file's `ftyp` box; empty for files that do not start with one."""
    start = source.read(0, 12)
    if start[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(start[:4], "big"), 512)
    box = source.read(0, size)
    return {start[8:12], *(box[at : at + 4] for at in range(16, len(box) - 3, 4))}


def walk(read: Reader, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yields (kind, offset of the content, size of the content) of the boxes in a range.

    A box is its size (4 bytes), its kind (4 bytes), and its content. The size is 1 if its real value, of 8 bytes, comes
    after the kind, and 0 if the box extends to the end.
    """
    while start + 8 <= end:
        head = read(start, 16)
        if len(head) < 8:
            return
        size, kind, head_size = int.from_bytes(head[:4], "big"), head[4:8].decode("latin-1"), 8
        if size == 1 and len(head) == 16:
            size, head_size = int.from_bytes(head[8:], "big"), 16
        elif size == 0:
            size = end - start
        if size < head_size:
            return
        yield kind, start + head_size, min(size, end - start) - head_size
        start += size


def read_items(source: Source) -> Items:
    """Reads the items of a file; empty if the file is damaged, which decoders report."""
    try:
        return _items(source)
    except (struct.error, IndexError, KeyError, ValueError):
        return Items()


def _items(source: Source) -> Items:
    boxes, meta, meta_at = [], b"", 0
    for kind, at, size in walk(source.read, 0, source.size):
        boxes.append((kind, source.read(at, 16)))
        if kind == "meta" and not meta:
            meta, meta_at = source.read(at, min(size, MAX_META)), at
        if len(boxes) > MAX_BOXES:
            break
    # the content of `meta`, as of most boxes below, starts with a version (1 byte) and flags (3 bytes)
    offsets = {kind: (at, size) for kind, at, size in walk(reader_of(meta), 4, len(meta))}
    contents = {kind: meta[at : at + size] for kind, (at, size) in offsets.items()}
    primary = contents.get("pitm", b"")
    return Items(
        int.from_bytes(primary[4 : 8 if primary[:1] == b"\1" else 6], "big"),
        _types(contents.get("iinf", b"")),
        tuple(_references(contents.get("iref", b""))),
        _properties(contents.get("iprp", b"")),
        tuple(boxes),
        _extents(contents.get("iloc", b""), meta_at + offsets.get("idat", (0, 0))[0]),
    )


def _types(box: bytes) -> dict[int, str]:
    """Parses the content of an `iinf` box to `Items.types`."""
    types: dict[int, str] = {}
    start = 8 if box[:1] != b"\0" else 6  # after version, flags and number of entries
    for kind, at, size in walk(reader_of(box), start, len(box)):
        entry = box[at : at + size]
        if kind == "infe" and entry[:1] in (b"\2", b"\3") and len(types) < MAX_ITEMS:
            id_bytes = 4 if entry[:1] == b"\3" else 2
            # ID, protection index (2 bytes), type; for "mime", then a name and the type of the content
            item, rest = int.from_bytes(entry[4 : 4 + id_bytes], "big"), entry[6 + id_bytes :].decode("latin-1")
            types[item] = rest[:4] if rest[:4] != "mime" else (rest[4:].split("\0") + [""])[1]
    return types


def _extents(box: bytes, idat: int) -> dict[int, tuple[int, int]]:
    """Parses the content of an `iloc` box to `Items.extents`; `idat` is the offset of the content of the `idat` box."""
    extents: dict[int, tuple[int, int]] = {}
    if not box:
        return extents
    version, numbers = box[0], _Numbers(box, 6)
    (offset_bytes, length_bytes), (base_bytes, index_bytes) = divmod(box[4], 16), divmod(box[5], 16)
    for _ in range(min(numbers.next(4 if version == 2 else 2), MAX_ITEMS)):
        item = numbers.next(4 if version == 2 else 2)
        method = numbers.next(2) & 15 if version else 0  # construction_method: 0 offsets in the file, 1 in `idat`
        numbers.next(2)  # data_reference_index
        base = numbers.next(base_bytes) + (idat if method == 1 else 0)
        for index in range(numbers.next(2)):
            numbers.next(index_bytes if version else 0)
            offset, length = numbers.next(offset_bytes), numbers.next(length_bytes)
            if index == 0 and method < 2 and numbers.at <= len(box):
                extents[item] = (base + offset, length)
        if numbers.at >= len(box):
            break
    return extents


class _Numbers:
    """Reader of consecutive unsigned numbers from offset `at`; beyond the end of the content, it reads zeros."""

    def __init__(self, content: bytes, at: int = 0):
        self.content, self.at = content, at

    def next(self, size: int) -> int:
        """Reads a number of `size` bytes."""
        self.at += size
        return int.from_bytes(self.content[self.at - size : self.at], "big")


def _references(box: bytes) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Parses the content of an `iref` box to `Items.references`."""
    id_bytes = 4 if box[:1] == b"\1" else 2
    for kind, at, size in walk(reader_of(box), 4, len(box)):
        numbers = _Numbers(box[at : at + size])
        item = numbers.next(id_bytes)
        yield kind, item, tuple(numbers.next(id_bytes) for _ in range(numbers.next(2)))


def _properties(box: bytes) -> dict[int, list[tuple[str, bytes]]]:
    """Parses the content of an `iprp` box to `Items.properties`: all properties, and their association with items."""
    known: list[tuple[str, bytes]] = []
    by_item: dict[int, list[tuple[str, bytes]]] = {}
    for kind, at, size in walk(reader_of(box), 0, len(box)):
        if kind == "ipco":
            known = [(name, box[start : start + n]) for name, start, n in walk(reader_of(box), at, at + size)]
        elif kind == "ipma":
            entry = box[at : at + size]
            id_bytes, index_bytes = 4 if entry[0] > 0 else 2, 2 if entry[3] & 1 else 1
            numbers = _Numbers(entry, 4)
            for _ in range(min(numbers.next(4), MAX_ITEMS)):
                item = numbers.next(id_bytes)
                if numbers.at >= len(entry):
                    raise IndexError("more items than the box holds")
                for _ in range(numbers.next(1)):
                    index = numbers.next(index_bytes) & (0x7FFF if index_bytes == 2 else 0x7F)  # without "essential"
                    if 0 < index <= len(known):
                        by_item.setdefault(item, []).append(known[index - 1])
    return by_item


def size_of(items: Items) -> tuple[int, int] | None:
    """(width, height) of the main picture as stored; None if not stated."""
    content = items.first_of_primary("ispe", 12)
    return struct.unpack(">II", content[4:12]) if content else None


def check_color(items: Items, name: str, coded: tuple[int, int] | None = None) -> None:
    """Raises UnreadablePhotoError for HDR, and for a wide gamut without ICC profile, which would be read as sRGB.

    Args:
        items: items of the file.
        name: name of the format, for messages.
        coded: (primaries, transfer) in the coded picture, used if no box states them.
    """
    boxes = items.of_primary("colr")
    has_icc = any(content[:4] in (b"prof", b"rICC") for content in boxes)
    stated = [struct.unpack(">HH", content[4:8]) for content in boxes if content[:4] == b"nclx" and len(content) >= 10]
    for primaries, transfer in stated or ([coded] if coded else []):
        check_transfer(transfer, name)
        if primaries not in (SRGB_PRIMARIES, UNSPECIFIED) and not has_icc:
            raise UnreadablePhotoError(
                f"{name} of color primaries {primaries} without an ICC profile is not supported: convert it first"
            )


def stores_rgb(items: Items) -> bool:
    """Whether the main picture is coded as RGB (matrix 0 of ITU-T H.273) instead of luma and chroma."""
    return any(content[:4] == b"nclx" and content[8:10] == bytes(2) for content in items.of_primary("colr"))


def depth_of(items: Items) -> int:
    """Bits per sample of the main picture; 8 if not stated."""
    if content := items.first_of_primary("pixi", 6):
        return content[5]
    if content := items.first_of_primary("av1C", 3):
        high_bitdepth, twelve_bit = bool(content[2] & 0x40), bool(content[2] & 0x20)
        return 8 + 2 * high_bitdepth * (1 + twelve_bit)
    return 8


def subsampling_of(items: Items) -> str | None:
    """Chroma subsampling of the main picture: "4:4:4", "4:2:2", "4:2:0", or "4:0:0" for gray; None: not stated."""
    if content := items.first_of_primary("av1C", 3):
        if content[2] & 0x10:  # monochrome
            return "4:0:0"
        return {0: "4:4:4", 0x08: "4:2:2", 0x0C: "4:2:0"}.get(content[2] & 0x0C)  # subsampling of x, y
    if content := items.first_of_primary("hvcC", 17):
        return ("4:0:0", "4:2:0", "4:2:2", "4:4:4")[content[16] & 3]
    return None


def other_parts(items: Items) -> set[str]:
    """Descriptions of the parts of a file other than the main picture, its alpha channel, EXIF and XMP."""
    parts: set[str] = set()
    # 1. pictures that belong to others: thumbnails, auxiliary pictures, gain maps
    for kind, item, others in items.references:
        if kind == "thmb" and items.primary in others:
            parts.add("the thumbnail")
        elif kind == "auxl":
            for content in items.properties_of(item, "auxC"):
                urn = content[4:].split(b"\0")[0].decode("latin-1")
                if not (urn in ALPHA and items.primary in others):
                    parts.add(_auxiliary(urn))
        elif kind == "dimg" and items.types.get(item) == "tmap":
            parts.add("the gain map")
    # 2. other items
    linked = {item for _, item, _ in items.references}
    linked.update(*(others for kind, _, others in items.references if kind == "dimg"))
    for item, kind in items.types.items():
        if item != items.primary and item not in linked and kind not in ("Exif", XMP_TYPE, "tmap"):
            parts.add("further pictures" if len(kind) == 4 and kind != "uri " else f"an item of {kind}")
    # 3. data outside of the `meta` box
    for kind, start in items.boxes:
        if kind == "moov":
            parts.add("the video or sequence")
        elif kind == "mpvd":
            parts.add("the video of a motion photo")
        elif kind == "uuid" and start == C2PA_UUID:
            parts.add("content credentials (C2PA)")
        elif kind not in ("ftyp", "meta", "mdat", "free", "skip", "wide", "idat"):
            parts.add(f"the box {kind}")
    return parts


def _auxiliary(urn: str) -> str:
    """Description of an auxiliary picture, from the name of its type."""
    name = urn.lower()
    if "gainmap" in name:
        return "the gain map"
    if "depth" in name or "disparity" in name or urn.endswith("auxid:2"):
        return "the depth map"
    return f"an auxiliary picture ({urn.rpartition(':')[2] or 'unnamed'})"
