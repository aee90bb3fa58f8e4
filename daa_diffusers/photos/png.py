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
from .color import PQ, check_transfer
from .exif import orientation_of
from .failures import damaged, truncated
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import METERS_PER_INCH, Metadata, StoredPhoto

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33  # signature (8 bytes) and the chunk IHDR
GRAY, RGB, RGBA = 0, 2, 6  # color types
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
    is_intact: bool
    stored: memoryview


def recognizes(source: Source) -> bool:
    """Whether a file is a PNG file."""
    return source.read(0, 8) == SIGNATURE


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    width, height, *_ = _header(source)
    return width, height


def _header(source: Source) -> tuple[int, ...]:
    """Fields of IHDR: width, height, bits per sample, color type, compression, filters, whether interlaced."""
    start = source.read(0, HEADER_BYTES)
    if len(start) < HEADER_BYTES or start[12:16] != b"IHDR":
        raise UnreadablePhotoError("the PNG does not start with its header (IHDR)")
    return struct.unpack(">IIBBBBB", start[16:29])


def read_chunks(source: Source) -> list[Chunk]:
    """All chunks up to IEND; the last one may be truncated."""
    file, chunks, at = memoryview(source.content()), [], len(SIGNATURE)
    while at + 8 <= len(file):  # a chunk: length and name (4 bytes each), content, checksum of name and content (4)
        length, name = int.from_bytes(file[at : at + 4]), bytes(file[at + 4 : at + 8]).decode("latin-1")
        end = at + 12 + length
        is_intact = end <= len(file) and zlib.crc32(file[at + 4 : end - 4]) == int.from_bytes(file[end - 4 : end])
        chunks.append(Chunk(name, file[at + 8 : at + 8 + length], is_intact, file[at:end]))
        if name == "IEND":
            break
        at = end
    return chunks


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads the picture, or the default one of an animation; raises UnreadablePhotoError if it is damaged or HDR."""
    width, height, bits, color, _, _, interlaced = _header(source)
    check(width, height)
    chunks = read_chunks(source)
    if any(chunk.name == "CgBI" for chunk in chunks):
        raise UnreadablePhotoError("it is Apple's variant of PNG (CgBI), not a PNG: export it again")
    parts = _parts(chunks, color)
    if after := source.size - len(SIGNATURE) - sum(len(chunk.stored) for chunk in chunks):
        parts.add(f"{after} bytes after the picture")
    notes = left_out(parts)
    if interlaced:
        notes.append("interlaced became sequential")
    for chunk in chunks:
        if chunk.name in _PICTURE and not chunk.is_intact:  # not checked by all decoders
            ends_early = len(chunk.stored) < 12 + int.from_bytes(chunk.stored[:4])
            raise UnreadablePhotoError(truncated("PNG") if ends_early else damaged("PNG"))
        if chunk.name == "cICP" and len(chunk.content) == 4:
            check_transfer(chunk.content[1], "PNG")
        elif chunk.name == "iCCP" and bytes(chunk.content[:18]) == b"ITUR_2100_PQ_FULL\0":  # W3C's note on HDR in PNG
            check_transfer(PQ, "PNG")
    if bits == 16:
        pixels, alpha = _decode_16_bits(chunks)
        if alpha is not None and color in (GRAY, RGB):
            notes.append(TRANSPARENT)
    else:
        with PngImagePlugin.PngImageFile(io.BytesIO(_picture(chunks))) as image:
            pixels, alpha, converted = by_pillow.pixels_of(image)
        notes += converted
        if bits in (2, 4) and color == GRAY:
            notes.append(f"{bits} bits per sample became 8")
    metadata = _metadata(chunks, notes)
    return StoredPhoto(pixels, alpha, "PNG", orientation_of(metadata.exif), metadata, notes=tuple(notes))


def _parts(chunks: list[Chunk], color: int) -> set[str]:
    """Descriptions of the parts of a file that are not saved."""
    names = {chunk.name for chunk in chunks}
    left_out_names = {name for name in names - _PICTURE - _CODING if not _is_kept(name)}
    parts = {_LEFT_OUT.get(name, f"the chunk {name}") for name in left_out_names}
    return parts | ({"a suggested palette"} if color in (RGB, RGBA) and "PLTE" in names else set())


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
    content = next((bytes(chunk.content) for chunk in chunks if chunk.name == "tRNS"), b"")
    if len(content) != 2 * values.shape[2]:
        return values, None
    transparent = np.frombuffer(content, ">u2").astype(np.uint16)  # the only color that is transparent
    return values, np.where((values == transparent).all(axis=2), 0, 65535).astype(np.uint16)


def _metadata(chunks: list[Chunk], notes: list[str]) -> Metadata:
    """Metadata in the kept chunks; damaged chunks are read as far as possible, with a note."""
    exif = xmp = icc = dpi = None
    blocks = []
    for name, view, is_intact, _ in chunks:
        if not _is_kept(name):
            continue
        content = bytes(view)
        if not is_intact:
            notes.append(f"the chunk {name} is damaged (wrong checksum or length)")
        if name == "eXIf" and exif is None:
            exif = content.removeprefix(b"Exif\0\0") or None
        elif name == "iCCP" and icc is None:
            icc = _inflated(content.partition(b"\0")[2][1:])  # after name and compression method
            notes += [] if icc else ["the color profile is damaged and left out"]
        elif name == "iTXt" and content.startswith(XMP_KEYWORD) and xmp is None:
            xmp = _packet(content)
            notes += [] if xmp else ["XMP is damaged and left out"]
        else:
            blocks.append((name, content))
        if name == "pHYs" and len(content) == 9 and content[8] == 1:  # pixels per meter
            x, y = struct.unpack(">II", content[:8])
            dpi = (x * METERS_PER_INCH, y * METERS_PER_INCH) if x and y else None
    return Metadata(exif, xmp, icc, dpi, tuple(blocks))


def _packet(content: bytes) -> bytes | None:
    """XMP packet in an iTXt chunk: keyword, whether compressed, method, language, translated keyword, text."""
    compressed = content[len(XMP_KEYWORD) : len(XMP_KEYWORD) + 1] == b"\1"
    text = content[len(XMP_KEYWORD) + 2 :].split(b"\0", 2)[-1]
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


def _new_chunks(metadata: Metadata, was_png: bool) -> list[tuple[str, bytes]]:
    """(name, content) of the metadata chunks; `blocks` are those of a PNG file if `was_png`."""
    chunks = list(metadata.blocks) if was_png else []
    names = {name for name, _ in chunks}
    if metadata.icc:
        chunks = [(name, content) for name, content in chunks if name != "sRGB"]  # a file has either of them
        chunks.append(("iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi and "pHYs" not in names:
        x, y = (round(dpi / METERS_PER_INCH) for dpi in metadata.dpi)
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
