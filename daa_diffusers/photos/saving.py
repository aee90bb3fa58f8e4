"""Saving of restored photos in the format, bit depth and quality of the original file, with its metadata."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import ConfigurationError
from ..files import replacing
from . import xmp
from .exif_edits import rotated_upright
from .location import without_location
from .other_parts import merged, without_lost_extension, without_other_parts
from .photo_format import PhotoFormat
from .registry import BY_NAME, FORMATS, checked_format, written_as
from .stored import Metadata, StoredPhoto, upright, with_bits


@dataclass(frozen=True)
class SavedPhoto:
    """File written by `save_photo`.

    Args:
        path: path of the file.
        format: key of `FORMATS`.
        bits: bits per sample.
        notes: short sentences on what could not be kept, including those of the opened photo.
    """

    path: Path
    format: str
    bits: int
    notes: tuple[str, ...]


def check_options(format: str | None, bits: int | None, quality: int | None) -> None:
    """Raises ConfigurationError for invalid options of `save_photo`, or invalid combinations of them."""
    name = checked_format(format)
    if bits not in (None, 8, 16):
        raise ConfigurationError(f"`bits` must be 8 or 16, got {bits!r}")
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise ConfigurationError(f"`quality` must be a whole number from 1 to 100, got {quality!r}")
    if name is None:
        return
    _check_depth(bits, BY_NAME[name])
    if quality is not None and not BY_NAME[name].lossy:
        lossy = sorted(key for key in FORMATS if BY_NAME[key].lossy)
        raise ConfigurationError(f"`quality` is for lossy formats ({', '.join(lossy)}), not for {name}")


def _check_depth(bits: int | None, target: PhotoFormat) -> None:
    if bits == 16 and bits not in target.depths:
        raise ConfigurationError(f"`bits` 16 is not supported by {target.name}; choose `format` png or tiff")


def own_format(photo: StoredPhoto) -> str:
    """The default format for saving a photo: its own, or TIFF for raw files."""
    return written_as(photo.format).name


def save_photo(
    path: str | os.PathLike,
    photo: StoredPhoto,
    pixels: np.ndarray | None = None,
    *,
    format: str | None = None,
    bits: int | None = None,
    quality: int | None = None,
    strip_location: bool = False,
    overwrite: bool = False,
) -> SavedPhoto:
    """Saves a photo with new pixels, and the metadata and encoding of the original file.

    In the original format, pixels and EXIF orientation stay as stored, JPEG keeps its quantization tables and
    subsampling, TIFF its compression. In another format, the photo is rotated upright and its orientation reset, since
    not all readers of that format apply it. docs/photos.md lists what each format keeps. The file is written under a
    temporary name in the same folder, and then renamed.

    Args:
        path: output file; its suffix does not determine the format.
        photo: photo returned by `open_photo`.
        pixels: uint8 or uint16 of the shape of the photo's, (H, W, 1 or 3). None: the photo's pixels.
        format: key of `FORMATS`. None: the photo's format, or TIFF for raw files.
        bits: bits per sample, 8 or 16. None: those of the photo if the format supports them, else 8.
        quality: quality of lossy formats, 1 to 100. None: in the original format, JPEG files keep theirs, and lossless
            WebP files stay lossless; else 95 for JPEG, and 90 for WebP, AVIF and HEIC.
        strip_location: remove GPS and place names.
        overwrite: replace an existing file.

    Raises:
        ConfigurationError: invalid options, or a photo that the format does not support.
        ValueError: `pixels` do not have the photo's shape.
        FileExistsError: `path` exists and `overwrite` is False.
    """
    path = Path(path)
    check_options(format, bits, quality)
    target = BY_NAME[checked_format(format) or own_format(photo)]
    pixels = photo.pixels if pixels is None else pixels
    if pixels.shape != photo.pixels.shape or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"`pixels` must be uint8 or uint16 of shape {photo.pixels.shape}, got {pixels.dtype} {pixels.shape}"
        )
    if max(pixels.shape[:2]) > target.max_side:
        raise ConfigurationError(
            f"{target.name} supports at most {target.max_side} pixels per side; choose `format` tiff or png"
        )
    _check_depth(bits, target)
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{str(path)!r} exists; set `overwrite` to replace it")
    depth = bits or (photo.bits if photo.bits in target.depths else 8)
    photo, pixels, alpha, notes = _prepared(photo, pixels, target, depth, strip_location)
    assert target.write is not None, "photos of read-only formats are saved in another one"
    with replacing(path) as temporary:
        notes += target.write(temporary, photo, pixels, alpha, quality)
    return SavedPhoto(path, target.name, depth, merged((*photo.notes, *notes)))


def _prepared(
    photo: StoredPhoto, pixels: np.ndarray, target: PhotoFormat, bits: int, strip_location: bool
) -> tuple[StoredPhoto, np.ndarray, np.ndarray | None, list[str]]:
    """Returns the photo with its metadata for the format `target`, the converted pixels and alpha, and notes."""
    metadata, notes = without_other_parts(photo.metadata)
    is_own_format = target.name == own_format(photo)
    alpha = photo.alpha
    stored_bits = photo.encoding.maximum.bit_length() if photo.encoding.maximum else photo.bits
    if pixels.dtype == np.uint16 and bits < stored_bits:
        notes.append(f"{stored_bits} bits became {bits}")
    elif photo.encoding.maximum and not is_own_format:
        notes.append(f"values up to {photo.encoding.maximum} became values up to {2**bits - 1}")
    pixels = with_bits(pixels, bits)
    if alpha is not None:
        alpha = with_bits(alpha, bits)
        if photo.encoding.unknown_channel and target.name != "tiff":
            alpha = None
            notes.append("a channel of unknown meaning is left out")
        elif not target.alpha:
            alpha = None
            notes.append(f"{target.name} does not support alpha: it is left out")
        elif photo.encoding.premultiplied and target.name != "tiff":
            notes.append("colors stay multiplied by alpha")
    if not is_own_format:
        # other formats have the first two as `dpi`; sRGB is the default; tIME is when the file was written
        names = sorted({name for name, _ in metadata.blocks} - {"APP0", "pHYs", "sRGB", "tIME"})
        if names:
            notes.append(f"{target.name} does not support the file's {', '.join(names)}")
    if photo.orientation != 1 and (not is_own_format or "exif" not in target.carries):
        pixels = np.ascontiguousarray(upright(pixels, photo.orientation))
        alpha = None if alpha is None else np.ascontiguousarray(upright(alpha[..., None], photo.orientation)[..., 0])
        metadata = _upright_metadata(metadata, photo.orientation)
        notes.append("rotated upright")
    if strip_location:
        metadata, location_notes = without_location(metadata)
        notes += location_notes
    metadata = without_lost_extension(metadata, is_own_format)
    fields = {"exif": "EXIF", "xmp": "XMP", "icc": "color profile", "dpi": "resolution"}
    lost = [text for name, text in fields.items() if getattr(metadata, name) and name not in target.carries]
    if lost:
        notes.append(f"{target.name} does not support {', '.join(lost)}")
    return replace(photo, metadata=metadata), pixels, alpha, notes


def _upright_metadata(metadata: Metadata, orientation: int) -> Metadata:
    """Metadata for pixels that were rotated upright."""
    exif = None if metadata.exif is None else rotated_upright(metadata.exif)
    packet = metadata.xmp
    if packet is not None:  # if its orientation cannot be removed, the packet is kept: readers prefer that of EXIF
        packet = xmp.without(packet, xmp.ORIENTATION) or packet
    dpi = metadata.dpi[::-1] if metadata.dpi and orientation >= 5 else metadata.dpi
    return replace(metadata, exif=exif, dpi=dpi, xmp=packet)
