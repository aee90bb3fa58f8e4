"""Sources of numbered training photos: the base class, and folders. Broken photos are reported and skipped."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConfigurationError, UnreadablePhotoError
from ..files import printable, read_regular
from ..photos.pixels import LUMA_WEIGHTS
from ..photos.reading import decode_photo, list_photos, photo_size

logger = logging.getLogger(__name__)

# order(length, *keys): a permutation of range(length) that depends on the keys (epoch; of a stream: epoch, window)
Order = Callable[..., Sequence[int] | torch.Tensor]


class PhotoSource(ABC):
    """Photos by index, with the channels that training needs.

    A new kind of source defines `location`, `count`, `label`, `encoded` and `fingerprint`.

    Decoded photos are kept in memory, in their own bit depth, until `cache_bytes` are used; the rest is decoded every
    time. Worker processes started by fork share what was decoded before.

    Args:
        channels: 3 (gray is repeated) or 1 (color becomes BT.601 luma).
        cache_bytes: bound on the memory for decoded photos; 0 keeps none.
        argument: name of the caller's argument, for messages.

    Raises:
        ConfigurationError: `channels` is neither 1 nor 3.
    """

    location: str  # where the photos are, for messages

    def __init__(self, *, channels: int = 3, cache_bytes: int = 2**30, argument: str = "source"):
        if channels not in (1, 3):
            raise ConfigurationError(f"`channels` must be 1 (gray) or 3 (RGB), got {channels!r}")
        self.channels = channels
        self.cache_bytes = cache_bytes
        self.argument = argument
        self._skipped: dict[int, str] = {}
        self._journal = _Journal()
        self._cache: dict[int, torch.Tensor] = {}
        self._cached_bytes = 0

    @property
    @abstractmethod
    def count(self) -> int | None:
        """Number of photos, readable or not; None where it is not known (yet)."""

    @property
    def name(self) -> str:
        """A name for records and cards, without its parent folders."""
        return Path(self.location).name

    @abstractmethod
    def label(self, index: int) -> Path | str:
        """The name of photo `index` in `skipped`."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The file of photo `index`, as stored; raises OSError or UnreadablePhotoError."""

    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the data, without decoding it."""

    def pair_key(self, index: int) -> str:
        """Key that photo `index` shares with its counterpart in another source of this kind: their number."""
        return str(index)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of photo `index` by its header; raises as `encoded` does."""
        return photo_size(self.encoded(index), str(self.label(index)))

    def turn(self, position: int, order: Order) -> int:
        """Index of the photo at `position` (0, 1, ...) of the run: each photo comes once per epoch, in `order`."""
        epoch, step = divmod(position, len(self))
        return int(order(len(self), epoch)[step])

    def spread(self, most: int) -> list[int]:
        """At most `most` indices, equally spaced over the photos; of a stream of unknown length the first ones."""
        count = most if self.count is None else self.count
        return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()

    def sample(self, most: int, wanted: Callable[[int], bool] | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """The readable photos of `spread(most)`, each with its index; of a shorter stream, all photos.

        Args:
            most: largest number of photos.
            wanted: whether the photo of an index is to be read; None: all.
        """
        for index in self.spread(most) if wanted is None else filter(wanted, self.spread(most)):
            try:
                photo = self.try_photo(index)
            except IndexError:  # the stream has ended
                return
            if photo is not None:
                yield index, photo

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError(f"`{self.argument}`: the length of a stream is not known before its end")
        return self.count

    def __bool__(self) -> bool:
        return True  # a source is true even if its length is 0

    def __repr__(self) -> str:
        count = "?" if self.count is None else self.count
        return f"{type(self).__name__}({self.location!r}, {count} photos, {len(self.skipped)} skipped)"

    def __getstate__(self) -> dict[str, Any]:  # a spawned process decodes for itself
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}

    def photo(self, index: int) -> torch.Tensor:
        """Photo `index`, or the next readable one after it (cyclically).

        Returns:
            (C, H, W), uint8 or uint16; not to be written to.

        Raises:
            IndexError: outside [0, count).
            ConfigurationError: none of them can be read.
        """
        if index < 0 or (self.count is not None and index >= self.count):
            raise IndexError(f"photo {index} of {self.count}")
        candidates = self._from(index)
        for candidate in candidates:
            photo = self.try_photo(candidate)
            if photo is not None:
                return photo
        first = min(candidates)
        label = self.label(first)
        raise ConfigurationError(
            f"`{self.argument}`: none of the {len(candidates)} photos in {self.location!r} can be used, e.g. "
            f"{label.name if isinstance(label, Path) else label!r}: {self._skipped[first]}"
        )

    def _from(self, index: int) -> Sequence[int]:
        """The indices of photos that may replace photo `index`, itself first."""
        return _Cycle(index, len(self))

    def try_photo(self, index: int) -> torch.Tensor | None:
        """Photo `index` as from `photo`, or None where it is broken."""
        if index in self._cache:
            return self._cache[index]
        if index in self._skipped:
            return None
        try:
            pixels = decode_photo(self.encoded(index), str(self.label(index)))
        except UnreadablePhotoError as error:
            self.skip(index, error.reason)
            return None
        except OSError as error:
            self.skip(index, error.strerror or str(error))
            return None
        photo = torch.from_numpy(_with_channels(pixels, self.channels)).permute(2, 0, 1).contiguous()
        size = photo.untyped_storage().nbytes()
        if self.channels == 3 and photo.shape[0] == 1:
            photo = photo.expand(3, -1, -1)  # a view: gray takes a third of the memory
        if self._cached_bytes + size <= self.cache_bytes:
            self._cache[index] = photo
            self._cached_bytes += size
        return photo

    def skip(self, index: int, reason: str) -> None:
        """Leaves photo `index` out from now on, and logs why, once a process."""
        if index not in self._skipped:
            self._skipped[index] = reason
            self._journal.append(index, reason)
            logger.warning("`%s`: skipping %s: %s", self.argument, printable(str(self.label(index))), reason)

    @property
    def skipped(self) -> dict[Any, str]:
        """Photos found unreadable so far, by this process and its loader workers: `label` and reason, in order."""
        self._skipped.update(self._journal.unread())
        return {self.label(index): self._skipped[index] for index in sorted(self._skipped)}


class PhotoFolder(PhotoSource):
    """Photos of one folder, sorted by path.

    Args:
        folder: searched as by `photos.reading.list_photos`.
        channels, cache_bytes, argument: as for every `PhotoSource`.

    Attributes:
        folder: the folder, as a Path.
        paths: its photos, sorted; readable or not.

    Raises:
        ConfigurationError: missing or empty folder, or `channels` is neither 1 nor 3.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        channels: int = 3,
        cache_bytes: int = 2**30,
        argument: str = "folder",
    ):
        super().__init__(channels=channels, cache_bytes=cache_bytes, argument=argument)
        self.folder = Path(folder).expanduser()
        self.location = str(self.folder)
        self.paths = list_photos(self.folder, argument=argument)

    @property
    def count(self) -> int:
        """Number of photos."""
        return len(self.paths)

    def label(self, index: int) -> Path:
        """The photo's path."""
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        """The file."""
        return read_regular(self.paths[index])

    def size(self, index: int) -> tuple[int, int]:
        """(width, height); only the header is read."""
        return photo_size(self.paths[index])

    def pair_key(self, index: int) -> str:
        """The path within the folder, without the suffix."""
        return self.paths[index].relative_to(self.folder).with_suffix("").as_posix()

    def fingerprint(self) -> str:
        """Of the names (within the folder) and sizes of the photos."""
        return digest_of_files((name.replace(os.sep, "/"), self._bytes(name)) for name in self.paths.names())

    def _bytes(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self.location, name)).st_size
        except OSError:  # a broken link
            return -1


def digest_of_files(files: Iterable[tuple[str, int]]) -> str:
    """16 hexadecimal digits of names and sizes in bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for name, size in files:
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class _Cycle(Sequence[int]):
    """start, start + 1, ..., length - 1, 0, ..., start - 1, computed on access."""

    def __init__(self, start: int, length: int):
        self.start, self.length = start, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position):
        if not 0 <= position < self.length:
            raise IndexError(position)
        return (self.start + position) % self.length


class _Journal:
    """Unreadable photos found by the processes that share a source: lines in a temporary file of the first process.

    A file, because it serves forked and spawned workers alike and outlives those that were killed.
    """

    def __init__(self) -> None:
        self.path = os.path.join(tempfile.gettempdir(), f"daa-skipped-{uuid.uuid4().hex}.jsonl")
        self._offset = 0
        weakref.finalize(self, _remove, self.path, os.getpid())

    def append(self, index: int, reason: str) -> None:
        # a single write to a file opened for appending: lines of several processes do not mix
        with contextlib.suppress(OSError), open(self.path, "ab", buffering=0) as file:
            file.write(json.dumps([index, reason]).encode() + b"\n")

    def unread(self) -> dict[int, str]:
        """The lines since the last call."""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
            self._offset += len(whole) + bool(whole)
            return dict(json.loads(line) for line in whole.splitlines())
        return {}


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker ends before the process that reads the file
        with contextlib.suppress(OSError):
            os.unlink(path)


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 1 or 3) -> (H, W, 1) where gray is wanted or given, else unchanged."""
    if channels == 3 or pixels.shape[-1] == 1:
        return pixels
    return np.rint(pixels @ LUMA_WEIGHTS).astype(pixels.dtype)[..., None]
