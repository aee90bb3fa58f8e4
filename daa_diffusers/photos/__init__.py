"""Photo files: reading for training, and opening and saving with all metadata for restoration."""

from .opening import DEFAULT_MAX_MEGAPIXELS, open_photo
from .reading import PHOTO_SUFFIXES, list_photos, read_photo, to_float
from .registry import FORMATS
from .saving import SavedPhoto, save_photo
from .stored import Encoding, Metadata, StoredPhoto

__all__ = [
    "DEFAULT_MAX_MEGAPIXELS",
    "FORMATS",
    "PHOTO_SUFFIXES",
    "Encoding",
    "Metadata",
    "SavedPhoto",
    "StoredPhoto",
    "list_photos",
    "open_photo",
    "read_photo",
    "save_photo",
    "to_float",
]
