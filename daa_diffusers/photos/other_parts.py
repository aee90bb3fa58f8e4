"""Removal of metadata about parts of a file that are not saved: previews, videos, gain maps, content credentials."""

from collections.abc import Iterable
from dataclasses import replace

from . import xmp
from .exif_edits import without_thumbnail
from .stored import Metadata

EXTENDED_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
PHOTOSHOP_HEADER = b"Photoshop 3.0\0"
_THUMBNAILS = (1033, 1036)  # Photoshop image resources with thumbnails of the unrestored photo


def left_out(parts: set[str]) -> list[str]:
    """One note on the parts of a file that are left out; none without parts."""
    return [f"left out: {', '.join(sorted(parts))}"] if parts else []


def merged(notes: Iterable[str]) -> tuple[str, ...]:
    """Removes duplicate notes, and joins those of `left_out`."""
    parts: set[str] = set()
    others: dict[str, None] = {}  # a set that keeps the order
    for note in notes:
        if note.startswith("left out: "):
            parts |= set(note.removeprefix("left out: ").split(", "))
        else:
            others[note] = None
    return (*left_out(parts), *others)


def without_other_parts(metadata: Metadata) -> tuple[Metadata, list[str]]:
    """Removes thumbnails and descriptions of other parts of a file from metadata; also returns notes."""
    parts: set[str] = set()
    notes = []
    exif, packet, blocks = metadata.exif, metadata.xmp, []
    if exif is not None:
        exif, had_thumbnail = without_thumbnail(exif)
        parts |= {"the thumbnail"} if had_thumbnail else set()
    for name, content in metadata.blocks:
        kept = content
        if name in ("APP13", "34377"):  # Photoshop's image resources in JPEG and TIFF files
            kept = without_photoshop_thumbnails(content)
        parts |= {"the thumbnail"} if kept != content else set()
        blocks.append((name, kept))
    if xmp.OTHER_RENDERING in _extended(blocks):
        blocks = [block for block in blocks if not block[1].startswith(EXTENDED_HEADER)]
        parts.add("another rendering of the photo (extended XMP)")
    if packet is not None:
        changed = xmp.without(packet, xmp.OF_OTHER_PARTS)
        if changed is None:
            notes.append("XMP is left out, because descriptions of parts that are left out cannot be removed from it")
        elif changed != packet:
            notes.append("XMP no longer describes parts that are left out")
        packet = changed
    return replace(metadata, exif=exif, xmp=packet, blocks=tuple(blocks)), left_out(parts) + notes


def _extended(blocks: list[tuple[str, bytes]]) -> bytes:
    """The extended XMP packet of a JPEG file.

    Each of its segments has the digest and the length of the packet, and a part of it with the offset of the part.
    """
    start = len(EXTENDED_HEADER) + 32 + 4  # digest of 32 bytes, length and offset of 4 bytes each
    parts = [content[start:] for _, content in blocks if content.startswith(EXTENDED_HEADER)]
    return b"".join(part[4:] for part in sorted(parts))  # by offset


def without_lost_extension(metadata: Metadata, saves_blocks: bool) -> Metadata:
    """Removes the reference to an extended packet from XMP if that packet, one of `metadata.blocks`, is not saved."""
    is_saved = saves_blocks and any(content.startswith(EXTENDED_HEADER) for _, content in metadata.blocks)
    if metadata.xmp is None or is_saved:
        return metadata
    return replace(metadata, xmp=xmp.without(metadata.xmp, xmp.OF_EXTENDED))


def without_photoshop_thumbnails(block: bytes) -> bytes:
    """Removes thumbnails from Photoshop image resources; other blocks are returned unchanged."""
    header = PHOTOSHOP_HEADER if block.startswith(PHOTOSHOP_HEADER) else b""
    kept, at = [header], len(header)
    # a resource: "8BIM", ID (2 bytes), name after its length (1), size (4), data; name and data of even length
    while block[at : at + 4] == b"8BIM" and at + 12 <= len(block):
        name_bytes = 1 + block[at + 6]
        size_at = at + 6 + name_bytes + name_bytes % 2
        size = int.from_bytes(block[size_at : size_at + 4], "big")
        end = size_at + 4 + size + size % 2
        if int.from_bytes(block[at + 4 : at + 6], "big") not in _THUMBNAILS:
            kept.append(block[at:end])
        at = end
    return b"".join([*kept, block[at:]])
