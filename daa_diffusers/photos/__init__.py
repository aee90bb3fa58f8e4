"""Reading people's photos: bit depth, alpha, palettes, orientation, and files that are broken."""

from .reading import PHOTO_SUFFIXES, list_photos, read_photo, to_float

__all__ = ["PHOTO_SUFFIXES", "list_photos", "read_photo", "to_float"]
