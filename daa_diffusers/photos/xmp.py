"""Removal of properties from XMP packets by name; the rest is kept byte for byte."""

import re
from collections.abc import Mapping

MAX_EDITED = 2**22  # bytes; larger packets are not edited
MAX_PREFIXES = 8  # per namespace; usually one
ANY = r"[\w.-]+"  # name of any property
TIFF_NAMESPACE = "http://ns.adobe.com/tiff/1.0/"
OTHER_RENDERING = b"http://ns.google.com/photos/1.0/image/"
# Namespace -> properties (None: all) that describe other parts of a file, such as a video or a gain map, which are not
# saved.
OF_OTHER_PARTS: dict[str, str | None] = {
    "http://ns.google.com/photos/1.0/camera/": r"(?:MotionPhoto|MicroVideo)\w*",
    "http://ns.google.com/photos/1.0/container/": None,
    "http://ns.google.com/photos/1.0/container/item/": None,
    "http://ns.google.com/photos/1.0/image/": None,  # another rendering of the photo, in the extended packet
    "http://ns.google.com/photos/dd/1.0/device/": None,  # dynamic depth: its maps follow the picture
    "http://ns.google.com/photos/dd/1.0/container/": None,
    "http://ns.google.com/photos/dd/1.0/item/": None,
    "http://ns.xiaomi.com/photos/1.0/camera/": "XMPMeta",  # offsets of pictures after the first one
    "http://ns.oplus.com/photos/1.0/camera/": r"(?:MotionPhoto|OLivePhoto|VideoLength)\w*",
    "http://ns.adobe.com/hdr-gain-map/1.0/": None,
    "http://ns.apple.com/HDRGainMap/1.0/": None,
    "http://ns.apple.com/pixeldatainfo/1.0/": None,
    "http://ns.adobe.com/xap/1.0/": "Thumbnails",
    "http://ns.adobe.com/photoshop/1.0/": "TextLayers",
    "http://purl.org/dc/terms/": "provenance",  # location of C2PA claims
}
# Properties that refer to a JPEG's extended packet, or have values in it.
OF_EXTENDED: dict[str, str | None] = {
    "http://ns.adobe.com/xmp/note/": "HasExtendedXMP",
    "http://ns.google.com/photos/1.0/depthmap/": None,
    "http://ns.google.com/photos/1.0/audio/": None,
}
ORIENTATION: dict[str, str | None] = {TIFF_NAMESPACE: "Orientation"}


def without(packet: bytes, properties: Mapping[str, str | None]) -> bytes | None:
    """Removes properties from a packet; None if they cannot be separated from the rest.

    Args:
        packet: XMP packet, in an encoding compatible with ASCII.
        properties: namespace -> regular expression for the names to remove, or None for all.
    """
    if len(packet) > MAX_EDITED:
        return None
    text = packet.decode("latin-1")  # one character per byte, which keeps any encoding
    for namespace, names in properties.items():
        prefixes = set(re.findall(rf"""xmlns:([\w.-]+)\s*=\s*["']{re.escape(namespace)}["']""", text))
        if len(prefixes) > MAX_PREFIXES:
            return None
        for prefix in prefixes:
            edited = without_names(text, f"{re.escape(prefix)}:(?:{names or ANY})")
            if edited is None:
                return None
            text = edited
            if not re.search(rf"[\s</]{re.escape(prefix)}:", text):
                text = re.sub(rf"""\sxmlns:{re.escape(prefix)}\s*=\s*(?:"[^"]*"|'[^']*')""", "", text)
    return text.encode("latin-1")


def without_names(text: str, names: str) -> str | None:
    """Removes attributes and elements by name from a packet; None if they cannot be separated from the rest.

    Args:
        text: text of the packet.
        names: regular expression for qualified names.
    """
    text = re.sub(rf"""\s{names}\s*=\s*(?:"[^"]*"|'[^']*')""", "", text)
    edited = _without_elements(text, re.compile(rf"<({names})(?=[\s/>])[^<>]*>"))
    return None if edited is None or re.search(rf"[\s<]{names}\s*=", edited) else edited


def _without_elements(text: str, start: re.Pattern[str]) -> str | None:
    """Removes the elements that match `start`; None if one has no end."""
    parts, at = [], 0
    while (match := start.search(text, at)) is not None:
        parts.append(text[at : match.start()])
        at = match.end()
        if not match[0].endswith("/>"):
            close = text.find(f"</{match[1]}>", at)
            if close < 0:
                return None
            at = close + len(match[1]) + 3
    return "".join([*parts, text[at:]])
