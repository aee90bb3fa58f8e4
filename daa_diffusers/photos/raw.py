"""Camera raw formats, developed to 16 bits by LibRaw (extra `raw`)."""

from typing import Any

import numpy as np

from ..errors import MissingPackageError, UnreadablePhotoError
from . import by_pillow, tiff
from .exif_edits import rotated_upright
from .photo_format import PhotoFormat, SizeCheck
from .source import Source
from .stored import Metadata, StoredPhoto

RAW_SUFFIXES = (
    ".dng", ".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
# Signatures of raw files that are not TIFF files.
_SIGNATURES = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")


def recognizes(source: Source) -> bool:
    """Whether a file is a raw file, by its suffix, its signature, or sensor values in a TIFF file."""
    if source.suffix in RAW_SUFFIXES:
        return True
    start = source.read(0, 16)
    if start.startswith(_SIGNATURES) or start[4:12] == b"ftypcrx ":  # CR3
        return True
    return start.startswith(tiff.SIGNATURES) and tiff.holds_raw(source)


def _opened(source: Source) -> Any:
    try:
        import rawpy
    except ImportError:
        raise MissingPackageError(
            f"raw files such as {source.name!r} need rawpy: pip install 'daa-diffusers[raw]'"
        ) from None
    try:
        return rawpy.imread(source.stream())
    except rawpy.LibRawError as error:
        raise UnreadablePhotoError(
            "LibRaw cannot develop it: it is damaged, or from a camera that LibRaw does not support"
        ) from error


def size(source: Source) -> tuple[int, int]:
    """(width, height) of the developed photo before rotation."""
    with _opened(source) as file:
        return file.sizes.iwidth, file.sizes.iheight


def read(source: Source, check: SizeCheck) -> StoredPhoto:
    """Develops a raw file to 16-bit sRGB, upright, with the camera's white balance and no automatic brightening.

    Raises:
        MissingPackageError: rawpy is not installed.
    """
    with _opened(source) as file:
        import rawpy

        check(max(file.sizes.raw_width, file.sizes.width), max(file.sizes.raw_height, file.sizes.height))
        pixels = file.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            output_bps=16,
            output_color=rawpy.ColorSpace.sRGB,
            gamma=(2.4, 12.92),  # exponent and slope near black of sRGB; LibRaw's default is BT.709
        )
    stored = tiff.metadata_of(tiff.tags_of(source))  # most raw files are TIFF files
    exif = rotated_upright(stored.exif) if stored.exif else None
    metadata = Metadata(exif=exif, xmp=stored.xmp, icc=by_pillow.srgb_profile())
    notes = ["developed from raw to sRGB with the camera's white balance"]
    if exif is None:
        notes.append("EXIF could not be read")
    return StoredPhoto(np.ascontiguousarray(pixels), None, "RAW", 1, metadata, notes=tuple(notes))


FORMAT = PhotoFormat("raw", RAW_SUFFIXES, recognizes, read, size, saved_as="tiff", depths=(16,))
