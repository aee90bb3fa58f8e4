"""Content of a photo's file: its pixels as they are stored, metadata and encoding."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

STRIP_PIXELS = 2**20  # whole photos are converted in strips of about this many pixels, to need no second copy


@dataclass(frozen=True)
class Metadata:
    """Metadata of a file.

    Args:
        exif: a TIFF block (without "Exif\\0\\0" before it), or None. Of a TIFF file: its own descriptive tags.
        xmp: an XMP packet.
        icc: an ICC color profile.
        dpi: (horizontal, vertical) pixels per inch.
        blocks: what only the file's own format can hold, byte for byte: (name, content) of JPEG segments, PNG chunks
            or TIFF tags.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    blocks: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Encoding:
    """Encoding of the pixels in a file, as far as saving repeats it.

    Args:
        quantization: of a JPEG, a table of 64 divisors for each component, in natural order.
        subsampling: of the chroma of a JPEG: "4:4:4", "4:2:2", "4:2:0", or another; None for gray.
        progressive: of a JPEG.
        rgb: of a JPEG that holds RGB, not YCbCr.
        lossless: of a WebP.
        compression: of a TIFF, as tifffile names it; None for none.
        predictor: of a TIFF: horizontal differences are compressed.
        tile: of a TIFF: height and width of its tiles.
        planes: of a TIFF: its colors are stored one after another.
        byte_order: of a TIFF: "<" or ">".
        big: of a BigTIFF.
        unknown_channel: of a TIFF: what is in `alpha` is no transparency, but a channel of unknown meaning.
        premultiplied: of a TIFF: its colors are multiplied by alpha.
        maximum: the largest value of a PNM or of a HEIC; None for the largest of the bit depth.
    """

    quantization: tuple[tuple[int, ...], ...] = ()
    subsampling: str | None = None
    progressive: bool = False
    rgb: bool = False
    lossless: bool = False
    compression: str | None = None
    predictor: bool = False
    premultiplied: bool = False
    unknown_channel: bool = False
    tile: tuple[int, int] | None = None
    planes: bool = False
    byte_order: Literal["<", ">"] = "<"
    big: bool = False
    maximum: int | None = None


@dataclass(frozen=True)
class StoredPhoto:
    """A photo as its file holds it; `open_photo` makes them, `save_photo` writes them.

    Args:
        pixels: colors (H, W, 1) gray or (H, W, 3) RGB, uint8 or uint16, as stored: neither turned upright nor taken
            out of their color space. May be a memory map of the file.
        alpha: (H, W) of the same dtype, or None.
        format: "JPEG", "PNG", "TIFF", "WEBP", "AVIF", "PNM", "BMP", "HEIC" or "RAW".
        orientation: the EXIF orientation, 1 to 8, that shows `pixels` upright.
        metadata: of the file.
        encoding: how they were stored.
        notes: what of the file is left out or converted, each a short sentence.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    format: str = "PNG"
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    encoding: Encoding = field(default_factory=Encoding)
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """8 or 16: of a sample in memory."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.pixels.shape[0] * self.pixels.shape[1] / 1e6


def strips(shape: tuple[int, ...]) -> list[slice]:
    """Rows of an image (H, W, ...) in order, in strips of about `STRIP_PIXELS`."""
    rows = max(1, STRIP_PIXELS // max(1, shape[1]))
    return [slice(top, min(top + rows, shape[0])) for top in range(0, shape[0], rows)]


def rescaled(pixels: np.ndarray, maximum: int, new_maximum: int, dtype: type) -> np.ndarray:
    """Integers of [0, maximum] as integers of [0, new_maximum], rounded; strip by strip. (H, W, ...)"""
    if maximum == new_maximum and pixels.dtype == dtype:
        return pixels
    result: np.ndarray = np.empty(pixels.shape, dtype)
    for rows in strips(pixels.shape):
        scaled = pixels[rows].astype(np.float32) * np.float32(new_maximum / maximum)
        result[rows] = np.rint(scaled, out=scaled).clip(0, new_maximum)
    return result


def with_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Integers of 8 or 16 bits with `bits` (8 or 16), black and white staying black and white; rounded, not cut."""
    dtype = np.uint8 if bits == 8 else np.uint16
    return rescaled(pixels, int(np.iinfo(pixels.dtype).max), 2**bits - 1, dtype)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (1 to 8; anything else changes nothing) to (H, W, C)."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return pixels
