"""HEIC and HEIF formats (extra `heic`)."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingPackageError
from . import boxes
from .exif_edits import rotated_upright
from .other_parts import left_out
from .photo_format import PhotoFormat, SizeCheck, write_pieces
from .source import Source
from .stored import Encoding, Metadata, StoredPhoto, rescaled

_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
DEFAULT_QUALITY = 90


def recognizes(source: Source) -> bool:
    """Whether a file is a HEIC or HEIF file; AVIF uses the same container, and is excluded."""
    brands = boxes.brands(source)
    return bool(brands & _BRANDS) and not brands & {b"avif", b"avis"}


def _library() -> Any:
    try:
        import pillow_heif
    except ImportError:
        raise MissingPackageError("HEIC files need pillow-heif: pip install 'daa-diffusers[heic]'") from None
    return pillow_heif


def size(source: Source) -> tuple[int, int]:
    """(width, height)."""
    return _library().open_heif(source.stream()).size


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Reads the main picture: 8 bits as uint8, 10 and 12 bits scaled to uint16. The decoder rotates it upright.

    Raises:
        MissingPackageError: pillow-heif is not installed.
        UnreadablePhotoError: HDR, or a wide gamut without ICC profile (see `boxes.check_color`).
    """
    library = _library()
    items = boxes.read_items(source)
    boxes.check_color(items, "HEIC")
    file = library.open_heif(source.stream(), convert_hdr_to_8bit=False)
    check(*file.size)
    image = file[file.primary_index]
    bits = image.info.get("bit_depth", 8)
    values = np.asarray(image)
    if values.dtype == np.uint16:
        values = values | (values >> bits)  # values are decoded as multiples of 2**(16 - bits); white must be 65535
    values = values[..., None] if values.ndim == 2 else values
    colors = 1 if values.shape[2] < 3 else 3
    alpha = np.ascontiguousarray(values[..., colors]) if values.shape[2] > colors else None
    exif = image.info.get("exif")
    exif = rotated_upright(exif.removeprefix(b"Exif\0\0")) if exif else None
    metadata = Metadata(exif, image.info.get("xmp") or None, image.info.get("icc_profile") or None)
    pixels = np.ascontiguousarray(values[..., :colors])
    notes = left_out(boxes.other_parts(items))
    if items.of_primary("irot") or items.of_primary("imir"):
        notes.append("rotated upright")
    encoding = Encoding(maximum=2**bits - 1 if bits > 8 else None, subsampling=boxes.subsampling_of(items))
    return StoredPhoto(pixels, alpha, "HEIC", 1, metadata, encoding, tuple(notes))


def write(
    path: Path, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None
) -> list[str]:
    """Writes a HEIC file; uint16 is written with 10 bits, or 12 if the photo had 12."""
    library = _library()
    deep = pixels.dtype == np.uint16
    gray = pixels.shape[2] == 1 and alpha is None and not deep
    colors = pixels if pixels.shape[2] == 3 or gray else np.dstack([pixels] * 3)
    values = np.ascontiguousarray(colors if alpha is None else np.dstack([colors, alpha]))
    bits = 12 if photo.encoding.maximum == 2**12 - 1 else 10
    if deep:
        library.options.SAVE_HDR_TO_12_BIT = bits == 12
        values = rescaled(values, 65535, 2**bits - 1, np.uint16) << (16 - bits)  # the encoder drops the lower bits
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[values.shape[2]] + (";16" if deep else "")
    file = library.from_bytes(mode, (values.shape[1], values.shape[0]), values.tobytes())
    metadata = photo.metadata
    if metadata.icc:
        file[0].info.update(icc_profile=metadata.icc, icc_profile_type="prof")
    kept = {"exif": metadata.exif, "xmp": metadata.xmp}
    options: dict[str, Any] = {name: value for name, value in kept.items() if value}
    if photo.format == "HEIC" and photo.encoding.subsampling in ("4:2:2", "4:4:4"):
        options["chroma"] = photo.encoding.subsampling.replace(":", "")
    stream = io.BytesIO()
    file.save(stream, quality=DEFAULT_QUALITY if quality is None else quality, **options)
    write_pieces(path, [stream.getbuffer()])
    notes = [f"16 bits became {bits}"] if deep and not photo.encoding.maximum else []
    return notes + (["gray became RGB"] if pixels.shape[2] == 1 and not gray else [])


FORMAT = PhotoFormat(
    "heic", (".heic", ".heif", ".hif"), recognizes, read, size, write, aliases=("heif",), depths=(8, 16), lossy=True,
    carries=frozenset({"exif", "xmp", "icc"}), max_side=65535,
)  # fmt: skip
