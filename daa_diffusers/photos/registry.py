"""Registry of the file formats of photos; a new format is a file of this folder and an entry here."""

from ..errors import ConfigurationError
from . import avif, bmp, heic, jpeg, png, pnm, raw, tiff, webp
from .photo_format import PhotoFormat
from .source import Source

# In the order in which a file is tried: raw files are most often TIFF files too.
REGISTRY: tuple[PhotoFormat, ...] = tuple(
    module.FORMAT for module in (jpeg, png, raw, tiff, webp, avif, heic, pnm, bmp)
)
BY_NAME = {one.name: one for one in REGISTRY}
BY_SUFFIX = {suffix: one for one in REGISTRY for suffix in one.suffixes}
PHOTO_SUFFIXES = frozenset(BY_SUFFIX)  # of all files that can be read, in lower case
# Formats that can be written: name (a value of `format`) -> suffixes of its files, the usual one first.
FORMATS = {one.name: one.suffixes for one in REGISTRY if one.write is not None}
_ALIASES = {alias: one.name for one in REGISTRY for alias in one.aliases}


def format_of(source: Source) -> PhotoFormat | None:
    """The format of a file, by its content; None: not in `REGISTRY`."""
    return next((one for one in REGISTRY if one.recognizes(source)), None)


def checked_format(format: str | None) -> str | None:
    """The key of `FORMATS` for a name in any case, an alias ("jpg", "tif") or a suffix (".png"); None stays None.

    Raises:
        ConfigurationError: it is none of these.
    """
    if format is None:
        return None
    name = format.lower().removeprefix(".")
    name = _ALIASES.get(name, name)
    if name not in FORMATS:
        raise ConfigurationError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    return name


def written_as(name: str) -> PhotoFormat:
    """The default format for the result of a photo of format `name`: its own, or TIFF for a raw file."""
    own = BY_NAME[name.lower()]
    return BY_NAME[own.saved_as or own.name]


def suffix_for(suffix: str, format: str | None = None) -> str:
    """The suffix of a restored file.

    Args:
        suffix: of the photo's file.
        format: a key of `FORMATS`; None: the photo's own.
    """
    if format is not None:
        return suffix if suffix.lower() in FORMATS[format] else FORMATS[format][0]
    own = BY_SUFFIX.get(suffix.lower())
    return FORMATS[own.saved_as][0] if own is not None and own.saved_as else suffix
