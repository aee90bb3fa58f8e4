"""Photos of one folder, or pairs of two folders, read one at a time for evaluation."""

import os
import re
from collections.abc import Sequence

import torch

from ..degradations.jpeg_coding import jpeg_quality
from ..errors import ConfigurationError, UnreadablePhotoError
from ..photos.reading import decode_photo, to_float
from ..sources.folders import PhotoFolder
from ..sources.sampling import pair_by_name


class PhotoPairs:
    """Degraded photos and their clean counterparts, if any.

    Args:
        degraded, clean: folders, searched recursively; `clean` is None without ground truth.
        clean_name: a regular expression and its replacement, which convert the name of a degraded photo to that of the
            clean one: `(r"(.*)_\\d+", r"im\\1")` for `2_4.png` and `im2.png`. Several degraded photos may share a clean
            one. None: names (without suffixes) are equal.

    Attributes:
        names: names of the degraded photos within their folder.

    Raises:
        ConfigurationError: a folder is missing or empty, or photos have no counterpart (they are listed).
    """

    def __init__(
        self,
        degraded: str | os.PathLike[str],
        clean: str | os.PathLike[str] | None = None,
        clean_name: Sequence[str] | None = None,
    ):
        self.degraded = PhotoFolder(degraded, argument="degraded")
        self.clean = None if clean is None else PhotoFolder(clean, argument="clean")
        # (degraded, clean); -1: no clean photo
        if self.clean is None:
            self._indices = [(index, -1) for index in range(self.degraded.count)]
        elif clean_name is None:
            self._indices = pair_by_name(self.degraded, self.clean)
        else:
            self._indices = _pair_by_pattern(self.degraded, self.clean, clean_name)
        self.names = [_name(self.degraded, index) for index, _ in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def jpeg_quality(self, index: int) -> int | None:
        """Returns libjpeg's quality of the file of a degraded photo; None for other files."""
        return jpeg_quality(self.degraded.encoded(self._indices[index][0]))

    def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Reads (degraded, clean), each (C, H, W) float32 in [0, 1]; grayscale is repeated if the other is color.

        Raises:
            UnreadablePhotoError: a photo cannot be read, or their sizes differ.
        """
        degraded_index, clean_index = self._indices[index]
        degraded = _read(self.degraded, degraded_index)
        if self.clean is None:
            return degraded, None
        clean = _read(self.clean, clean_index)
        if degraded.shape[1:] != clean.shape[1:]:
            sizes = [f"{photo.shape[2]} x {photo.shape[1]}" for photo in (degraded, clean)]
            raise UnreadablePhotoError(f"{sizes[0]} pixels, but its clean counterpart has {sizes[1]}")
        channels = max(len(degraded), len(clean))
        return degraded.expand(channels, -1, -1), clean.expand(channels, -1, -1)


def _pair_by_pattern(degraded: PhotoFolder, clean: PhotoFolder, clean_name: Sequence[str]) -> list[tuple[int, int]]:
    """Returns indices (degraded, clean) of pairs; `clean_name` as for `PhotoPairs`."""
    try:
        pattern, replacement = clean_name
        keys = [degraded.pair_key(index) for index in range(degraded.count)]
        clean_keys = [re.sub(pattern, replacement, key, count=1) for key in keys]
    except (ValueError, TypeError, re.error, IndexError) as error:
        raise ConfigurationError(
            f"`clean_name` must be a regular expression and its replacement, got {clean_name!r}: {error}"
        ) from error
    clean_indices = {clean.pair_key(index): index for index in range(clean.count)}
    missing = [f"{a} (as {b})" for a, b in zip(keys, clean_keys, strict=True) if b not in clean_indices]
    unused = sorted(set(clean_indices) - set(clean_keys))
    if missing or unused:
        raise ConfigurationError(
            f"`degraded` and `clean` must pair by `clean_name` {tuple(clean_name)}; without a clean photo: "
            f"{missing[:10]}, without a degraded one: {unused[:10]}"
        )
    return [(index, clean_indices[key]) for index, key in enumerate(clean_keys)]


def _name(folder: PhotoFolder, index: int) -> str:
    """Returns the name of a photo within its folder."""
    return folder.paths[index].relative_to(folder.folder).as_posix()


def _read(folder: PhotoFolder, index: int) -> torch.Tensor:
    """Reads a photo (C, H, W), float32 in [0, 1]; raises UnreadablePhotoError."""
    name = f"{folder.folder.resolve().name}/{_name(folder, index)}"  # no local paths: reports quote the message
    if folder.argument == "clean":
        name += " (clean)"
    try:
        return to_float(decode_photo(folder.encoded(index), name))
    except OSError as error:
        raise UnreadablePhotoError(f"cannot read photo {name!r}: {error.strerror}") from error
