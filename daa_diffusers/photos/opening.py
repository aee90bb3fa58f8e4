"""Opening of photos: the stored pixels in their own depth, with all metadata of the file."""

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
DEFAULT_MAX_MEGAPIXELS = 300.0  # cameras reach 200; the header's size is compared with it before memory is allocated


def open_photo(path: str | os.PathLike, *, max_megapixels: float | None = None) -> StoredPhoto:
    """Opens a photo for restoration: nothing is turned, blended, or taken out of its color space.

    The pixels stay as stored, and so does the orientation that shows them upright (`StoredPhoto.orientation`).
    Palettes become RGB, black and white becomes gray, CMYK becomes sRGB (by its profile, where there is one); `notes`
    lists it. Of several pictures in one file the first of full size is taken. Uncompressed large TIFFs are mapped, not
    read.

    Args:
        path: a file in any format of `registry.REGISTRY`; HEIC and raw files with the extras `heic` and `raw`. The
            content decides, not the name, except for raw files.
        max_megapixels: the largest size that is opened; the header is checked before memory is allocated. None: 300.

    Raises:
        UnreadablePhotoError: no such file, no photo, broken or truncated, too large, or samples that no restorer can
            take.
        MissingPackageError: the format needs an extra that is not installed.
        ConfigurationError: `max_megapixels` is no positive number.
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
    """UnreadablePhotoError for what is no regular file: a named pipe would block."""
    try:
        kind = other_kind(path)
    except OSError as error:
        kind = error.strerror or str(error)
    if kind:
        raise UnreadablePhotoError(f"cannot read photo {str(path)!r}: {kind}")


def open_source(source: Source, limit: int) -> StoredPhoto:
    """As `open_photo`, of at most `limit` pixels."""

    def check(width: int, height: int) -> None:
        check_size(width, height, limit)

    def read(format: PhotoFormat) -> StoredPhoto:
        photo = format.read(source, check)
        check_transfer(transfer_of_profile(photo.metadata.icc), format.name.upper())
        return replace(photo, notes=(*_misnamed(source, format), *photo.notes))

    return _decoded(source, read)


def size_of_source(source: Source) -> tuple[int, int]:
    """(width, height) as stored, from the header alone: a broken photo may pass."""
    return _decoded(source, lambda format: format.size(source))


def _decoded(source: Source, decode: Callable[[PhotoFormat], Result]) -> Result:
    """The result of `decode` for the format of a file; errors of decoders are raised as UnreadablePhotoError.

    Decoders raise nearly anything on broken files: OSError, SyntaxError, struct.error, ...
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
    """A note on a file name of another format than the content."""
    named = BY_SUFFIX.get(source.suffix, format)
    if named is format or format.write is None:
        return ()
    if named.write is None:
        raise UnreadablePhotoError(
            f"its name says that it is a camera's raw file, its content is {format.name.upper()}: rename it to "
            f"{format.suffixes[0]}"
        )
    return (f"its name ends in {source.suffix}, its content is {format.name.upper()}, and is written as such",)


def pixel_limit(max_megapixels: float | None) -> int:
    """`max_megapixels` in pixels.

    Raises:
        ConfigurationError: it is no positive number.
    """
    limit = DEFAULT_MAX_MEGAPIXELS if max_megapixels is None else max_megapixels
    if not isinstance(limit, int | float) or not 0 < limit < math.inf:
        raise ConfigurationError(f"`max_megapixels` must be a positive number, got {max_megapixels!r}")
    return math.ceil(limit * 1e6)


def check_size(width: int, height: int, limit: int) -> None:
    """UnreadablePhotoError for an image without pixels, or with more than `limit`."""
    if width < 1 or height < 1:
        raise UnreadablePhotoError(f"it has no pixels, {width} x {height}")
    if width * height > limit:
        raise UnreadablePhotoError(
            f"{width} x {height} pixels are more than `max_megapixels` {limit / 1e6:g}; if the file is what it claims "
            "to be, raise that"
        )
