"""PNG format (8 and 16 bits) with its metadata chunks. 16 bits are decoded by imagecodecs: Pillow reads RGB as 8."""

import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import PngImagePlugin

from ..errors import UnreadablePhotoError
from . import by_pillow
from .by_pillow import TRANSPARENT
from .color import check_transfer
from .exif import orientation_of
from .failures import damaged, truncated
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import Metadata, StoredPhoto

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33  # signature and IHDR
XMP_KEYWORD = b"XML:com.adobe.xmp\0"
MAX_TEXT = 2**26  # maximum bytes of a decompressed profile or packet
# Chunks that stay valid for restored pixels; not sBIT, bKGD, hIST and tRNS, which refer to stored values or a palette.
KEPT = frozenset(
    {"cICP", "mDCV", "cLLI", "cHRM", "gAMA", "sRGB", "iCCP", "pHYs", "eXIf", "tIME", "tEXt", "zTXt", "iTXt"}
)
_PICTURE = frozenset({"IHDR", "PLTE", "tRNS", "IDAT", "IEND"})
_CODING = frozenset({"iDOT"})  # chunks about the coding of the original file
_LEFT_OUT = {"caBX": "content credentials (C2PA)"} | dict.fromkeys(("acTL", "fcTL", "fdAT"), "further frames")


class Chunk(NamedTuple):
    """Chunk of a file: name, content, whether length and checksum are correct, and all bytes."""

    name: str
    content: memoryview
    whole: bool
    stored: memoryview


def recognizes(source: Source) -> bool:
    """Whether a file is a PNG file."""
    return source.read(0, 8) == SIGNATURE


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    return struct.unpack(">II", _header(source)[:8])


def _header(source: Source) -> bytes:
    start = source.read(0, HEADER_BYTES)
    if len(start) < HEADER_BYTES or start[12:16] != b"IHDR":
        raise UnreadablePhotoError("the PNG does not start with its header (IHDR)")
    return start[16:29]


def read_chunks(source: Source) -> list[Chunk]:
    """All chunks up to IEND; the last one may be truncated."""
    content, chunks, at = memoryview(source.content()), [], 8
    while at + 8 <= len(content):
        length, name = struct.unpack(">I", content[at : at + 4])[0], bytes(content[at + 4 : at + 8]).decode("latin-1")
        data = content[at + 8 : at + 8 + length]
        end = at + 12 + length
        whole = end <= len(content) and zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end])
        chunks.append(Chunk(name, data, whole, content[at:end]))
        if name == "IEND":
            break
        at = end
    return chunks


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads the picture, or the default picture of an animation.

    Raises:
        UnreadablePhotoError: damaged file, or HDR (PQ or HLG).
    """
    header = _header(source)
    check(*struct.unpack(">II", header[:8]))
    chunks = read_chunks(source)
    bits, color, interlaced = header[8], header[9], header[12]
    parts = _parts(chunks, color)
    if after := source.size - 8 - sum(len(chunk.stored) for chunk in chunks):
        parts.add(f"{after} bytes after the picture")
    notes = left_out(parts)
    if interlaced:
        notes.append("interlaced became sequential")
    for chunk in chunks:
        if chunk.name in _PICTURE and not chunk.whole:  # not checked by all decoders
            ends_early = len(chunk.stored) < 12 + int.from_bytes(chunk.stored[:4])
            raise UnreadablePhotoError(truncated("PNG") if ends_early else damaged("PNG"))
        if chunk.name == "cICP" and len(chunk.content) == 4:
            check_transfer(chunk.content[1], "PNG")
        elif chunk.name == "iCCP" and bytes(chunk.content[:18]) == b"ITUR_2100_PQ_FULL\0":  # W3C's note on HDR in PNG
            check_transfer(16, "PNG")
    if bits == 16:
        pixels, alpha = _decode_16_bits(chunks)
        if alpha is not None and color in (0, 2):
            notes.append(TRANSPARENT)
    else:
        with by_pillow.opened(PngImagePlugin.PngImageFile, io.BytesIO(_picture(chunks))) as image:
            pixels, alpha, converted = by_pillow.pixels_of(image)
        notes += converted
        if bits in (2, 4) and color == 0:
            notes.append(f"{bits} bits per sample became 8")
    metadata = _metadata(chunks, notes)
    return StoredPhoto(pixels, alpha, "PNG", orientation_of(metadata.exif), metadata, notes=tuple(notes))


def _parts(chunks: list[Chunk], color: int) -> set[str]:
    """Descriptions of the parts of a file that are not saved."""
    parts = {
        _LEFT_OUT.get(one.name, f"the chunk {one.name}")
        for one in chunks
        if not _is_kept(one.name) and one.name not in _PICTURE | _CODING
    }
    if color in (2, 6) and any(chunk.name == "PLTE" for chunk in chunks):
        parts.add("a suggested palette")
    if "CgBI" in (chunk.name for chunk in chunks):
        raise UnreadablePhotoError("it is Apple's variant of PNG (CgBI), not a PNG: export it again")
    return parts


def _is_kept(name: str) -> bool:
    """Whether a chunk stays valid for new pixels: a known one, or one marked as safe to copy."""
    return name in KEPT or (name[:1].islower() and name[3:].islower())


def _picture(chunks: list[Chunk], without: frozenset[str] = frozenset()) -> bytes:
    """A PNG file with the chunks of the picture only, so that damage in other chunks does not stop the decoder."""
    return b"".join([SIGNATURE, *(chunk.stored for chunk in chunks if chunk.name in _PICTURE - without)])


def _decode_16_bits(chunks: list[Chunk]) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes colors (H, W, 1 or 3) and alpha (H, W) or None, uint16."""
    import imagecodecs

    values = imagecodecs.png_decode(_picture(chunks, frozenset({"tRNS"})))
    if values.dtype != np.uint16:
        raise UnreadablePhotoError(f"a 16-bit PNG was decoded as {values.dtype}")
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] in (2, 4):
        return np.ascontiguousarray(values[..., :-1]), np.ascontiguousarray(values[..., -1])
    transparent = next((bytes(one.content) for one in chunks if one.name == "tRNS"), b"")
    if len(transparent) != 2 * values.shape[2]:
        return values, None
    key = np.frombuffer(transparent, ">u2").astype(np.uint16)
    return values, np.where((values == key).all(axis=2), 0, 65535).astype(np.uint16)


def _metadata(chunks: list[Chunk], notes: list[str]) -> Metadata:
    """Metadata in the kept chunks; damaged chunks are read as far as possible, with a note."""
    exif = xmp = icc = dpi = None
    blocks = []
    for name, view, whole, _ in chunks:
        if not _is_kept(name):
            continue
        content = bytes(view)
        if not whole:
            notes.append(f"the chunk {name} is damaged (wrong checksum or length)")
        if name == "eXIf" and exif is None:
            exif = content.removeprefix(b"Exif\0\0") or None
        elif name == "iCCP" and icc is None:
            icc = _profile(content)
            notes += [] if icc else ["the color profile is damaged and left out"]
        elif name == "iTXt" and content.startswith(XMP_KEYWORD) and xmp is None:
            xmp = _packet(content)
            notes += [] if xmp else ["XMP is damaged and left out"]
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
    text = content[len(XMP_KEYWORD) + 2 :].split(b"\0", 2)[-1]  # after language and translated keyword
    return _inflated(text) if compressed else text


def _inflated(content: bytes) -> bytes | None:
    """Decompresses `content`; None if it is damaged, or larger than `MAX_TEXT`."""
    inflating = zlib.decompressobj()
    try:
        result = inflating.decompress(content, MAX_TEXT)
    except zlib.error:
        return None
    return result if inflating.eof else None


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a PNG file in the bit depth of the pixels, 8 or 16."""
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
        chunks = [(name, content) for name, content in chunks if name != "sRGB"]  # a file has either of them
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
