"""PNG: chunks beside the pixels, and 16 bits, of which Pillow would keep 8."""

import struct
import zlib
from pathlib import Path

import numpy as np

from ..errors import UnreadablePhotoError
from .stored import Metadata, StoredPhoto

HEADER_BYTES = 33  # signature and IHDR
XMP_KEYWORD = b"XML:com.adobe.xmp\0"
MAX_CHUNK = 2**26
# What stays true of restored pixels; not sBIT, bKGD, hIST and tRNS, which speak of stored values or of a palette.
KEPT = frozenset(
    {"cICP", "mDCV", "cLLI", "cHRM", "gAMA", "sRGB", "iCCP", "pHYs", "eXIf", "tIME", "tEXt", "zTXt", "iTXt"}
)


def bit_depth(path: Path) -> int:
    """Bits per sample of a PNG file."""
    with open(path, "rb") as file:
        return file.read(HEADER_BYTES)[24]


def read_chunks(path: Path) -> list[tuple[str, bytes]]:
    """(name, content) of the chunks of `KEPT`, in their order; broken ones end the list."""
    chunks: list[tuple[str, bytes]] = []
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I", head[:4])[0], head[4:].decode("latin-1")
            if name not in KEPT:
                file.seek(length + 4, 1)
                continue
            if length > MAX_CHUNK or len(content := file.read(length)) < length:
                break
            file.seek(4, 1)
            chunks.append((name, content))
    return chunks


def metadata_of(chunks: list[tuple[str, bytes]], found: Metadata) -> Metadata:
    """`found` (by Pillow) with the chunks that hold none of it as blocks."""
    blocks = tuple(
        (name, content)
        for name, content in chunks
        if name not in ("iCCP", "eXIf") and not content.startswith(XMP_KEYWORD)
    )
    exif = next((content for name, content in chunks if name == "eXIf"), None)
    return Metadata(exif.removeprefix(b"Exif\0\0") if exif else found.exif, found.xmp, found.icc, found.dpi, blocks)


def decode_deep(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W, 1 or 3) and alpha (H, W) or None, uint16, of a whole file."""
    import imagecodecs

    values = imagecodecs.png_decode(content)
    if values.dtype != np.uint16:
        raise UnreadablePhotoError(f"a PNG of 16 bits that is decoded as {values.dtype}")
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] in (1, 3):
        return values, None
    return np.ascontiguousarray(values[..., :-1]), np.ascontiguousarray(values[..., -1])


def encode(photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None) -> list[bytes | memoryview]:
    """A PNG file in pieces; pixels (H, W, 1 or 3) and alpha (H, W) of uint8 or uint16."""
    import imagecodecs

    values = pixels if alpha is None else np.dstack([pixels, alpha])
    if values.shape[2] == 1:
        values = values[..., 0]
    content = memoryview(imagecodecs.png_encode(np.ascontiguousarray(values)))
    chunks = b"".join(_chunk(name, data) for name, data in _chunks(photo.metadata, photo.format == "PNG"))
    return [content[:HEADER_BYTES], chunks, content[HEADER_BYTES:]]


def _chunks(metadata: Metadata, own: bool) -> list[tuple[str, bytes]]:
    chunks = list(metadata.blocks) if own else []
    names = {name for name, _ in chunks}
    if metadata.icc:
        chunks = [(name, content) for name, content in chunks if name != "sRGB"]  # one or the other
        chunks.append(("iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi and "pHYs" not in names:
        x, y = (round(one / 0.0254) for one in metadata.dpi)
        chunks.append(("pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif:
        chunks.append(("eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append(("iTXt", XMP_KEYWORD + b"\0\0\0\0" + metadata.xmp))
    return chunks


def _chunk(name: str, content: bytes) -> bytes:
    body = name.encode("latin-1") + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
