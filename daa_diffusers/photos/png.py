"""PNG: chunks beside the pixels, and 16 bits, of which Pillow would keep 8."""

import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import PngImagePlugin

from ..errors import UnreadablePhotoError
from . import by_pillow
from .exif import orientation_of
from .record import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import Metadata, StoredPhoto

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33  # signature and IHDR
XMP_KEYWORD = b"XML:com.adobe.xmp\0"
MAX_TEXT = 2**26  # bytes of a profile or a packet once it is decompressed
# What stays true of restored pixels; not sBIT, bKGD, hIST and tRNS, which speak of stored values or of a palette.
KEPT = frozenset(
    {"cICP", "mDCV", "cLLI", "cHRM", "gAMA", "sRGB", "iCCP", "pHYs", "eXIf", "tIME", "tEXt", "zTXt", "iTXt"}
)
_PICTURE = frozenset({"IHDR", "PLTE", "tRNS", "IDAT", "IEND"})


class Chunk(NamedTuple):
    """A chunk of a file: its name, its content, whether it is whole, and all its bytes.

    The checksum of a picture's own chunks is the decoder's matter.
    """

    name: str
    content: memoryview
    whole: bool
    stored: memoryview


def recognizes(source: Source) -> bool:
    """Whether a file is a PNG."""
    return source.read(0, 8) == SIGNATURE


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    return struct.unpack(">II", _header(source)[:8])


def _header(source: Source) -> bytes:
    start = source.read(0, HEADER_BYTES)
    if len(start) < HEADER_BYTES or start[12:16] != b"IHDR":
        raise UnreadablePhotoError("the PNG does not begin with its header (IHDR)")
    return start[16:29]


def read_chunks(source: Source) -> list[Chunk]:
    """All chunks up to the end of the picture; a truncated one is the last."""
    content, chunks, at = memoryview(source.content()), [], 8
    while at + 8 <= len(content):
        length, name = struct.unpack(">I", content[at : at + 4])[0], bytes(content[at + 4 : at + 8]).decode("latin-1")
        data = content[at + 8 : at + 8 + length]
        end = at + 12 + length
        whole = end <= len(content) and (name in _PICTURE or _checksum_is_right(content[at:end]))
        chunks.append(Chunk(name, data, whole, content[at:end]))
        if name == "IEND":
            break
        at = end
    return chunks


def _checksum_is_right(stored: memoryview) -> bool:
    return zlib.crc32(stored[4:-4]) == int.from_bytes(stored[-4:], "big")


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """The picture, or the default picture of an animation."""
    header = _header(source)
    check(*struct.unpack(">II", header[:8]))
    chunks = read_chunks(source)
    notes: list[str] = []
    if any(chunk.name == "acTL" for chunk in chunks):
        notes.append("only the first frame of the animation is kept")
    if header[8] == 16:
        pixels, alpha = _deep(chunks)
    else:
        with by_pillow.opened(PngImagePlugin.PngImageFile, io.BytesIO(_picture(chunks))) as image:
            pixels, alpha, converted = by_pillow.pixels_of(image)
        notes += converted
    metadata = _metadata(chunks, notes)
    return StoredPhoto(pixels, alpha, "PNG", orientation_of(metadata.exif), metadata, notes=tuple(notes))


def _picture(chunks: list[Chunk], without: frozenset[str] = frozenset()) -> bytes:
    """A file of the picture's own chunks: what is wrong with others is nothing to the decoder."""
    return b"".join([SIGNATURE, *(chunk.stored for chunk in chunks if chunk.name in _PICTURE - without)])


def _deep(chunks: list[Chunk]) -> tuple[np.ndarray, np.ndarray | None]:
    """Colors (H, W, 1 or 3) and alpha (H, W) or None, uint16."""
    import imagecodecs

    for chunk in chunks:  # imagecodecs does not mind wrong checksums
        if chunk.name in _PICTURE and not (chunk.whole and _checksum_is_right(chunk.stored)):
            raise UnreadablePhotoError(f"the checksum of a chunk {chunk.name} is wrong")
    values = imagecodecs.png_decode(_picture(chunks))
    if values.dtype != np.uint16:
        raise UnreadablePhotoError(f"a PNG of 16 bits that is decoded as {values.dtype}")
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] in (1, 3):
        return values, None
    return np.ascontiguousarray(values[..., :-1]), np.ascontiguousarray(values[..., -1])


def _metadata(chunks: list[Chunk], notes: list[str]) -> Metadata:
    exif = xmp = icc = dpi = None
    blocks = []
    for name, view, _, _ in chunks:
        if name not in KEPT:
            continue
        content = bytes(view)
        if name == "eXIf":
            exif = exif or content.removeprefix(b"Exif\0\0") or None
        elif name == "iCCP":
            icc = icc or _profile(content)
        elif name == "iTXt" and content.startswith(XMP_KEYWORD):
            xmp = xmp or _packet(content)
        else:
            blocks.append((name, content))
        if name == "pHYs" and len(content) == 9 and content[8] == 1:
            x, y = struct.unpack(">II", content[:8])
            dpi = (x * 0.0254, y * 0.0254) if x and y else None
    return Metadata(exif, xmp, icc, dpi, tuple(blocks))


def _profile(content: bytes) -> bytes | None:
    return _inflated(content.partition(b"\0")[2][1:])


def _packet(content: bytes) -> bytes | None:
    compressed = content[len(XMP_KEYWORD) : len(XMP_KEYWORD) + 1] == b"\1"
    text = content[len(XMP_KEYWORD) + 2 :].split(b"\0", 2)[-1]  # behind language and translated keyword
    return _inflated(text) if compressed else text


def _inflated(content: bytes) -> bytes | None:
    """None where it is damaged, or larger than anything that is meant."""
    inflating = zlib.decompressobj()
    try:
        result = inflating.decompress(content, MAX_TEXT)
    except zlib.error:
        return None
    return result if inflating.eof else None


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a PNG of 8 or 16 bits, as the pixels are."""
    import imagecodecs

    values = pixels if alpha is None else np.dstack([pixels, alpha])
    if values.shape[2] == 1:
        values = values[..., 0]
    content = memoryview(imagecodecs.png_encode(np.ascontiguousarray(values)))
    chunks = b"".join(_chunk(name, data) for name, data in _new_chunks(photo.metadata, photo.format == "PNG"))
    write_pieces(path, [content[:HEADER_BYTES], chunks, content[HEADER_BYTES:]])
    return []


def _new_chunks(metadata: Metadata, own: bool) -> list[tuple[str, bytes]]:
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


FORMAT = PhotoFormat("png", (".png",), recognizes, read, size, write, depths=(8, 16))
