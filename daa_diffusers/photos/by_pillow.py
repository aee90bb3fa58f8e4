"""Decoding and encoding with Pillow.

The formats open files with one Pillow plugin, not by `Image.open`, which also tries plugins that run programs or read
files that are not photos, and applies Pillow's limit of the size; this package has its own.
"""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ..errors import UnreadablePhotoError
from .stored import Metadata, StoredPhoto, strips

TRANSPARENT = "the transparent color became an alpha channel"
GRAY_MODES = frozenset({"1", "L", "LA"})
COLOR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK"})
ALPHA_MODES = frozenset({"LA", "PA", "RGBA"})


def metadata_of(image: Image.Image, blocks: tuple[tuple[str, bytes], ...] = ()) -> Metadata:
    """Metadata of a file opened by Pillow; `blocks` are further parts that the caller read, as in `Metadata`."""
    exif = image.info.get("exif")
    xmp = image.info.get("xmp")
    dpi = image.info.get("dpi")
    usable = isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(number) < 1e5 for number in dpi)
    return Metadata(
        exif=exif.removeprefix(b"Exif\0\0") or None if isinstance(exif, bytes) else None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
        icc=image.info.get("icc_profile") or None,
        dpi=(float(dpi[0]), float(dpi[1])) if usable else None,  # type: ignore[index]
        blocks=blocks,
    )


def pixels_of(image: Image.Image, icc: bytes | None = None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Decodes colors (H, W, 1 or 3) and alpha (H, W) or None, both uint8; also returns notes on conversions.

    Args:
        image: open image.
        icc: color profile for the conversion of CMYK.
    """
    if image.mode not in GRAY_MODES | COLOR_MODES:
        raise UnreadablePhotoError(
            f"pixels of mode {image.mode!r}; supported are 8-bit gray, RGB, palette and CMYK, and 16-bit gray and RGB"
        )
    gray = image.mode in GRAY_MODES
    has_alpha = image.mode in ALPHA_MODES or (image.has_transparency_data and image.mode != "1")
    mode = ("L" if gray else "RGB") + ("A" if has_alpha else "")
    notes, transform = [], None
    if image.mode == "CMYK":
        transform, note = _from_cmyk(icc)
        notes.append(note)
    elif image.mode in ("P", "PA"):
        notes.append(f"the palette became {mode}")
    elif image.mode == "1":
        notes.append("black and white became 8-bit gray")
    elif has_alpha and image.mode not in ALPHA_MODES:
        notes.append(TRANSPARENT)
    image.load()
    width, height = image.size
    pixels = np.empty((height, width, 1 if gray else 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if has_alpha else None
    for rows in strips(pixels.shape):
        strip = image if rows.stop - rows.start == height else image.crop((0, rows.start, width, rows.stop))
        if transform is not None:
            strip = ImageCms.applyTransform(strip, transform) or strip
        elif strip.mode != mode:
            strip = strip.convert(mode)
        values = np.asarray(strip).reshape(rows.stop - rows.start, width, -1)
        pixels[rows] = values[..., : pixels.shape[2]]
        if alpha is not None:
            alpha[rows] = values[..., -1]
    return pixels, alpha, notes


def srgb_profile() -> bytes:
    """An ICC profile of sRGB, with a constant creation time, so that results are reproducible."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + profile[36:]  # year, month, day, h, min, s


def _from_cmyk(icc: bytes | None) -> tuple[Any, str]:
    """Transform from CMYK to sRGB by the profile `icc` (None without a valid one), and a note about it."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.buildTransform(profile, srgb, "CMYK", "RGB"), "CMYK became sRGB by its color profile"
        except (ImageCms.PyCMSError, OSError):
            pass
    return None, "CMYK became RGB without a color profile: colors are approximate"


def encode(format: str, photo: StoredPhoto, pixels: np.ndarray, alpha: np.ndarray | None, **options: Any) -> memoryview:
    """Encodes a photo with Pillow, with the EXIF, XMP, color profile and resolution of `photo`.

    Args:
        format: Pillow's name of the format.
        photo: photo with the metadata.
        pixels: (H, W, 1 or 3), uint8.
        alpha: (H, W), uint8, or None.
        options: options of Pillow's encoder.
    """
    values = pixels if alpha is None else np.dstack([pixels, alpha])
    if alpha is not None and values.shape[2] == 2:  # encoders do not support gray with alpha
        values = np.dstack([pixels, pixels, pixels, alpha])
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    metadata = photo.metadata
    kept = {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": metadata.icc, "dpi": metadata.dpi}
    stream = io.BytesIO()
    image.save(stream, format, **{name: value for name, value in kept.items() if value is not None}, **options)
    return stream.getbuffer()
