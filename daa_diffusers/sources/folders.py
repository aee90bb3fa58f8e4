"""Sources of numbered photos: the base class, and folders. Unreadable photos are reported and skipped."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConfigurationError, UnreadablePhotoError
from ..files import printable, read_regular
from ..photos.pixels import LUMA_WEIGHTS
from ..photos.reading import decode_photo, list_photos, photo_size

logger = logging.getLogger(__name__)

# order(length, *keys) -> permutation of range(length); keys are the epoch and, for a stream, the window
Order = Callable[..., Sequence[int] | torch.Tensor]


class PhotoSource(ABC):
    """Photos by index, with a given number of channels.

    A new kind of source defines `location`, `count`, `label`, `encoded` and `fingerprint`.

    Decoded photos are cached, in their own bit depth, until `cache_bytes` are used; the others are decoded at every
    access. Forked worker processes share the photos cached before.

    Args:
        channels: 3 (grayscale is repeated) or 1 (color is converted to BT.601 luma).
        cache_bytes: size limit of the cache of decoded photos; 0: no cache.
        argument: name of the caller's argument, for messages.

    Attributes:
        location: path or name of the source, for messages.

    Raises:
        ConfigurationError: `channels` is neither 1 nor 3.
    """

    location: str

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
        """Number of photos, readable or not; None while it is unknown."""

    @property
    def name(self) -> str:
        """Name for records and model cards, without parent folders."""
        return Path(self.location).name

    @abstractmethod
    def label(self, index: int) -> Path | str:
        """Returns the name of photo `index`, as used in `skipped`."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Returns the file of photo `index`; raises OSError or UnreadablePhotoError."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that identify the photos, without decoding them."""

    def pair_key(self, index: int) -> str:
        """Returns the key by which photo `index` is paired with a photo of another source; by default the index."""
        return str(index)

    def size(self, index: int) -> tuple[int, int]:
        """Returns (width, height) of photo `index` from its header; raises the errors of `encoded`."""
        return photo_size(self.encoded(index), str(self.label(index)))

    def index_at(self, position: int, order: Order) -> int:
        """Returns the index of the photo at `position` (0, 1, ...); every epoch uses each photo once, in `order`."""
        epoch, step = divmod(position, len(self))
        return int(order(len(self), epoch)[step])

    def spread(self, most: int) -> list[int]:
        """Returns up to `most` equally spaced indices; for a stream of unknown length, the first ones."""
        count = most if self.count is None else self.count
        return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()

    def sample(
        self,
        most: int,
        wanted: Callable[[int], bool] | None = None,
        *,
        seconds: float | None = None,
        enough: Callable[[], bool] = lambda: True,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields the readable photos of `spread(most)`, each with its index.

        Args:
            most: maximum number of photos.
            wanted: function that returns whether to read the photo at an index; None: all.
            seconds: time limit, which includes the caller's work: a photo that would exceed it at the mean time per
                photo so far is not read. The photos come in an order in which those up to any one are spread over the
                source (a stream keeps its order).
            enough: function that returns whether the photos so far are enough; the limit does not apply before.
        """
        indices = self.spread(most)
        if seconds is not None and self.count is not None:
            indices = _spread_first(indices)
        began = time.monotonic()
        for number, index in enumerate(indices if wanted is None else filter(wanted, indices)):
            if seconds is not None and number and enough():
                spent = time.monotonic() - began
                if spent + spent / number > seconds:
                    return
            try:
                photo = self.try_photo(index)
            except IndexError:  # the stream has ended
                return
            if photo is not None:
                yield index, photo

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError(f"`{self.argument}`: the length of a stream is unknown until its end is read")
        return self.count

    def __bool__(self) -> bool:
        return True  # a source is true even if it is empty

    def __repr__(self) -> str:
        count = "?" if self.count is None else self.count
        return f"{type(self).__name__}({self.location!r}, {count} photos, {len(self.skipped)} skipped)"

    def __getstate__(self) -> dict[str, Any]:  # a spawned process gets an empty cache
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}

    def photo(self, index: int) -> torch.Tensor:
        """Returns photo `index`, or the next readable one after it (cyclically).

        Returns:
            (C, H, W), uint8 or uint16; may be in the cache, so do not write to it.

        Raises:
            IndexError: `index` is outside [0, count).
            ConfigurationError: no photo can be read.
        """
        if index < 0 or (self.count is not None and index >= self.count):
            raise IndexError(f"photo {index} of {self.count}")
        candidates = self._replacements(index)
        for candidate in chain(range(index, candidates.stop), range(candidates.start, index)):
            photo = self.try_photo(candidate)
            if photo is not None:
                return photo
        label = self.label(candidates.start)
        raise ConfigurationError(
            f"`{self.argument}`: none of the {len(candidates)} photos in {self.location!r} can be used, e.g. "
            f"{label.name if isinstance(label, Path) else label!r}: {self._skipped[candidates.start]}"
        )

    def _replacements(self, index: int) -> range:
        """Returns the indices of the photos that may replace photo `index`, and its own."""
        return range(len(self))

    def try_photo(self, index: int) -> torch.Tensor | None:
        """Returns photo `index` like `photo`, or None if it is unreadable or skipped."""
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
        if self.channels == 1 and pixels.shape[-1] == 3:
            pixels = np.rint(pixels @ LUMA_WEIGHTS).astype(pixels.dtype)[..., None]
        photo = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        size = photo.untyped_storage().nbytes()
        if self.channels == 3 and photo.shape[0] == 1:
            photo = photo.expand(3, -1, -1)  # a view: grayscale takes a third of the memory
        if self._cached_bytes + size <= self.cache_bytes:
            self._cache[index] = photo
            self._cached_bytes += size
        return photo

    def skip(self, index: int, reason: str) -> None:
        """Skips photo `index` from now on, and logs the reason once per process."""
        if index not in self._skipped:
            self._skipped[index] = reason
            self._journal.append(index, reason)
            logger.warning("`%s`: skipping %s: %s", self.argument, printable(str(self.label(index))), reason)

    @property
    def skipped(self) -> dict[Any, str]:
        """Photos skipped so far, by this process and its loader workers: label -> reason, in order."""
        self._skipped.update(self._journal.unread())
        return {self.label(index): self._skipped[index] for index in sorted(self._skipped)}


class PhotoFolder(PhotoSource):
    """Photos of one folder, sorted by path.

    Args:
        folder: folder, searched by `photos.reading.list_photos`.
        channels, cache_bytes, argument: as for `PhotoSource`.

    Attributes:
        folder: the folder, as a Path.
        paths: sorted paths of its photos, readable or not.

    Raises:
        ConfigurationError: the folder is missing or empty, or `channels` is neither 1 nor 3.
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
        """Returns the photo's path."""
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        """Returns the content of the file."""
        return read_regular(self.paths[index])

    def size(self, index: int) -> tuple[int, int]:
        """Returns (width, height); only the header is read."""
        return photo_size(self.paths[index])

    def pair_key(self, index: int) -> str:
        """Returns the path within the folder, without the suffix."""
        return self.paths[index].relative_to(self.folder).with_suffix("").as_posix()

    def fingerprint(self) -> str:
        """Returns a digest of the names (within the folder) and sizes of the photos."""
        return digest_of_files((name.replace(os.sep, "/"), self._bytes(name)) for name in self.paths.names())

    def _bytes(self, name: str) -> int:
        """Returns the size of a file in bytes."""
        try:
            return os.stat(os.path.join(self.location, name)).st_size
        except OSError:  # a broken link
            return -1


def _spread_first(indices: Sequence[int]) -> list[int]:
    """Reorders equally spaced indices, such that any number of the first ones are about equally spaced.

    They are sorted by their positions with reversed binary digits (van der Corput sequence): 0, 4, 2, 6, 1, 5, 3, 7.
    """
    bits = len(indices).bit_length()
    return [indices[place] for place in sorted(range(len(indices)), key=lambda place: f"{place:0{bits}b}"[::-1])]


def digest_of_files(files: Iterable[tuple[str, int]]) -> str:
    """Returns a digest of 16 hexadecimal digits for files (name, size in bytes)."""
    digest = hashlib.blake2b(digest_size=8)
    for name, size in files:
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class _Journal:
    """Photos skipped by the processes that share a source, as lines of a temporary file of the first process.

    A file works for forked and spawned workers, and keeps the entries of killed ones.
    """

    def __init__(self) -> None:
        self.path = os.path.join(tempfile.gettempdir(), f"daa-skipped-{uuid.uuid4().hex}.jsonl")
        self._offset = 0
        weakref.finalize(self, _remove, self.path, os.getpid())

    def append(self, index: int, reason: str) -> None:
        """Adds an entry."""
        # a single write in append mode, so that lines of several processes do not mix
        with contextlib.suppress(OSError), open(self.path, "ab", buffering=0) as file:
            file.write(json.dumps([index, reason]).encode() + b"\n")

    def unread(self) -> dict[int, str]:
        """Returns the entries since the last call."""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            file.seek(self._offset)
            lines, line_break, _ = file.read().rpartition(b"\n")  # without a line that is being written
            self._offset += len(lines) + len(line_break)
            return dict(json.loads(line) for line in lines.splitlines())
        return {}


def _remove(path: str, owner: int) -> None:
    """Deletes a file, only in the process `owner`: forked workers may end earlier."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)
