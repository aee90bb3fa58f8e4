"""Photos from files: whole bit depth, upright, one or three channels; a typed error for everything that is no photo."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..errors import ConfigurationError, UnreadablePhotoError

if TYPE_CHECKING:
    import torch

# Formats whose decoders ship with Pillow, imagecodecs and tifffile; lower case.
PHOTO_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION_TAG = 0x0112
# Pillow's modes of what its plugins open; "I" is what it makes of a PGM of more than 8 bits, scaled to 16.
GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB"})
GREY_DEEP_MODES = frozenset({"I", "I;16", "I;16B"})


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """Reads one photo, upright (EXIF orientation applied), in its own bit depth.

    Alpha is dropped, not blended: what is wanted is what the camera saw. Palettes, CMYK and other colour models become
    RGB; black-and-white becomes grey. Colour profiles are not applied. Of several frames the first is read.

    Args:
        path: a file in any format of `PHOTO_SUFFIXES`; its content decides, not its name.

    Returns:
        (H, W, C), C = 1 (grey) or 3 (RGB), uint8 in [0, 255] or uint16 in [0, 65535], contiguous, writable.

    Raises:
        UnreadablePhotoError: no such file, no photo, broken or truncated, without pixels, more pixels than Pillow's
            limit against decompression bombs (twice `PIL.Image.MAX_IMAGE_PIXELS`), or samples that are neither 8
            nor 16 bits of unsigned integer.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UnreadablePhotoError("no such file" if not path.exists() else "not a file")
        content = path.read_bytes()
    except (OSError, UnreadablePhotoError) as error:
        raise UnreadablePhotoError(f"cannot read photo {str(path)!r}: {error}") from error
    return decode_photo(content, str(path))


def decode_photo(content: bytes, name: str = "photo") -> np.ndarray:
    """As `read_photo`, from the bytes of a file: of a dataset's row, or a member of an archive.

    Args:
        content: the whole file.
        name: what messages call it.
    """
    try:
        if not content:
            raise UnreadablePhotoError("the file is empty")
        photo = _decode(content)
        if photo.size == 0:
            raise UnreadablePhotoError(f"it has no pixels, {photo.shape[1]} x {photo.shape[0]}")
    except UnidentifiedImageError:
        raise UnreadablePhotoError(f"cannot read photo {name!r}: {_not_a_photo(name)}") from None
    except (
        Exception
    ) as error:  # decoders raise nearly anything on broken files: OSError, SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise UnreadablePhotoError(f"cannot read photo {name!r}: {reason}") from error
    return np.require(photo, requirements=["C", "W"])


def photo_size(photo: str | os.PathLike | bytes) -> tuple[int, int]:
    """(width, height) as stored (EXIF orientation not applied), from the header alone: a broken photo may pass.

    Args:
        photo: a file, or the bytes of one.

    Raises:
        UnreadablePhotoError: no such file, or no header of a photo.
    """
    try:
        start = photo[:4] if isinstance(photo, bytes) else _first_bytes(photo)
        source = io.BytesIO(photo) if isinstance(photo, bytes) else Path(photo)
        if start.startswith(TIFF_SIGNATURES):
            import tifffile

            with tifffile.TiffFile(source) as file:
                return file.pages.first.imagewidth, file.pages.first.imagelength
        with Image.open(source) as image:
            return image.size
    except Exception as error:  # as in `decode_photo`
        name = "photo" if isinstance(photo, bytes) else repr(str(photo))
        raise UnreadablePhotoError(f"cannot read the header of {name}: {error}") from error


def _first_bytes(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def _not_a_photo(name: str) -> str:
    if os.path.splitext(name)[1].lower() in {".heic", ".heif"}:
        return "HEIC is not supported; export it as JPEG, PNG or TIFF"
    return "its content is no image in a known format"


def _decode(content: bytes) -> np.ndarray:
    if content.startswith(TIFF_SIGNATURES):
        photo = _decode_deep_tiff(content)
        if photo is not None:
            return photo
    with Image.open(io.BytesIO(content)) as image:  # reads the header only, and refuses decompression bombs
        if content.startswith(PNG_SIGNATURE) and content[24] == 16:
            return _decode_deep_png(content, image)
        if image.format == "PPM" and image.mode == "RGB" and image.tile and image.tile[0].codec_name == "ppm":
            return _decode_deep_ppm(content, image)
        if image.mode in GREY_DEEP_MODES:
            return np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)[..., None]
        if image.mode not in GREY_MODES | COLOUR_MODES:
            raise UnreadablePhotoError(
                f"samples of mode {image.mode!r}; 8 or 16 bits of unsigned integer are supported"
            )
        grey = image.mode in GREY_MODES
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("L" if grey else "RGB"))
        return pixels[..., None] if grey else pixels


def _decode_deep_png(content: bytes, image: Image.Image) -> np.ndarray:
    """A PNG of 16 bits, of which Pillow would keep 8.

    torchvision keeps them too, but crashes the whole process on some broken files; imagecodecs raises.
    """
    import imagecodecs

    image.load()  # checks every chunk, with clearer messages
    pixels = imagecodecs.png_decode(content)
    return upright(_without_alpha(pixels), image.getexif().get(ORIENTATION_TAG, 1))


def _decode_deep_ppm(content: bytes, image: ImageFile.ImageFile) -> np.ndarray:
    """A binary PPM whose largest value is not 255 (raw converters write them), of which Pillow would keep 8 bits."""
    tile = image.tile[0]
    largest = tile.args[1] if isinstance(tile.args, tuple) else 255  # the codec is given mode and largest value
    samples = 3 * image.width * image.height
    pixels = np.frombuffer(content, ">u2" if largest > 255 else "u1", samples, tile.offset)
    pixels = np.rint(pixels.astype(np.float32) * (65535 / largest)).clip(0, 65535).astype(np.uint16)
    return pixels.reshape(image.height, image.width, 3)


def _decode_deep_tiff(content: bytes) -> np.ndarray | None:
    """A TIFF of 16 bits as uint16, None for one of at most 8 (Pillow reads those in all their colour models)."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        if not file.pages:
            raise UnreadablePhotoError("the TIFF holds no image")
        page = file.pages.first
        _check_pixel_count(page.imagewidth, page.imagelength)
        if page.bitspersample <= 8 and page.sampleformat in {None, 1}:
            return None
        kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}.get(page.sampleformat or 1, "unknown")
        if page.bitspersample != 16 or kind != "unsigned integer":
            raise UnreadablePhotoError(
                f"TIFF samples of {page.bitspersample} bits, {kind}; 8 or 16 bits of unsigned integer are supported "
                "(the range of anything else is a guess: convert it first)"
            )
        photometric = getattr(page.photometric, "name", str(page.photometric))
        if photometric not in {"MINISBLACK", "MINISWHITE", "RGB"}:
            raise UnreadablePhotoError(f"TIFF of 16 bits in {photometric}; grey and RGB are supported")
        if page.imagedepth != 1:
            raise UnreadablePhotoError("TIFF volumes are not supported")
        pixels = page.asarray()
        if page.axes.startswith("S"):  # planes one after another
            pixels = np.moveaxis(pixels, 0, -1)
        if photometric == "MINISWHITE":
            pixels = 65535 - pixels
        orientation = page.tags.get(ORIENTATION_TAG)
        return upright(_without_alpha(pixels), int(orientation.value) if orientation else 1)


def _check_pixel_count(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise UnreadablePhotoError(f"{width} x {height} pixels are more than the limit of {2 * limit}")


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, S) -> (H, W, 1 or 3), extra samples dropped."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels[..., : 1 if pixels.shape[-1] < 3 else 3]


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (1 to 8; anything else changes nothing) to (H, W, C)."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return pixels


def list_photos(
    folder: str | os.PathLike, argument: str = "folder", suffixes: frozenset[str] = PHOTO_SUFFIXES
) -> list[Path]:
    """All photos in a folder and its subfolders, sorted by path.

    Known by suffix, upper or lower case. Hidden files and folders are skipped; links to folders are followed, each real
    folder being visited once.

    Args:
        folder: where to look.
        argument: what the caller calls `folder`, for messages.
        suffixes: those of photos, lower case.

    Raises:
        ConfigurationError: no such folder, not a folder, or no photo in it.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise ConfigurationError(f"`{argument}` must be an existing folder, got {str(folder)!r}")
    if not folder.is_dir():
        raise ConfigurationError(f"`{argument}` must be a folder of photos, got the file {str(folder)!r}")
    photos: list[Path] = []
    others: Counter[str] = Counter()
    visited = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        new = []
        for name in sorted(folders):  # sorted, so that the same one of two links is followed everywhere
            real = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and real not in visited:
                visited.add(real)
                new.append(name)
        folders[:] = new
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in suffixes:
                photos.append(Path(parent, name))
            else:
                others[suffix or "no suffix"] += 1
    if not photos:
        found = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(5)) or "nothing"
        raise ConfigurationError(
            f"`{argument}` must hold photos ({', '.join(sorted(suffixes))}); in {str(folder)!r} there is {found}"
        )
    return sorted(photos)


def to_float(photo: np.ndarray) -> torch.Tensor:
    """(H, W, C) uint8 or uint16 (as `read_photo` gives) -> (C, H, W) float32 in [0, 1].

    Raises:
        ValueError: on another rank or dtype.
    """
    if photo.ndim != 3 or photo.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"`photo` must be (H, W, C) of uint8 or uint16, got {photo.shape} of {photo.dtype}")
    import torch

    scaled = photo.astype(np.float32) / np.float32(np.iinfo(photo.dtype).max)
    return torch.from_numpy(scaled).permute(2, 0, 1).contiguous()
