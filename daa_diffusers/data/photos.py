"""A folder of photos as a source of training samples: decoded once, broken files reported and passed over."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConfigurationError, UnreadablePhotoError
from ..photos.reading import list_photos, read_photo

logger = logging.getLogger(__name__)

# ITU-R BT.601, as Pillow's mode "L"
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class PhotoFolder:
    """Photos of one folder by index, with the channels that training wants.

    Decoded photos are kept in memory, in their own bit depth, until `cache_bytes` are used; the rest is decoded every
    time. Worker processes started by fork share what was decoded before.

    Args:
        folder: searched as by `photos.reading.list_photos`.
        channels: 3 (grey is repeated) or 1 (colour becomes BT.601 luma).
        cache_bytes: bound on the memory for decoded photos; 0 keeps none.
        argument: what the caller calls `folder`, for messages.

    Attributes:
        folder: the folder, as a Path.
        paths: its photos, sorted; readable or not.
        skipped: files found unreadable so far, with the reason. Each is logged once a process.

    Raises:
        ConfigurationError: on a missing or empty folder, or other `channels`.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        channels: int = 3,
        cache_bytes: int = 2**30,
        argument: str = "folder",
    ):
        if channels not in (1, 3):
            raise ConfigurationError(f"`channels` must be 1 (grey) or 3 (RGB), got {channels!r}")
        self.folder = Path(folder).expanduser()
        self.paths = list_photos(self.folder, argument=argument)
        self.channels = channels
        self.cache_bytes = cache_bytes
        self.argument = argument
        self.skipped: dict[Path, str] = {}
        self._cache: dict[int, torch.Tensor] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"PhotoFolder({str(self.folder)!r}, {len(self)} photos, {len(self.skipped)} skipped)"

    def __getstate__(self) -> dict[str, Any]:  # a spawned process decodes for itself
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}

    def photo(self, index: int) -> torch.Tensor:
        """Photo `index`, or the next readable one after it (cyclically).

        Returns:
            (C, H, W), uint8 or uint16; not to be written to.

        Raises:
            IndexError: outside [0, len).
            ConfigurationError: no photo of the folder can be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"photo {index} of {len(self)}")
        for offset in range(len(self)):
            photo = self.try_photo((index + offset) % len(self))
            if photo is not None:
                return photo
        path, reason = self.paths[0], self.skipped[self.paths[0]]
        raise ConfigurationError(
            f"`{self.argument}`: none of the {len(self)} photos in {str(self.folder)!r} can be used, e.g. "
            f"{path.name!r}: {reason}"
        )

    def try_photo(self, index: int) -> torch.Tensor | None:
        """Photo `index` as from `photo`, or None where it is broken."""
        if index in self._cache:
            return self._cache[index]
        if self.paths[index] in self.skipped:
            return None
        try:
            pixels = read_photo(self.paths[index])
        except UnreadablePhotoError as error:
            self.skip(index, str(error))
            return None
        photo = torch.from_numpy(_with_channels(pixels, self.channels)).permute(2, 0, 1).contiguous()
        size = photo.untyped_storage().nbytes()
        if self.channels == 3 and photo.shape[0] == 1:
            photo = photo.expand(3, -1, -1)  # a view: grey takes a third of the memory
        if self._cached_bytes + size <= self.cache_bytes:
            self._cache[index] = photo
            self._cached_bytes += size
        return photo

    def skip(self, index: int, reason: str) -> None:
        """Leaves photo `index` out from now on, and logs why."""
        path = self.paths[index]
        if path not in self.skipped:
            self.skipped[path] = reason
            logger.warning("`%s`: skipping %s: %s", self.argument, path, reason)

    def preload(self) -> None:
        """Decodes photos until the cache is full: before processes are forked, so that they share it."""
        for index in range(len(self)):
            if self._cached_bytes >= self.cache_bytes:
                break
            self.try_photo(index)

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the names (within the folder) and sizes of the photos: the same data or not."""
        digest = hashlib.blake2b(digest_size=8)
        for path in self.paths:
            size = path.stat().st_size if path.exists() else -1
            digest.update(f"{path.relative_to(self.folder).as_posix()}\0{size}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 1 or 3) -> (H, W, 1) where grey is wanted or given, else unchanged."""
    if channels == 3 or pixels.shape[-1] == 1:
        return pixels
    return np.rint(pixels @ LUMA_WEIGHTS).astype(pixels.dtype)[..., None]
