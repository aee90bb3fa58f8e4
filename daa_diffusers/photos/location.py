"""Removal of the location from a photo's metadata."""

import re
from dataclasses import replace

from .exif_edits import without_gps
from .stored import Metadata
from .xmp import without_names

MAX_SEARCHED = 2**20  # bytes; larger XMP packets are left out
# Property names in the XMP schemas exif, photoshop, Iptc4xmpCore and Iptc4xmpExt; writers may choose any prefix.
_PLACES = (
    r"(?:GPS\w*|City|State|Country|CountryCode|CountryName|Location|Sublocation|ProvinceState|WorldRegion"
    r"|LocationCreated|LocationShown|LocationId|LocationName)"
)
_PLACE_NAME = re.compile(rf"[\w.-]+:{_PLACES}\b")


def without_location(metadata: Metadata) -> tuple[Metadata, list[str]]:
    """Removes GPS and place names from metadata; also returns notes on what else was removed.

    The GPS directory of EXIF and the place names in XMP are removed. IPTC and similar blocks, which may contain place
    names, are removed completely. Maker notes are not searched.
    """
    notes = []
    exif, xmp = metadata.exif, metadata.xmp
    if exif is not None:
        exif = without_gps(exif)
        if exif is None:
            notes.append("EXIF is damaged and left out, because it might hold a location")
    if xmp is not None:
        xmp = _xmp_without_places(xmp)
        if xmp is None:
            notes.append("XMP is left out, because its location cannot be separated")
    kept = tuple(block for block in metadata.blocks if not _may_hold_places(*block))
    if len(kept) < len(metadata.blocks):
        notes.append("IPTC, extended XMP and similar blocks are left out, because they may hold a location")
    return replace(metadata, exif=exif, xmp=xmp, blocks=kept), notes


def _may_hold_places(name: str, content: bytes) -> bool:
    """Whether a block of `Metadata.blocks` may hold a location: unknown ones may."""
    if name in ("APP0", "APP14", "COM"):
        return False
    if name.startswith("APP"):
        return True
    if name in ("tEXt", "zTXt", "iTXt"):
        return content.lower().startswith((b"raw profile type", b"gps", b"location"))
    return name not in ("cICP", "mDCV", "cLLI", "cHRM", "gAMA", "sRGB", "pHYs", "tIME")


def _xmp_without_places(xmp: bytes) -> bytes | None:
    """Removes place names from an XMP packet; None if they cannot be separated from the rest."""
    if len(xmp) > MAX_SEARCHED:
        return None
    try:
        text = xmp.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not _PLACE_NAME.search(text):
        return xmp
    edited = without_names(text, rf"[\w.-]+:{_PLACES}")
    return None if edited is None or _PLACE_NAME.search(edited) else edited.encode("utf-8")
