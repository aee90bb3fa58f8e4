"""JPEG: the tables and the subsampling that a photo was coded with, and its segments."""

import io
import mmap
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UnreadablePhotoError
from .stored import Encoding, Metadata, StoredPhoto

DEFAULT_QUALITY = 95
MAX_SCANS = 500  # a progressive file has about 10; hostile ones have thousands, each as slow as decoding the photo
SEGMENT_BYTES = 65533
EXIF_HEADER = b"Exif\0\0"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
ICC_HEADER = b"ICC_PROFILE\0"
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # as Pillow's encoder numbers those that it knows
_SAMPLING_NAMES = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0"}


def check_scans(path: Path, image: Image.Image) -> None:
    """UnreadablePhotoError for a progressive JPEG of very many scans."""
    if not image.info.get("progressive"):
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        scans, at = 0, content.find(b"\xff\xda")
        while at >= 0 and scans <= MAX_SCANS:
            scans, at = scans + 1, content.find(b"\xff\xda", at + 2)
    if scans > MAX_SCANS:
        raise UnreadablePhotoError(f"a progressive JPEG of more than {MAX_SCANS} scans")


def encoding_of(image: Image.Image) -> Encoding:
    """How an open JPEG is coded."""
    layers, tables = image.layer, image.quantization  # type: ignore[attr-defined]
    subsampling = None
    if len(layers) == 3:
        (_, horizontal, vertical, _), *chroma = layers  # whatever Pillow's comment says of their order
        same = all(layer[1:3] == chroma[0][1:3] for layer in chroma)
        ratio = (horizontal / chroma[0][1], vertical / chroma[0][2]) if chroma[0][1] and chroma[0][2] else (0, 0)
        subsampling = _SAMPLING_NAMES.get(ratio, "unusual") if same else "unusual"
    quantisation = tuple(tuple(tables[layer[3]]) for layer in layers if layer[3] in tables)
    return Encoding(
        quantisation=quantisation if len(quantisation) == len(layers) else (),
        subsampling=subsampling,
        progressive=bool(image.info.get("progressive")),
    )


def blocks_of(image: Image.Image) -> tuple[tuple[str, bytes], ...]:
    """The segments that mean something without the coded pixels; EXIF, XMP and ICC are read apart from them.

    Left out: what belongs to further pictures in the file (MPF), to its coding (Adobe's APP14), and signatures over its
    bytes (APP11), which would be wrong.
    """
    kept = []
    for name, content in image.applist:  # type: ignore[attr-defined]
        known = content.startswith((EXIF_HEADER, XMP_HEADER, ICC_HEADER, b"MPF\0"))
        if not known and name not in ("APP11", "APP14"):
            kept.append((name, content))
    return tuple(kept)


def encode(photo: StoredPhoto, pixels: np.ndarray, quality: int | None) -> tuple[list[bytes | memoryview], list[str]]:
    """A JPEG file in pieces, and notes on what it cannot hold.

    Args:
        photo: where its metadata and, of a JPEG and unless `quality` is given, its tables are taken from.
        pixels: (H, W, 1 or 3), uint8.
        quality: 1 to 100.
    """
    notes = []
    options: dict = {"quality": DEFAULT_QUALITY if quality is None else quality}
    own = photo.format == "JPEG"
    if own and quality is None and photo.encoding.quantisation:
        tables = photo.encoding.quantisation
        while len(tables) > 1 and tables[-1] == tables[-2]:  # the encoder uses the last one for all that follow
            tables = tables[:-1]
        options = {"qtables": [list(table) for table in tables]}
    if pixels.shape[2] == 3:
        subsampling = photo.encoding.subsampling if own else "4:4:4"
        options["subsampling"] = SUBSAMPLINGS.get(subsampling or "4:4:4", 0)
        if subsampling not in (None, *SUBSAMPLINGS):
            notes.append(f"chroma subsampling {subsampling} became 4:4:4")
    stream = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(stream, "JPEG", progressive=photo.encoding.progressive, **options)
    encoders_jfif, rest = _split(stream.getbuffer())
    ours, missing = _segments(photo.metadata, own)
    if not own and photo.metadata.dpi:
        ours.insert(0, (0xE0, _jfif(photo.metadata.dpi)))
    head = b"" if any(marker == 0xE0 for marker, _ in ours) else encoders_jfif
    return [b"\xff\xd8", head, *map(_segment, ours), rest], notes + missing


def _jfif(dpi: tuple[float, float]) -> bytes:
    x, y = (min(65535, max(1, round(one))) for one in dpi)
    return b"JFIF\0\1\1\1" + x.to_bytes(2, "big") + y.to_bytes(2, "big") + b"\0\0"


def _segment(one: tuple[int, bytes]) -> bytes:
    marker, content = one
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def _split(content: memoryview) -> tuple[bytes, memoryview]:
    """The APP0 segments that the encoder wrote first, and the rest of its file."""
    at = 2
    while content[at + 1] == 0xE0:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return bytes(content[2:at]), content[at:]


def _segments(metadata: Metadata, own: bool) -> tuple[list[tuple[int, bytes]], list[str]]:
    """(marker, content) of all metadata, and notes on what does not fit."""
    segments, missing = [], []
    extra = metadata.blocks if own else ()
    segments += [(0xE0, content) for name, content in extra if name == "APP0"]
    if metadata.exif:
        if len(EXIF_HEADER) + len(metadata.exif) <= SEGMENT_BYTES:
            segments.append((0xE1, EXIF_HEADER + metadata.exif))
        else:
            missing.append("EXIF of more than 64 kB does not fit into a JPEG")
    if metadata.xmp:
        if len(XMP_HEADER) + len(metadata.xmp) <= SEGMENT_BYTES:
            segments.append((0xE1, XMP_HEADER + metadata.xmp))
        else:
            missing.append("XMP of more than 64 kB does not fit into a JPEG")
    if metadata.icc:
        room = SEGMENT_BYTES - len(ICC_HEADER) - 2
        parts = [metadata.icc[start : start + room] for start in range(0, len(metadata.icc), room)]
        if len(parts) < 256:
            segments += [(0xE2, ICC_HEADER + bytes([k + 1, len(parts)]) + part) for k, part in enumerate(parts)]
        else:
            missing.append("the colour profile is too large for a JPEG")
    for name, content in extra:
        if name != "APP0":
            segments.append((0xFE if name == "COM" else 0xE0 + int(name[3:]), content))
    return segments, missing
