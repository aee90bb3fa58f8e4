"""Choice of the adapter for the camera of a photo, which is read from EXIF data."""

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from .files import AdapterConfig

# EXIF tags of the ISO number, in order of priority; the first saturates at _OVERFLOW.
_ISO_TAGS = (ExifTags.Base.ISOSpeedRatings, ExifTags.Base.RecommendedExposureIndex, ExifTags.Base.ISOSpeed)
_OVERFLOW = 65535


@dataclass(frozen=True)
class Camera:
    """Maker, model and ISO number of a photo; None if unknown."""

    make: str | None = None
    model: str | None = None
    iso: int | None = None


def read_camera(photo: Image.Image | Image.Exif | str | os.PathLike | bytes) -> Camera:
    """Reads the camera of a photo from its EXIF data.

    Args:
        photo: PIL image, its EXIF data (`image.getexif()`), path of a file, or its bytes. Only the header is read.

    Returns:
        The known fields; none without EXIF data or for an unreadable photo.

    Raises:
        FileNotFoundError: no such file.
        TypeError: `photo` has another type.
    """
    if isinstance(photo, Image.Exif):
        return _camera(photo)
    if isinstance(photo, Image.Image):
        return _camera(photo.getexif())
    if not isinstance(photo, str | os.PathLike | bytes):
        raise TypeError(f"`photo` must be a PIL image, its EXIF, a file or bytes, got {type(photo).__name__}")
    try:
        with Image.open(io.BytesIO(photo) if isinstance(photo, bytes) else photo) as image:
            return _camera(image.getexif())
    except FileNotFoundError:
        raise
    except Exception:  # decoders raise all kinds of errors on damaged files
        return Camera()


def _camera(exif: Image.Exif) -> Camera:
    try:
        details: Mapping[int, Any] = exif.get_ifd(ExifTags.IFD.Exif)
    except Exception:  # damaged EXIF data
        details = {}
    numbers = [number for tag in _ISO_TAGS if (number := _number(details.get(tag, exif.get(tag))))]
    iso = next((number for number in numbers if number < _OVERFLOW), max(numbers, default=None))
    return Camera(_text(exif.get(ExifTags.Base.Make)), _text(exif.get(ExifTags.Base.Model)), iso)


def _text(value: Any) -> str | None:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return (text.split("\0")[0].strip() or None) if isinstance(text, str) else None


def _number(value: Any) -> int | None:
    first = value[0] if isinstance(value, tuple) and value else value
    try:
        return int(first) if int(first) > 0 else None
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None


def choose_adapter(camera: Camera, adapters: Mapping[str, AdapterConfig]) -> str | None:
    """Returns the name of the adapter for a camera, or None.

    Every field that an adapter states (make, models, ISO) must be known for the photo and match, ignoring case. Among
    several adapters, those that name the model are preferred, then those that name the maker, then the narrowest range
    of ISO numbers, then the first name.
    """
    fitting = [name for name, config in adapters.items() if _fits(camera, config)]
    return min(fitting, key=lambda name: (*_preference(adapters[name]), name), default=None)


def _fits(camera: Camera, config: AdapterConfig) -> bool:
    """Whether an adapter states at least one field, and all that it states match the camera."""
    stated = []
    if config.make is not None:
        stated.append(_same(camera.make, config.make))
    if config.models:
        stated.append(any(_same(camera.model, model) for model in config.models))
    if config.iso is not None:
        stated.append(camera.iso is not None and config.iso[0] <= camera.iso <= config.iso[1])
    return bool(stated) and all(stated)


def _preference(config: AdapterConfig) -> tuple[bool, bool, float]:
    """Returns a key by which the preferred adapter is first: names no model, names no maker, width of the ISO range."""
    width = config.iso[1] / config.iso[0] if config.iso else float("inf")
    return not config.models, config.make is None and not config.models, width


def _same(known: str | None, stated: str) -> bool:
    return known is not None and known.casefold().split() == stated.casefold().split()


def summarize(cameras: Iterable[Camera]) -> dict[str, Any]:
    """Returns `make`, `models` and `iso` for an adapter's config from the cameras of its photos.

    Photos of unknown camera models are skipped. With cameras of several makers, `make` is None.
    """
    known = [camera for camera in cameras if camera.model is not None]
    makes, models = {camera.make for camera in known}, sorted({camera.model for camera in known if camera.model})
    numbers = [camera.iso for camera in known if camera.iso]
    return {
        "make": makes.pop() if len(makes) == 1 else None,
        "models": models,
        "iso": [min(numbers), max(numbers)] if numbers else None,
    }
