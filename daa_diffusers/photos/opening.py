"""Opening photos to restore them: the stored pixels in their own depth, and all that the file says about them."""

import io
import math
import os
import re
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from ..errors import ConfigurationError, UnreadablePhotoError
from . import heic, jpeg, png, raw, tiff
from .exif import orientation_of
from .reading import COLOUR_MODES, GREY_MODES, PNG_SIGNATURE, TIFF_SIGNATURES
from .stored import Encoding, Metadata, StoredPhoto, rescaled, strips

DEFAULT_MAX_MEGAPIXELS = 300.0  # cameras reach 200; what a file claims is held against it before memory is taken
# The only decoders that a file may choose: some of Pillow's others run programs, or read no photos.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "PPM", "TIFF")
ALPHA_MODES = frozenset({"LA", "PA", "RGBA"})
_NETPBM_HEADER = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
_pillow_limit = threading.Lock()


def open_photo(path: str | os.PathLike, *, max_megapixels: float | None = None) -> StoredPhoto:
    """Opens a photo for restoration: nothing is turned, blended, or taken out of its colour space.

    The pixels stay as stored, and so does the orientation that shows them upright (`StoredPhoto.orientation`).
    Palettes become RGB, black and white becomes grey, CMYK becomes sRGB (by its profile, where there is one); `notes`
    says so. Of several pictures in one file the first is taken. Uncompressed large TIFFs are mapped, not read.

    Args:
        path: a file in any format of `PHOTO_SUFFIXES`; HEIC and raw files with the extras `heic` and `raw`. The content
            decides, not the name, except for raw files.
        max_megapixels: the largest size that is opened, held against the header before memory is taken. None: 300.

    Raises:
        UnreadablePhotoError: no such file, no photo, broken or truncated, too large, or samples that no restorer can
            take (`read_photo` says which).
        ConfigurationError: a missing extra, or `max_megapixels` that is no positive number.
    """
    path = Path(path)
    limit = pixel_limit(max_megapixels)
    try:
        if not path.is_file():
            raise UnreadablePhotoError("no such file" if not path.exists() else "not a file")
        with open(path, "rb") as file:
            start = file.read(64)
        if not start:
            raise UnreadablePhotoError("the file is empty")
        return _open(path, start, limit)
    except UnidentifiedImageError:
        raise UnreadablePhotoError(
            f"cannot read photo {str(path)!r}: its content is no photo in a known format"
        ) from None
    except ConfigurationError:
        raise
    except MemoryError as error:
        raise UnreadablePhotoError(f"cannot read photo {str(path)!r}: not enough memory") from error
    except (
        Exception
    ) as error:  # decoders raise nearly anything on broken files: OSError, SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise UnreadablePhotoError(f"cannot read photo {str(path)!r}: {reason}") from error


def pixel_limit(max_megapixels: float | None) -> int:
    """`max_megapixels` in pixels.

    Raises:
        ConfigurationError: where it is no positive number.
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
        raise _too_large(f"{width} x {height} pixels", limit)


def _too_large(what: str, limit: int) -> UnreadablePhotoError:
    return UnreadablePhotoError(
        f"{what} are more than `max_megapixels` {limit / 1e6:g}; if the file is what it claims to be, raise that"
    )


def _open(path: Path, start: bytes, limit: int) -> StoredPhoto:
    def check(width: int, height: int) -> None:
        check_size(width, height, limit)

    if path.suffix.lower() in raw.RAW_SUFFIXES:
        return raw.read(path, check)
    if heic.is_heic(start):
        return heic.read(path, check)
    if start.startswith(TIFF_SIGNATURES):
        photo = tiff.read(path, check)
        if photo is not None:
            return photo
    with open(path, "rb") as file, _opened_by_pillow(file, limit) as image:
        check(*image.size)
        if start.startswith(PNG_SIGNATURE):
            return _read_png(path, image)
        if image.format == "PPM" and (photo := _read_binary_netpbm(path, image.size)) is not None:
            return photo
        if image.format in ("JPEG", "MPO"):
            jpeg.check_scans(path, image)
        return _read_by_pillow(path, image)


def _opened_by_pillow(file: io.BufferedReader, limit: int) -> Image.Image:
    """Reads the header; what Pillow allocates while it does so keeps to our limit instead of Pillow's own."""
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        kept = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = math.ceil(limit / 2)  # Pillow refuses twice that
        try:
            return Image.open(file, formats=PILLOW_FORMATS)
        except Image.DecompressionBombError:
            raise _too_large("its pixels", limit) from None
        finally:
            Image.MAX_IMAGE_PIXELS = kept


# --- Pillow's formats, of 8 bits ---


def _read_by_pillow(path: Path, image: Image.Image) -> StoredPhoto:
    notes = []
    if getattr(image, "n_frames", 1) > 1 or "mp" in image.info:
        notes.append("only the first picture of the file is kept (no gain map, preview or further frames)")
    format_ = {"MPO": "JPEG", "PPM": "PNM"}.get(str(image.format), str(image.format))
    encoding = Encoding()
    blocks: tuple[tuple[str, bytes], ...] = ()
    if format_ == "JPEG":
        encoding, blocks = jpeg.encoding_of(image), jpeg.blocks_of(image)
    elif format_ == "WEBP":
        with open(path, "rb") as file:
            encoding = Encoding(lossless=b"VP8L" in file.read(2**16))
    elif format_ == "AVIF":
        notes += _check_avif(path)
    metadata = tiff.metadata_of(path) if format_ == "TIFF" else pillow_metadata(image, blocks)
    pixels, alpha, converted = _pixels(image, metadata.icc)
    if converted:
        notes.append(converted)
        if image.mode == "CMYK":
            srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
            metadata = Metadata(metadata.exif, metadata.xmp, srgb, metadata.dpi, metadata.blocks)
            encoding = Encoding()
    return StoredPhoto(pixels, alpha, format_, orientation_of(metadata.exif), metadata, encoding, tuple(notes))


def pillow_metadata(image: Image.Image, blocks: tuple[tuple[str, bytes], ...] = ()) -> Metadata:
    """What Pillow found beside the pixels."""
    exif = image.info.get("exif")
    xmp = image.info.get("xmp")
    dpi = image.info.get("dpi")
    usable = isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(one) < 1e5 for one in dpi)
    return Metadata(
        exif=exif.removeprefix(b"Exif\0\0") or None if isinstance(exif, bytes) else None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
        icc=image.info.get("icc_profile") or None,
        dpi=(float(dpi[0]), float(dpi[1])) if usable else None,  # type: ignore[index]
        blocks=blocks,
    )


def _pixels(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Colours (H, W, 1 or 3), alpha (H, W) or None, and what was converted ("": nothing); strip by strip."""
    if image.mode not in GREY_MODES | COLOUR_MODES or image.mode in ("LAB", "YCbCr"):
        raise UnreadablePhotoError(
            f"samples of mode {image.mode!r}; grey, RGB, palettes and CMYK of 8 bits, grey and RGB of 16 are supported"
        )
    grey = image.mode in GREY_MODES
    has_alpha = image.mode in ALPHA_MODES or (image.has_transparency_data and image.mode != "1")
    mode = ("LA" if has_alpha else "L") if grey else ("RGBA" if has_alpha else "RGB")
    note, transform = "", None
    if image.mode == "CMYK":
        transform, note = _from_cmyk(icc)
    elif image.mode in ("P", "PA"):
        note = f"the palette became {mode}"
    elif image.mode == "1":
        note = "black and white became grey of 8 bits"
    elif has_alpha and image.mode not in ALPHA_MODES:
        note = "the transparent colour became an alpha channel"
    image.load()
    width, height = image.size
    pixels = np.empty((height, width, 1 if grey else 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if has_alpha else None
    for rows in strips(pixels.shape):
        strip = image.crop((0, rows.start, width, rows.stop))
        converted = strip.convert(mode) if transform is None else ImageCms.applyTransform(strip, transform)
        values = np.asarray(converted).reshape(rows.stop - rows.start, width, -1)
        pixels[rows] = values[..., : pixels.shape[2]]
        if alpha is not None:
            alpha[rows] = values[..., -1]
    return pixels, alpha, note


def _from_cmyk(icc: bytes | None):
    """A transformation to sRGB by the file's profile (None without one), and the note about it."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.buildTransform(profile, srgb, "CMYK", "RGB"), "CMYK became sRGB by its colour profile"
        except (ImageCms.PyCMSError, OSError):
            pass
    return None, "CMYK became RGB without a colour profile: colours are approximate"


def _check_avif(path: Path) -> list[str]:
    """Notes on an AVIF's colour and depth, which Pillow does not tell.

    Raises:
        UnreadablePhotoError: for HDR: its 8-bit reading would be neither the photo nor a restoration of it.
    """
    with open(path, "rb") as file:
        start = file.read(2**16)
    notes = []
    if (at := start.find(b"colrnclx")) >= 0 and len(start) >= at + 12:
        primaries = int.from_bytes(start[at + 8 : at + 10], "big")
        transfer = int.from_bytes(start[at + 10 : at + 12], "big")
        if transfer in (16, 18):
            raise UnreadablePhotoError("HDR (PQ or HLG) AVIF is not supported; convert it to SDR first")
        if primaries not in (1, 2) and b"colrprof" not in start and b"colrrICC" not in start:
            raise UnreadablePhotoError(
                f"an AVIF of colour primaries {primaries} without an ICC profile is not supported: convert it first"
            )
    if (at := start.find(b"pixi")) >= 0 and len(start) > at + 9 and start[at + 9] > 8:
        notes.append(f"{start[at + 9]} bits per sample became 8")
    return notes


# --- PNG and PNM ---


def _read_png(path: Path, image: Image.Image) -> StoredPhoto:
    chunks = png.read_chunks(path)
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append("only the first frame of the animation is kept")
    if png.bit_depth(path) == 16:
        image.verify()  # the checksums of all chunks: imagecodecs does not mind wrong ones
        pixels, alpha = png.decode_deep(path.read_bytes())
    else:
        pixels, alpha, note = _pixels(image, None)
        notes += [note] if note else []
    metadata = png.metadata_of(chunks, pillow_metadata(image))
    return StoredPhoto(pixels, alpha, "PNG", orientation_of(metadata.exif), metadata, Encoding(), tuple(notes))


def _read_binary_netpbm(path: Path, size: tuple[int, int]) -> StoredPhoto | None:
    """A binary grey or colour PNM whose largest value is not 255; None for the others, which Pillow reads."""
    with open(path, "rb") as file:
        found = _NETPBM_HEADER.match(file.read(4096))
    if found is None or int(found[4]) == 255:
        return None
    channels, maximum = (1 if found[1] == b"5" else 3), int(found[4])
    if not 0 < maximum <= 65535 or (int(found[2]), int(found[3])) != size:
        raise UnreadablePhotoError(f"a PNM with largest value {maximum}; 1 to 65535 are possible")
    shape = (size[1], size[0], channels)
    values = np.fromfile(path, ">u2" if maximum > 255 else "u1", math.prod(shape), offset=found.end())
    if values.size < math.prod(shape):
        raise UnreadablePhotoError("image file is truncated")
    pixels = rescaled(values.reshape(shape), maximum, 65535, np.uint16)
    pixels = np.ascontiguousarray(pixels, dtype=np.uint16)  # the machine's byte order
    return StoredPhoto(pixels, None, "PNM", encoding=Encoding(maximum=maximum))
