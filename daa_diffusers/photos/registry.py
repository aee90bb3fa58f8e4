"""Registry of the file formats of photos. A new format is a module in this folder and an entry here."""

from ..errors import ConfigurationError
from . import avif, bmp, heic, jpeg, png, pnm, raw, tiff, webp
from .photo_format import PhotoFormat
from .source import Source

# In the order of recognition: raw first, since most raw files are also TIFF files.
REGISTRY: tuple[PhotoFormat, ...] = tuple(
    module.FORMAT for module in (jpeg, png, raw, tiff, webp, avif, heic, pnm, bmp)
)
BY_NAME = {one.name: one for one in REGISTRY}
BY_SUFFIX = {suffix: one for one in REGISTRY for suffix in one.suffixes}
PHOTO_SUFFIXES = frozenset(BY_SUFFIX)  # of all readable files, lower case
# Writable formats: name (value of `format`) -> file suffixes, the default first.
FORMATS = {one.name: one.suffixes for one in REGISTRY if one.write is not None}
_ALIASES = {alias: one.name for one in REGISTRY for alias in one.aliases}


def format_of(source: Source) -> PhotoFormat | None:
    """The format of a file by its content; None if it is not in `REGISTRY`."""
    return next((one for one in REGISTRY if one.recognizes(source)), None)


def checked_format(format: str | None) -> str | None:
    """The key of `FORMATS` for a format name in any case, an alias ("jpg", "tif") or a suffix (".png"); None for None.

    Raises:
        ConfigurationError: unknown format.
    """
    if format is None:
        return None
    name = format.lower().removeprefix(".")
    name = _ALIASES.get(name, name)
    if name not in FORMATS:
        raise ConfigurationError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    return name


def written_as(name: str) -> PhotoFormat:
    """The default format for saving a photo of format `name`: the same, or TIFF for raw files."""
    own = BY_NAME[name.lower()]
    return BY_NAME[own.saved_as or own.name]


def suffix_for(suffix: str, format: str | None = None) -> str:
    """The suffix of a restored photo's file.

    Args:
        suffix: suffix of the photo's file.
        format: key of `FORMATS`. None: format of the photo.
    """
    if format is not None:
        return suffix if suffix.lower() in FORMATS[format] else FORMATS[format][0]
    own = BY_SUFFIX.get(suffix.lower())
    return FORMATS[own.saved_as][0] if own is not None and own.saved_as else suffix
