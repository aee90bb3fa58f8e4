"""HEIC and HEIF, as telephones write them; needs the extra `heic`."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigurationError, UnreadablePhotoError
from .exif import turned_upright
from .stored import Encoding, Metadata, StoredPhoto, rescaled

HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
DEFAULT_QUALITY = 90


def is_heic(start: bytes) -> bool:
    """Whether a file starts as HEIC (not as AVIF, which is of the same family)."""
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS and b"avif" not in start


def _library() -> Any:
    try:
        import pillow_heif
    except ImportError:
        raise ConfigurationError("HEIC files need pillow-heif: pip install 'daa-diffusers[heic]'") from None
    return pillow_heif


def read(path: Path, check: Callable[[int, int], None]) -> StoredPhoto:
    """The main picture of a HEIC file, upright (decoders turn it), of 8 bits, or 10 or 12 bits as uint16.

    Args:
        path: the file.
        check: raises on a (width, height) that is too large.

    Raises:
        ConfigurationError: where pillow-heif is not installed.
        UnreadablePhotoError: for HDR (PQ or HLG).
    """
    library = _library()
    file = library.open_heif(path, convert_hdr_to_8bit=False)
    check(*file.size)
    image = file[file.primary_index]
    bits = image.info.get("bit_depth", 8)
    nclx = image.info.get("nclx_profile") or {}
    if nclx.get("transfer_characteristics") in (16, 18) and not image.info.get("icc_profile"):
        raise UnreadablePhotoError("HDR (PQ or HLG) HEIC is not supported; convert it to SDR first")
    if nclx.get("color_primaries", 1) not in (1, 2) and not image.info.get("icc_profile"):
        raise UnreadablePhotoError(
            f"a HEIC of colour primaries {nclx['color_primaries']} without an ICC profile is not supported: convert it "
            "first"
        )
    values = np.asarray(image)
    if values.dtype == np.uint16:
        values = values | (values >> bits)  # 10 bits come as multiples of 64: white is to be 65535
    values = values[..., None] if values.ndim == 2 else values
    colours = 1 if values.shape[2] < 3 else 3
    alpha = np.ascontiguousarray(values[..., colours]) if values.shape[2] > colours else None
    exif = image.info.get("exif")
    exif = turned_upright(exif.removeprefix(b"Exif\0\0")) if exif else None
    xmp, icc = image.info.get("xmp") or None, image.info.get("icc_profile") or None
    notes = []
    if len(file) > 1:
        notes.append("only the main picture of the file is kept (no gain map, depth or further pictures)")
    pixels = np.ascontiguousarray(values[..., :colours])
    encoding = Encoding(maximum=2**bits - 1 if bits > 8 else None)
    return StoredPhoto(pixels, alpha, "HEIC", 1, Metadata(exif, xmp, icc), encoding, tuple(notes))


def encode(photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, quality: int | None) -> list[memoryview]:
    """A HEIC file: pixels (H, W, 1 or 3) and alpha (H, W); uint16 is written with 10 bits, or 12 where it was 12."""
    library = _library()
    deep = pixels.dtype == np.uint16
    grey = pixels.shape[2] == 1 and alpha is None and not deep
    colours = pixels if pixels.shape[2] == 3 or grey else np.dstack([pixels] * 3)
    values = np.ascontiguousarray(colours if alpha is None else np.dstack([colours, alpha]))
    if deep:
        bits = 12 if photo.encoding.maximum == 4095 else 10
        library.options.SAVE_HDR_TO_12_BIT = bits == 12
        values = rescaled(values, 65535, 2**bits - 1, np.uint16) << (16 - bits)  # the encoder cuts the lower bits
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[values.shape[2]] + (";16" if deep else "")
    file = library.from_bytes(mode, (values.shape[1], values.shape[0]), values.tobytes())
    metadata = photo.metadata
    if metadata.icc:
        file[0].info.update(icc_profile=metadata.icc, icc_profile_type="prof")
    kept = {"exif": metadata.exif, "xmp": metadata.xmp}
    options = {name: value for name, value in kept.items() if value}
    stream = io.BytesIO()
    file.save(stream, quality=DEFAULT_QUALITY if quality is None else quality, **options)
    return [stream.getbuffer()]
