"""Opening of photos: stored pixels in their own bit depth, with all metadata of the file."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..errors import ConfigurationError, MissingPackageError, UnreadablePhotoError
from ..files import other_kind
from .color import check_transfer, transfer_of_profile
from .failures import reason, unknown_content
from .photo_format import PhotoFormat
from .registry import BY_SUFFIX, format_of
from .source import Source
from .stored import StoredPhoto

Result = TypeVar("Result")
DEFAULT_MAX_MEGAPIXELS = 300.0  # the largest camera photos have 200


def open_photo(path: str | os.PathLike, *, max_megapixels: float | None = None) -> StoredPhoto:
    """Opens a photo for restoration, without rotation, blending, or conversion to another color space.

    Pixels are returned as stored, and the EXIF orientation as `StoredPhoto.orientation`. Palettes are converted to RGB,
    black and white to gray, CMYK to sRGB (by its profile, if any); `notes` lists these conversions. Of several pictures
    in a file, the first of full size is read. Large uncompressed TIFF files are memory-mapped.

    Args:
        path: file in a format of `registry.REGISTRY`; HEIC and raw files need the extras `heic` and `raw`. The content
            determines the format, except for raw files.
        max_megapixels: maximum size; the header is checked before memory is allocated. None: 300.

    Raises:
        UnreadablePhotoError: the file does not exist, is not a photo, is damaged, truncated or too large, or has
            samples that restorers do not support.
        MissingPackageError: the format requires an extra that is not installed.
        ConfigurationError: `max_megapixels` is not a positive number.
    """
    limit = pixel_limit(max_megapixels)
    path = Path(path)
    try:
        check_file(path)
        with Source(str(path), path=path) as source:
            return open_source(source, limit)
    except OSError as error:
        raise UnreadablePhotoError(f"cannot read photo {str(path)!r}: {error.strerror or error}") from error


def check_file(path: Path) -> None:
    """Raises UnreadablePhotoError if `path` is not a regular file; reading a named pipe would block."""
    try:
        kind = other_kind(path)
    except OSError as error:
        kind = error.strerror or str(error)
    if kind:
        raise UnreadablePhotoError(f"cannot read photo {str(path)!r}: {kind}")


def open_source(source: Source, limit: int) -> StoredPhoto:
    """Opens a photo as `open_photo` does, of at most `limit` pixels."""

    def check(width: int, height: int) -> None:
        check_size(width, height, limit)

    def read(format: PhotoFormat) -> StoredPhoto:
        photo = format.read(source, check)
        check_transfer(transfer_of_profile(photo.metadata.icc), format.name.upper())
        return replace(photo, notes=(*_misnamed(source, format), *photo.notes))

    return _decoded(source, read)


def size_of_source(source: Source) -> tuple[int, int]:
    """(width, height) as stored. Only the header is read, so a damaged photo may pass."""
    return _decoded(source, lambda format: format.size(source))


def _decoded(source: Source, decode: Callable[[PhotoFormat], Result]) -> Result:
    """Calls `decode` with the format of a file, and converts errors of decoders to UnreadablePhotoError.

    Decoders raise exceptions of many types on damaged files: OSError, SyntaxError, struct.error, ...
    """
    format = None
    try:
        format = format_of(source)
        if format is None:
            raise UnreadablePhotoError(unknown_content(source))
        return decode(format)
    except MissingPackageError:
        raise
    except Exception as error:
        why = reason(error, format.name if format else "file")
        raise UnreadablePhotoError(f"cannot read photo {source.name!r}: {why}", why) from error


def _misnamed(source: Source, format: PhotoFormat) -> tuple[str, ...]:
    """A note if a file's suffix does not match its content; raises UnreadablePhotoError for suffixes of raw files."""
    named = BY_SUFFIX.get(source.suffix, format)
    if named is format or format.write is None:  # only the format of raw files cannot be written
        return ()
    if named.write is None:
        raise UnreadablePhotoError(
            f"it has the suffix of a raw file, but its content is {format.name.upper()}: rename it to "
            f"{format.suffixes[0]}"
        )
    return (f"its suffix is {source.suffix}, but its content is {format.name.upper()}, and is saved as such",)


def pixel_limit(max_megapixels: float | None) -> int:
    """Converts `max_megapixels` to pixels; raises ConfigurationError unless it is a positive number or None."""
    limit = DEFAULT_MAX_MEGAPIXELS if max_megapixels is None else max_megapixels
    if not isinstance(limit, int | float) or not 0 < limit < math.inf:
        raise ConfigurationError(f"`max_megapixels` must be a positive number, got {max_megapixels!r}")
    return math.ceil(limit * 1e6)


def check_size(width: int, height: int, limit: int) -> None:
    """Raises UnreadablePhotoError for an image without pixels, or with more than `limit`."""
    if width < 1 or height < 1:
        raise UnreadablePhotoError(f"it has no pixels, {width} x {height}")
    if width * height > limit:
        raise UnreadablePhotoError(
            f"{width} x {height} pixels are more than `max_megapixels` {limit / 1e6:g}; increase it if you trust the "
            "file"
        )
