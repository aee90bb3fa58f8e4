"""JPEG format; the quantization tables, subsampling and segments of the original file are kept."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

from ..errors import UnreadablePhotoError
from . import by_pillow
from .exif import orientation_of
from .failures import truncated
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import Encoding, Metadata, StoredPhoto

DEFAULT_QUALITY = 95
MAX_SCANS = 500  # progressive files have about 10; malicious ones thousands, each as slow as the decoding of a photo
SEGMENT_BYTES = 65533  # maximum content of a segment: its length, in 16 bits, includes the 2 bytes of the length field
EXIF_HEADER = b"Exif\0\0"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
ICC_HEADER = b"ICC_PROFILE\0"
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # options of Pillow's encoder
# Ratio of the sampling factors of luma and chroma (horizontal, vertical) -> name.
_SAMPLING_NAMES = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0"}
SIGNATURE = b"\xff\xd8\xff"  # start of image, and the first byte of the next marker
SOS, EOI, APP0, COM = 0xDA, 0xD9, 0xE0, 0xFE  # markers: start of scan, end of image, first application segment, comment
# Markers of frame headers; those left out are Huffman tables, reserved, and arithmetic coding.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# A marker within coded data; not stuffed bytes, restart markers or fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def recognizes(source: Source) -> bool:
    """Whether a file is a JPEG file."""
    return source.read(0, 3) == SIGNATURE


def segments(source: Source) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, offset of the content, size of the content) of the segments before the coded data."""
    at = 2
    while len(head := source.read(at, 4)) == 4 and head[0] == 0xFF:
        if head[1] in (0xFF, 0x01) or 0xD0 <= head[1] <= 0xD8:  # fill bytes, and markers without content
            at += 1 if head[1] == 0xFF else 2
            continue
        length = int.from_bytes(head[2:], "big")
        yield head[1], at + 4, length - 2
        if head[1] in (SOS, EOI) or length < 2:
            return
        at += 2 + length


def _frame(source: Source) -> tuple[int, int, int]:
    """(bits per sample, width, height) of the first picture."""
    for marker, at, _ in segments(source):
        if marker in _FRAMES:
            start = source.read(at, 5)
            return start[0], int.from_bytes(start[3:5], "big"), int.from_bytes(start[1:3], "big")
    raise UnreadablePhotoError(truncated("JPEG"))


def size(source: Source) -> tuple[int, int]:
    """(width, height) as stored."""
    return _frame(source)[1:]


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads the first picture as stored; CMYK is converted to sRGB."""
    bits, width, height = _frame(source)
    check(width, height)
    if bits != 8:
        raise UnreadablePhotoError(
            f"a JPEG of {bits} bits per sample is not supported: export it as 16-bit PNG or TIFF"
        )
    with JpegImagePlugin.JpegImageFile(source.stream()) as image:
        check(*image.size)  # Pillow may find another size than `_frame`
        content = source.content()
        parts = _parts_after(content, end_of_picture(content))
        blocks, segments_left_out = _blocks(image)
        notes = left_out(parts | segments_left_out)
        metadata, encoding = by_pillow.metadata_of(image, blocks), encoding_of(image)
        pixels, alpha, converted = by_pillow.pixels_of(image, metadata.icc)
        has_icc = any(segment.startswith(ICC_HEADER) for _, segment in image.applist)  # type: ignore[attr-defined]
        if metadata.icc is None and has_icc:
            notes.append("the color profile is damaged and left out")
        if image.mode == "CMYK":
            metadata = replace(metadata, icc=by_pillow.srgb_profile())
            encoding = Encoding()
    return StoredPhoto(pixels, alpha, "JPEG", orientation_of(metadata.exif), metadata, encoding, (*notes, *converted))


def end_of_picture(content: bytes, start: int = 0) -> int:
    """Offset of the end of the first JPEG picture from `start` on; that of `content` if there is no end marker.

    Raises:
        UnreadablePhotoError: more than `MAX_SCANS` scans.
    """
    with Source("", content[start:] if start else content) as source:
        at = next((at + length for marker, at, length in segments(source) if marker == SOS), source.size) + start
    scans = 1
    while (match := _MARKER.search(content, at)) is not None:
        marker, at = content[match.start() + 1], match.end()
        if marker == EOI:
            return at
        at += int.from_bytes(content[at : at + 2], "big")
        scans += marker == SOS
        if scans > MAX_SCANS:
            raise UnreadablePhotoError(f"a progressive JPEG of more than {MAX_SCANS} scans")
    return len(content)


def _parts_after(content: bytes, end: int) -> set[str]:
    """Descriptions of the data after the picture in a file."""
    parts = set()
    while content.startswith(SIGNATURE, end):
        parts.add("further pictures")
        end = end_of_picture(content, end)
    has_trailer = content[-4:] in (b"SEFT", b"QDIO")  # of Samsung
    if has_trailer and b"MotionPhoto_Data" not in content[end:]:
        parts.add("a trailer written by the phone")
    elif has_trailer or content[end + 4 : end + 8] == b"ftyp":
        parts.add("the video of a motion photo")
    elif content[end:].strip(b"\0\r\n\t \xff"):
        parts.add(f"{len(content) - end} bytes after the picture")
    return parts


def encoding_of(image: Image.Image) -> Encoding:
    """Encoding of an open JPEG image."""
    # a layer: ID, horizontal and vertical sampling factor (Pillow documents another order), number of its table
    layers, tables = image.layer, image.quantization  # type: ignore[attr-defined]
    subsampling = None
    if len(layers) == 3:
        luma, *chroma = (layer[1:3] for layer in layers)
        ratio = (luma[0] / chroma[0][0], luma[1] / chroma[0][1]) if all(chroma[0]) else (0, 0)
        subsampling = _SAMPLING_NAMES.get(ratio, "unusual") if chroma[0] == chroma[1] else "unusual"
    quantization = tuple(tuple(tables[layer[3]]) for layer in layers if layer[3] in tables)
    marked_rgb = image.info.get("adobe_transform") == 0 or [layer[0] for layer in layers] == list(b"RGB")
    return Encoding(
        quantization=quantization if len(quantization) == len(layers) else (),
        subsampling=subsampling,
        progressive=bool(image.info.get("progressive")),
        rgb=image.mode == "RGB" and marked_rgb,
    )


def _blocks(image: Image.Image) -> tuple[tuple[tuple[str, bytes], ...], set[str]]:
    """Returns the segments that stay valid for new pixels, and descriptions of the others.

    EXIF, XMP and ICC profiles are read elsewhere; Adobe's APP14 describes the encoding, and is written by the encoder.
    """
    kept, parts, packets = [], set(), 0
    for name, content in image.applist:  # type: ignore[attr-defined]
        packets += content.startswith(XMP_HEADER)
        if content.startswith((EXIF_HEADER, XMP_HEADER, ICC_HEADER)) or (name, content[:5]) == ("APP14", b"Adobe"):
            continue
        if name == "APP0" and content.startswith(b"JFIF\0") and len(content) > 14:
            content = content[:12] + bytes(2)  # thumbnail of 0 x 0 pixels
            parts.add("the thumbnail")
        if description := _left_out(name, content):
            parts.add(description)
        else:
            kept.append((name, content))
    return tuple(kept), parts | ({"further XMP packets"} if packets > 1 else set())


def _left_out(name: str, content: bytes) -> str:
    """Description of a segment that holds a preview or describes other parts of the file; "" for other segments."""
    if content.startswith(b"MPF\0"):
        return "the index of further pictures (MPF)"
    if content.startswith(b"urn:iso:std:iso:ts:21496:"):
        return "the description of a gain map (ISO 21496-1)"
    if name == "APP11":
        return "content credentials (C2PA)" if content[:2] == b"JP" and content[12:16] == b"jumb" else "segments APP11"
    if content.startswith(b"JFXX\0"):
        return "the thumbnail"
    return "a preview" if content.startswith(SIGNATURE) else ""


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a JPEG file; photos from JPEG files keep their quantization tables unless `quality` is given."""
    notes = []
    options: dict = {"quality": DEFAULT_QUALITY if quality is None else quality}
    was_jpeg = photo.format == "JPEG"
    if was_jpeg and quality is None and photo.encoding.quantization:
        tables = photo.encoding.quantization
        while len(tables) > 1 and tables[-1] == tables[-2]:  # the encoder repeats the last one
            tables = tables[:-1]
        options = {"qtables": [list(table) for table in tables]}
    if was_jpeg and photo.encoding.rgb and pixels.shape[2] == 3:
        options["keep_rgb"] = True
    elif pixels.shape[2] == 3:
        subsampling = photo.encoding.subsampling if was_jpeg else "4:4:4"
        options["subsampling"] = SUBSAMPLINGS.get(subsampling or "4:4:4", 0)
        if subsampling not in (None, *SUBSAMPLINGS):
            notes.append(f"chroma subsampling {subsampling} became 4:4:4")
    stream = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(stream, "JPEG", progressive=photo.encoding.progressive, **options)
    encoder_app0, rest = _split(stream.getbuffer())
    segments, missing = _segments(photo.metadata, was_jpeg)
    if not was_jpeg and photo.metadata.dpi:
        x, y = (min(65535, max(1, round(number))).to_bytes(2, "big") for number in photo.metadata.dpi)
        segments.insert(0, (APP0, b"JFIF\0\1\1\1" + x + y + b"\0\0"))  # version 1.1, pixels per inch, no thumbnail
    head = b"" if any(marker == APP0 for marker, _ in segments) else encoder_app0
    encoded = (bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content for marker, content in segments)
    write_pieces(path, [SIGNATURE[:2], head, *encoded, rest])
    return notes + missing


def _split(content: memoryview) -> tuple[bytes, memoryview]:
    """Splits an encoded file into its leading APP0 segments and the rest."""
    at = 2
    while content[at + 1] == APP0:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return bytes(content[2:at]), content[at:]


def _segments(metadata: Metadata, was_jpeg: bool) -> tuple[list[tuple[int, bytes]], list[str]]:
    """(marker, content) of all metadata segments, and notes on metadata that does not fit.

    Args:
        metadata: metadata of the photo.
        was_jpeg: whether it is from a JPEG file, whose `blocks` are then written as well.
    """
    missing = []
    blocks = metadata.blocks if was_jpeg else ()
    segments = [(APP0, content) for name, content in blocks if name == "APP0"]
    for name, header, content in (("EXIF", EXIF_HEADER, metadata.exif), ("XMP", XMP_HEADER, metadata.xmp)):
        if content and len(header) + len(content) <= SEGMENT_BYTES:
            segments.append((APP0 + 1, header + content))
        elif content:
            missing.append(f"{name} of more than 64 kB does not fit into a JPEG")
    if metadata.icc:  # in parts with their number, from 1, and the number of all parts, one byte each
        room = SEGMENT_BYTES - len(ICC_HEADER) - 2
        parts = [metadata.icc[start : start + room] for start in range(0, len(metadata.icc), room)]
        if len(parts) < 256:
            segments += [(APP0 + 2, ICC_HEADER + bytes([k, len(parts)]) + part) for k, part in enumerate(parts, 1)]
        else:
            missing.append("the color profile is too large for a JPEG")
    for name, content in blocks:
        if name != "APP0":
            segments.append((COM if name == "COM" else APP0 + int(name[3:]), content))
    return segments, missing


FORMAT = PhotoFormat(
    "jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), recognizes, read, size, write, aliases=("jpg",), lossy=True,
    alpha=False, max_side=65500,
)  # fmt: skip
