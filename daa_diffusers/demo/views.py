"""Views of a photo before and after restoration: the whole photo, or a zoomed part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import replacing

if TYPE_CHECKING:
    from PIL import Image

VIEW = 1600  # pixels, longer side of the view of a whole photo
THUMBNAIL = 160  # pixels, longer side
CROP = (600, 420)  # pixels, width and height of the view of a zoomed part


@dataclass(frozen=True)
class Pair:
    """Files of a photo before and after restoration."""

    before: str
    after: str


def views(pair: Pair, zoom: int, across: float = 0.5, down: float = 0.5) -> tuple[Path, Path]:
    """Writes PNG files of a photo before and after restoration: upright, in its color space, on white.

    Args:
        pair: files of the photo.
        zoom: 0 for the whole photo, reduced to `VIEW`; 1 or 2 for a part, shown with that many pixels per pixel.
        across, down: position of the part, from 0 (left, top) to 1 (right, bottom).

    Raises:
        UnreadablePhotoError: a file does not exist any more.
    """
    from PIL import Image

    result = []
    for name, file in (("before", pair.before), ("after", pair.after)):
        pixels, icc = _shown(file)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if zoom == 0:
            image.thumbnail((VIEW, VIEW), Image.Resampling.LANCZOS)
        else:
            width, height = (min(side, most // zoom) for side, most in zip(image.size, CROP, strict=True))
            left, top = round(across * (image.width - width)), round(down * (image.height - height))
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((zoom * width, zoom * height), Image.Resampling.NEAREST)
            image = _centered(image)  # constant size, so that the page scales all parts equally
        path = Path(pair.after).parent / f"{name}.view.png"
        with replacing(path) as temporary:
            image.save(temporary, icc_profile=icc, compress_level=1)
        result.append(path)
    return result[0], result[1]


def thumbnails(files: Sequence[str], folder: Path) -> list[Path]:
    """Writes a small PNG of each file to a folder, with the same stem."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    result = [folder / f"{Path(file).stem}.png" for file in files]
    for file, path in zip(files, result, strict=True):
        with Image.open(file) as image, replacing(path) as temporary:
            image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            image.save(temporary, format="PNG")
    return result


def _centered(image: Image.Image) -> Image.Image:
    """Pads an image to the size `CROP` with the gray of the page's background."""
    from PIL import Image

    full = Image.new(image.mode, CROP, 244 if image.mode == "L" else (244, 244, 245))
    full.paste(image, ((CROP[0] - image.width) // 2, (CROP[1] - image.height) // 2))
    return full


@lru_cache(maxsize=2)  # for one photo, before and after restoration
def _shown(file: str) -> tuple[np.ndarray, bytes | None]:
    """Returns the pixels (H, W, 1 or 3) of a photo, uint8, upright, on white, and their color profile."""
    from ..photos import open_photo
    from ..photos.stored import upright, with_bits

    photo = open_photo(file, max_megapixels=1e5)  # the size was checked during restoration
    pixels = with_bits(photo.pixels, 8)
    if photo.alpha is not None:
        alpha = with_bits(photo.alpha, 8)[..., None].astype(np.uint16)  # (H, W, 1)
        pixels = ((pixels * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(upright(pixels, photo.orientation)), photo.metadata.icc
