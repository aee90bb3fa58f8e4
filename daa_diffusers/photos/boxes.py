"""Parser of the boxes in HEIC and AVIF files (ISO/IEC 14496-12 and 23008-12)."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import UnreadablePhotoError
from .color import check_transfer
from .source import Source

MAX_META = 2**24  # maximum bytes of the `meta` box
MAX_ITEMS = 2**16
XMP_TYPE = "application/rdf+xml"
C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
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
            contents = [content for name, content in self.properties.get(item, ()) if name == kind]
            if contents:
                return contents
        return []

    def data_of_primary(self, source: Source, kind: str, size: int) -> bytes:
        """The first `size` bytes of the primary item or its first tile, whichever has type `kind`; else b""."""
        for item in self._primary_and_tile():
            if self.types.get(item) == kind and item in self.extents:
                offset, whole = self.extents[item]
                return source.read(offset, min(size, whole))
        return b""

    def codec_of_primary(self) -> str:
        """Type of the primary item, or of its tiles if it is a grid, such as "hvc1"; "" if not stated."""
        return self.types.get(self._primary_and_tile()[-1], "")

    def _primary_and_tile(self) -> tuple[int, ...]:
        tiles = [
            number for name, start, to in self.references if name == "dimg" and start == self.primary for number in to
        ]
        return (self.primary, *tiles[:1])


def brands(source: Source) -> set[bytes]:
    """The brands in a file's `ftyp` box; empty for files that do not start with one."""
    start = source.read(0, 12)
    if start[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(start[:4], "big"), 512)
    box = source.read(0, size)
    return {start[8:12], *(box[at : at + 4] for at in range(16, len(box) - 3, 4))}


def walk(read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yields (kind, offset of the content, size of the content) of the boxes in a range."""
    while start + 8 <= end:
        head = read(start, 16)
        if len(head) < 8:
            return
        size, kind, skip = int.from_bytes(head[:4], "big"), head[4:8].decode("latin-1"), 8
        if size == 1 and len(head) == 16:
            size, skip = int.from_bytes(head[8:], "big"), 16
        elif size == 0:
            size = end - start
        if size < skip:
            return
        yield kind, start + skip, min(size, end - start) - skip
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
        if len(boxes) > 1000:
            break

    def read(offset: int, size: int) -> bytes:
        return meta[offset : offset + size]

    children = {kind: (at, size) for kind, at, size in walk(read, 4, len(meta))}
    parts = {kind: read(at, size) for kind, (at, size) in children.items()}
    primary = parts.get("pitm", b"")
    number = int.from_bytes(primary[4 : 8 if primary[:1] == b"\1" else 6], "big")
    return Items(
        number,
        _types(parts.get("iinf", b"")),
        tuple(_references(parts.get("iref", b""))),
        _properties(parts.get("iprp", b"")),
        tuple(boxes),
        _extents(parts.get("iloc", b""), meta_at + children.get("idat", (0, 0))[0]),
    )


def _types(box: bytes) -> dict[int, str]:
    types: dict[int, str] = {}
    start = 8 if box[:1] != b"\0" else 6
    for kind, at, size in walk(lambda offset, length: box[offset : offset + length], start, len(box)):
        entry = box[at : at + size]
        if kind == "infe" and entry[:1] in (b"\2", b"\3") and len(types) < MAX_ITEMS:
            width = 4 if entry[:1] == b"\3" else 2
            number, kind_at = int.from_bytes(entry[4 : 4 + width], "big"), 6 + width
            types[number] = entry[kind_at : kind_at + 4].decode("latin-1")
            if types[number] == "mime":  # followed by a name and the type of the content
                types[number] = (entry[kind_at + 4 :].split(b"\0") + [b""])[1].decode("latin-1")
    return types


def _extents(box: bytes, idat: int) -> dict[int, tuple[int, int]]:
    """Parses the content of an `iloc` box to `Items.extents`; `idat` is the offset of the content of the `idat` box."""
    extents: dict[int, tuple[int, int]] = {}
    at = 6

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(box[at - size : at], "big")

    if not box:
        return extents
    version = box[0]
    (offset_bytes, length_bytes), (base_bytes, index_bytes) = divmod(box[4], 16), divmod(box[5], 16)
    for _ in range(min(read(4 if version == 2 else 2), MAX_ITEMS)):
        number = read(4 if version == 2 else 2)
        method = read(2) & 15 if version else 0  # construction_method: 0 offsets in the file, 1 in `idat`
        read(2)  # data_reference_index
        base = read(base_bytes) + (idat if method == 1 else 0)
        for number_of_extent in range(read(2)):
            read(index_bytes if version else 0)
            offset, length = read(offset_bytes), read(length_bytes)
            if number_of_extent == 0 and method < 2 and at <= len(box):
                extents[number] = (base + offset, length)
        if at >= len(box):
            break
    return extents


def _references(box: bytes) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    width = 4 if box[:1] == b"\1" else 2
    for kind, at, size in walk(lambda offset, length: box[offset : offset + length], 4, len(box)):
        entry = box[at : at + size]
        count = int.from_bytes(entry[width : width + 2], "big")
        start = width + 2
        to = tuple(int.from_bytes(entry[k : k + width], "big") for k in range(start, start + count * width, width))
        yield kind, int.from_bytes(entry[:width], "big"), to


def _properties(box: bytes) -> dict[int, list[tuple[str, bytes]]]:
    def read(offset: int, size: int) -> bytes:
        return box[offset : offset + size]

    known: list[tuple[str, bytes]] = []
    by_item: dict[int, list[tuple[str, bytes]]] = {}
    for kind, at, size in walk(read, 0, len(box)):
        if kind == "ipco":
            known = [(name, read(start, length)) for name, start, length in walk(read, at, at + size)]
        elif kind == "ipma":
            entry = read(at, size)
            wide_item, wide_index = entry[0] > 0, entry[3] & 1
            count, place = int.from_bytes(entry[4:8], "big"), 8
            for _ in range(min(count, MAX_ITEMS)):
                width = 4 if wide_item else 2
                item = int.from_bytes(entry[place : place + width], "big")
                place += width
                associations, place = entry[place], place + 1
                for _ in range(associations):
                    index = int.from_bytes(entry[place : place + 1 + wide_index], "big")
                    place += 1 + wide_index
                    index &= 0x7FFF if wide_index else 0x7F
                    if 0 < index <= len(known):
                        by_item.setdefault(item, []).append(known[index - 1])
    return by_item


def size_of(items: Items) -> tuple[int, int] | None:
    """(width, height) of the main picture as stored; None if not stated."""
    for content in items.of_primary("ispe"):
        if len(content) >= 12:
            return struct.unpack(">II", content[4:12])
    return None


def check_color(items: Items, name: str, coded: tuple[int, int] | None = None) -> None:
    """Raises UnreadablePhotoError for HDR, and for a wide gamut without ICC profile, which would be read as sRGB.

    Args:
        items: items of the file.
        name: name of the format, for messages.
        coded: (primaries, transfer) in the coded picture, used if no box states them.
    """
    profiles = items.of_primary("colr")
    icc = any(content[:4] in (b"prof", b"rICC") for content in profiles)
    stated = [
        struct.unpack(">HH", content[4:8]) for content in profiles if content[:4] == b"nclx" and len(content) >= 10
    ]
    for primaries, transfer in stated or ([coded] if coded else []):
        check_transfer(transfer, name)
        if primaries not in (1, 2) and not icc:  # 1: those of sRGB, 2: unspecified
            raise UnreadablePhotoError(
                f"{name} of color primaries {primaries} without an ICC profile is not supported: convert it first"
            )


def stores_rgb(items: Items) -> bool:
    """Whether the main picture is coded as RGB (matrix 0 of ITU-T H.273) instead of luma and chroma."""
    return any(content[:4] == b"nclx" and content[8:10] == bytes(2) for content in items.of_primary("colr"))


def depth_of(items: Items) -> int:
    """Bits per sample of the main picture; 8 if not stated."""
    for content in items.of_primary("pixi"):
        if len(content) > 5:
            return content[5]
    for content in items.of_primary("av1C"):
        if len(content) > 2:
            high, twelve = bool(content[2] & 0x40), bool(content[2] & 0x20)  # high_bitdepth, twelve_bit
            return 8 + 2 * high * (1 + twelve)
    return 8


def subsampling_of(items: Items) -> str | None:
    """Chroma subsampling of the main picture: "4:4:4", "4:2:2", "4:2:0", or "4:0:0" for gray; None: not stated."""
    for content in items.of_primary("av1C"):
        if len(content) > 2:
            if content[2] & 0x10:  # monochrome
                return "4:0:0"
            return {0: "4:4:4", 0x08: "4:2:2", 0x0C: "4:2:0"}.get(content[2] & 0x0C)
    for content in items.of_primary("hvcC"):
        if len(content) > 16:
            return {0: "4:0:0", 1: "4:2:0", 2: "4:2:2", 3: "4:4:4"}[content[16] & 3]
    return None


def other_parts(items: Items) -> set[str]:
    """Descriptions of the parts of a file other than the main picture, its alpha channel, EXIF and XMP."""
    parts: set[str] = set()
    for kind, start, to in items.references:
        if kind == "thmb" and items.primary in to:
            parts.add("the thumbnail")
        elif kind == "auxl":
            urns = [
                content[4:].split(b"\0")[0].decode("latin-1")
                for name, content in items.properties.get(start, ())
                if name == "auxC"
            ]
            for urn in urns:
                parts |= set() if urn in ALPHA and items.primary in to else {_auxiliary(urn)}
        elif kind == "dimg" and items.types.get(start) == "tmap":
            parts.add("the gain map")
    linked = {number for _, number, _ in items.references} | {
        n for kind, _, to in items.references if kind == "dimg" for n in to
    }
    for number, kind in items.types.items():
        if number != items.primary and number not in linked and kind not in ("Exif", XMP_TYPE, "tmap"):
            parts.add("further pictures" if len(kind) == 4 and kind != "uri " else f"an item of {kind}")
    for kind, start_of_box in items.boxes:
        if kind == "moov":
            parts.add("the video or sequence")
        elif kind == "mpvd":
            parts.add("the video of a motion photo")
        elif kind == "uuid" and start_of_box == C2PA_UUID:
            parts.add("content credentials (C2PA)")
        elif kind not in ("ftyp", "meta", "mdat", "free", "skip", "wide", "idat"):
            parts.add(f"the box {kind}")
    return parts


def _auxiliary(urn: str) -> str:
    name = urn.lower()
    if "gainmap" in name:
        return "the gain map"
    if "depth" in name or "disparity" in name or urn.endswith("auxid:2"):
        return "the depth map"
    return f"an auxiliary picture ({urn.rpartition(':')[2] or 'unnamed'})"
