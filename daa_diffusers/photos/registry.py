"""Registry of the file formats of photos. A new format is a module in this folder and an entry here."""

from ..errors import ConfigurationError
from . import avif, bmp, heic, jpeg, png, pnm, raw, tiff, webp
from .photo_format import PhotoFormat
from .source import Source

# In the order of recognition: raw first, since most raw files are also TIFF files.
REGISTRY: tuple[PhotoFormat, ...] = tuple(
    module.FORMAT for module in (jpeg, png, raw, tiff, webp, avif, heic, pnm, bmp)
)
BY_NAME = {entry.name: entry for entry in REGISTRY}
BY_SUFFIX = {suffix: entry for entry in REGISTRY for suffix in entry.suffixes}
PHOTO_SUFFIXES = frozenset(BY_SUFFIX)  # of all readable files, lower case
# Writable formats: name (value of `format`) -> file suffixes, the default first.
FORMATS = {entry.name: entry.suffixes for entry in REGISTRY if entry.write is not None}
_ALIASES = {alias: entry.name for entry in REGISTRY for alias in entry.aliases}


def format_of(source: Source) -> PhotoFormat | None:
    """The format of a file by its content; None if it is not in `REGISTRY`."""
    return next((entry for entry in REGISTRY if entry.recognizes(source)), None)


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
    photo_format = BY_NAME[name.lower()]
    return BY_NAME[photo_format.saved_as or photo_format.name]


def suffix_for(suffix: str, format: str | None = None) -> str:
    """The suffix of a restored photo's file: that of the photo, unless it is not one of the format.

    Args:
        suffix: suffix of the photo's file.
        format: key of `FORMATS`. None: format of the photo, or TIFF for raw files.
    """
    if format is not None:
        return suffix if suffix.lower() in FORMATS[format] else FORMATS[format][0]
    photo_format = BY_SUFFIX.get(suffix.lower())
    return FORMATS[photo_format.saved_as][0] if photo_format is not None and photo_format.saved_as else suffix
