"""Content of a photo's file: stored pixels, metadata and encoding."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

STRIP_PIXELS = 2**20  # pixels per strip in conversions of photos, which limits the memory of intermediate results
METERS_PER_INCH = 0.0254


@dataclass(frozen=True)
class Metadata:
    """Metadata of a photo's file.

    Args:
        exif: EXIF block (without the prefix "Exif\\0\\0"); for TIFF files, a block made of their descriptive tags.
        xmp: XMP packet.
        icc: ICC color profile.
        dpi: (horizontal, vertical) pixels per inch.
        blocks: (name, content) of JPEG segments, PNG chunks or TIFF tags that only this format supports, byte for byte.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    blocks: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Encoding:
    """Encoding of the pixels in a file, as far as it is used again when the photo is saved.

    Args:
        quantization: JPEG: quantization table for each component, 64 divisors row by row.
        subsampling: JPEG, AVIF, HEIC: chroma subsampling, such as "4:2:0". AVIF, HEIC: "4:0:0" for gray; None: not
            stated. JPEG: "unusual" for one without a name; None unless there are three components.
        progressive: JPEG: whether it is progressive.
        rgb: JPEG: whether it stores RGB instead of YCbCr.
        lossless: WebP: whether it is lossless.
        compression: TIFF: name of the compression in tifffile; None: uncompressed.
        predictor: TIFF: whether horizontal differences are compressed.
        tile: TIFF: height and width of tiles.
        planes: TIFF: whether color planes are stored separately.
        byte_order: TIFF: "<" or ">".
        big: TIFF: whether it is a BigTIFF.
        unknown_channel: TIFF: whether `alpha` is a channel of unknown meaning instead of transparency.
        premultiplied: TIFF: whether colors are multiplied by alpha.
        maximum: PNM, HEIC: maximum sample value in the file (pixels in memory are rescaled to the full range of their
            dtype); None: that of the dtype.
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
    """Photo as stored in a file: returned by `open_photo`, written by `save_photo`.

    Args:
        pixels: colors (H, W, 1) gray or (H, W, 3) RGB, uint8 or uint16, without rotation or conversion of the color
            space. May be a memory map of the file.
        alpha: alpha channel (H, W) of the same dtype, or None.
        format: "JPEG", "PNG", "TIFF", "WEBP", "AVIF", "PNM", "BMP", "HEIC" or "RAW".
        orientation: EXIF orientation of `pixels`, 1 to 8.
        metadata: metadata of the file.
        encoding: encoding of the file.
        notes: short sentences on parts of the file that are left out or converted.
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
        """Bits per sample in memory: 8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def megapixels(self) -> float:
        """Size in megapixels."""
        return self.pixels.shape[0] * self.pixels.shape[1] / 1e6


def strips(shape: tuple[int, ...]) -> list[slice]:
    """Row ranges of strips of about `STRIP_PIXELS` in an image (H, W, ...)."""
    rows = max(1, STRIP_PIXELS // max(1, shape[1]))
    return [slice(top, min(top + rows, shape[0])) for top in range(0, shape[0], rows)]


def rescaled(pixels: np.ndarray, maximum: int, new_maximum: int, dtype: type) -> np.ndarray:
    """Rescales integers (H, W, ...) from [0, maximum] to [0, new_maximum], with rounding, strip by strip."""
    if maximum == new_maximum and pixels.dtype == dtype:
        return pixels
    result: np.ndarray = np.empty(pixels.shape, dtype)
    for rows in strips(pixels.shape):
        scaled = pixels[rows].astype(np.float32) * np.float32(new_maximum / maximum)
        result[rows] = np.rint(scaled, out=scaled).clip(0, new_maximum)
    return result


def with_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Converts between 8 and 16 bits by rescaling with rounding; black and white are preserved."""
    dtype = np.uint8 if bits == 8 else np.uint16
    return rescaled(pixels, int(np.iinfo(pixels.dtype).max), 2**bits - 1, dtype)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (1 to 8; other values have no effect) to an image (H, W, C)."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return pixels
