"""Cameras' raw files, developed by LibRaw to 16 bits; needs the extra `raw`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import ConfigurationError, UnreadablePhotoError
from . import tiff
from .exif import turned_upright
from .stored import Encoding, Metadata, StoredPhoto

RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw"}
    | {".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)


def read(path: Path, check: Callable[[int, int], None]) -> StoredPhoto:
    """Develops a raw file: the camera's white balance, no automatic brightening, sRGB, upright, 16 bits.

    Args:
        path: the file.
        check: raises on a (width, height) that is too large.

    Raises:
        ConfigurationError: where rawpy is not installed.
    """
    try:
        import rawpy
    except ImportError:
        raise ConfigurationError(
            f"raw files such as {path.name!r} need rawpy: pip install 'daa-diffusers[raw]'"
        ) from None
    from PIL import ImageCms

    try:
        opened = rawpy.imread(str(path))
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise UnreadablePhotoError(f"LibRaw says: {reason}") from error
    with opened as file:
        check(max(file.sizes.raw_width, file.sizes.width), max(file.sizes.raw_height, file.sizes.height))
        pixels = file.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            output_bps=16,
            output_color=rawpy.ColorSpace.sRGB,
            gamma=(2.4, 12.92),  # sRGB's curve, not LibRaw's default of BT.709
        )
    found = tiff.metadata_of(path)  # most raw files are TIFF files
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = turned_upright(found.exif) if found.exif else None
    metadata = Metadata(exif=exif, xmp=found.xmp, icc=srgb)
    notes = ["developed from raw by the camera's white balance, to sRGB"]
    if exif is None:
        notes.append("EXIF could not be read")
    pixels = np.ascontiguousarray(pixels)
    return StoredPhoto(pixels, None, "RAW", 1, metadata, Encoding(), tuple(notes))
