"""Photos of Hugging Face datasets: by index if stored on disk, in windows if streamed."""

import itertools
import os
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError, UnreadablePhotoError
from ..files import read_regular
from .folders import Order, PhotoSource, digest_of_files

WINDOW = 256  # default number of examples in a window of a stream
FINGERPRINTED = 64  # number of files at the start of a stream that identify it


class _ColumnSource(PhotoSource):
    """Photos of one column, labeled by the dataset's name (`location`) and their index."""

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.location

    def label(self, index: int) -> str:
        """Returns `name[index]`."""
        return f"{self.location}[{index}]"


class DatasetSource(_ColumnSource):
    """One column of a map-style dataset, `datasets.Dataset`.

    Files are decoded like those of folders (full bit depth, upright), not by `datasets`.

    Args:
        dataset: dataset with a column of images, or of the bytes of image files.
        column: name of this column. None: the only column of images.
        name: name of the dataset in records and messages.
        channels, cache_bytes, argument: as for `PhotoSource`.

    Raises:
        ConfigurationError: `column` is not a column of photos; it is None, and the dataset does not have exactly one
            column of images; or the dataset has no rows.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        column: str | None = None,
        name: str = "dataset",
        channels: int = 3,
        cache_bytes: int = 2**30,
        argument: str = "dataset",
    ):
        super().__init__(channels=channels, cache_bytes=cache_bytes, argument=argument)
        self.location = name
        self.column = image_column(dataset.features, column, argument, name)
        self.dataset = undecoded(dataset.with_format(None), self.column)
        if not len(self.dataset):
            raise ConfigurationError(f"`{argument}`: {name!r} must hold photos, but has no rows")

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    def encoded(self, index: int) -> bytes:
        """Returns the file in row `index`."""
        return file_content(self.dataset[index][self.column])

    def fingerprint(self) -> str:
        """Returns a digest of the names (if any) and sizes of the files."""
        return digest_of_files(self._names_and_sizes())

    def _names_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Yields `_name_and_size` of all rows, without reading the files."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for table in self.dataset.with_format("arrow").iter(batch_size=1000):
            for values in table.column(self.column).chunks:
                is_struct = pa.types.is_struct(values.type)  # {"bytes", "path"}, else bytes
                sizes = pc.binary_length(pc.struct_field(values, "bytes") if is_struct else values).to_pylist()
                paths = pc.struct_field(values, "path").to_pylist() if is_struct else [None] * len(sizes)
                for path, size in zip(paths, sizes, strict=True):
                    yield os.path.basename(path or ""), _size_on_disk(path) if size is None else size


class StreamSource(_ColumnSource):
    """One column of a streamed dataset, `datasets.IterableDataset`, of any size and unknown length.

    The stream is divided into windows of `window` examples, each of which is shuffled in a new order in each epoch. The
    photo at a position is therefore a function of the position and the seed, as for every source, with any number of
    workers. An epoch ends with the stream. Photos are shuffled within windows only, so their order in the stream
    should be random.

    Every loader worker reads the whole stream, decodes only its own photos, and keeps a window of encoded files in
    memory. A resumed run skips forward to its window as fast as `datasets` can; in a later epoch, it first reads the
    whole stream to count its examples. Errors while reading (network, broken shard) end the run instead of changing its
    samples.

    Args:
        dataset: dataset with a column of images, or of the bytes of image files, always in the same order.
        column, name, channels, argument: as for `DatasetSource`.
        window: number of examples in a window.

    Raises:
        ConfigurationError: `column` is not a column of photos; it is None, and the dataset does not have exactly one
            column of images; or `window` is below 1.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        column: str | None = None,
        name: str = "stream",
        window: int = WINDOW,
        channels: int = 3,
        argument: str = "stream",
    ):
        super().__init__(channels=channels, cache_bytes=0, argument=argument)  # photos are used once per epoch
        if window < 1:
            raise ConfigurationError(f"`{argument}`: `window` must be at least 1, got {window}")
        self.location, self.window = name, window
        self.column = image_column(dataset.features, column, argument, name)
        self.dataset = undecoded(dataset, self.column)
        self._length: int | None = None
        self._fingerprint: str | None = None
        self._number = -1  # number of the window in memory
        self._examples: list[Any] = []  # examples of this window
        self._following: Iterator[list[Any]] | None = None  # the windows after it
        self._process = os.getpid()  # process that opened `_following`

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_following": None, "_number": -1, "_examples": []}

    @property
    def count(self) -> int | None:
        """Number of examples; None until the end of the stream is read."""
        return self._length

    def encoded(self, index: int) -> bytes:
        """Returns the file of example `index`; reads its window from the stream unless it is in memory."""
        examples = self._load(index // self.window)
        if index % self.window >= len(examples):
            raise IndexError(f"photo {index} of {self._length}")
        return file_content(examples[index % self.window])

    def index_at(self, position: int, order: Order) -> int:
        """See `PhotoSource.index_at`; the photos of each window are in their own order."""
        length = self._length
        # as long as the length is unknown, all positions are in the first epoch
        epoch, step = (0, position) if length is None else divmod(position, length)
        number, step = divmod(step, self.window)
        examples = self._load(number)
        if step >= len(examples):
            if length is not None:
                raise RuntimeError(f"`{self.argument}`: the stream {self.location!r} had {length} photos, now fewer")
            return self.index_at(position, order)  # beyond the end: `_load` has now set `_length`
        return number * self.window + int(order(len(examples), epoch, number)[step])

    def _replacements(self, index: int) -> range:
        """See `PhotoSource._replacements`; only photos of the same window."""
        start = index - index % self.window
        end = start + len(self._load(index // self.window))
        if index >= end:
            raise IndexError(f"photo {index} of {self._length}")
        return range(start, end)

    def fingerprint(self) -> str:
        """Returns a digest of the names and sizes of the first files of the stream, which are read once."""
        if self._fingerprint is None:
            first = itertools.islice(self._read_from(0), FINGERPRINTED)
            self._fingerprint = digest_of_files(map(_name_and_size, first))
        return self._fingerprint

    def _load(self, number: int) -> list[Any]:
        """Returns window `number` (empty beyond the end of the stream); reading the end sets `_length`."""
        if number == self._number:
            return self._examples
        # connections cannot be shared by forked processes
        if self._following is None or number < self._number or self._process != os.getpid():
            self._following, self._process, self._number = self._windows_from(number), os.getpid(), number - 1
        try:
            while self._number < number:
                self._examples = next(self._following)
                self._number += 1
        except BaseException:
            # after a failure, the iterator would seem to be at its end
            self._following, self._number, self._examples = None, -1, []
            raise
        return self._examples

    def _windows_from(self, first: int) -> Iterator[list[Any]]:
        """Yields the windows from number `first` on, empty ones beyond the end of the stream; sets `_length` there.

        Raises:
            ConfigurationError: the stream is empty.
        """
        rows = self._read_from(first * self.window)
        for number in itertools.count(first):
            examples = list(itertools.islice(rows, self.window))
            if len(examples) < self.window and self._length is None:
                if examples or number > first or number == 0:
                    self._length = number * self.window + len(examples)
                else:  # the stream ends somewhere before the window that was read first
                    self._length = sum(1 for _ in self._read_from(0))
                if not self._length:
                    raise ConfigurationError(
                        f"`{self.argument}`: {self.location!r} must hold photos, but the stream is empty"
                    )
            yield examples

    def _read_from(self, start: int) -> Iterator[Any]:
        """Reads the stream from example `start` on."""
        # in a data loader's worker, `iter(dataset)` would yield a part of the stream; `dataset.iter` yields all of it
        rows = (self.dataset.skip(start) if start else self.dataset).iter(batch_size=1)
        return (row[self.column][0] for row in rows)


def image_column(features: Any, column: str | None, argument: str, name: str) -> str:
    """Returns `column` or, if it is None, the only column of images.

    Raises:
        ConfigurationError: `column` does not hold photos, or it is None, and there is not exactly one column of images.
    """
    from datasets import Image

    kinds = dict(features or {})
    images = [key for key, kind in kinds.items() if isinstance(kind, Image)]
    # the bytes of files have dtype "binary" or "large_binary"
    usable = [key for key, kind in kinds.items() if key in images or "binary" in getattr(kind, "dtype", "")]
    if column in usable:
        return str(column)
    if column is None and len(images) == 1:
        return images[0]
    got = "none was named" if column is None else f"got {column!r}"
    raise ConfigurationError(
        f"`{argument}`: `column` must name the photos of {name!r}, one of {usable}, {got}; the columns are "
        f"{list(kinds)}"
    )


def undecoded(dataset: Any, column: str) -> Any:
    """Returns `dataset` with only this column, as undecoded files."""
    from datasets import Image

    dataset = dataset.select_columns([column])
    if isinstance(dataset.features[column], Image):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def _name_and_size(value: Any) -> tuple[str, int]:
    """Returns the name ("" without one) and size in bytes of an entry of an undecoded image column."""
    content, path = _content_and_path(value)
    return os.path.basename(path or ""), _size_on_disk(path) if content is None else len(content)


def _content_and_path(value: Any) -> tuple[bytes | None, str | None]:
    """Splits an entry of an undecoded image column: {"bytes": ..., "path": ...}, bytes, or None."""
    if isinstance(value, bytes):
        return value, None
    return (value or {}).get("bytes"), (value or {}).get("path")


def _size_on_disk(path: str | None) -> int:
    """Returns the size of a file in bytes; -1 if it is not on disk."""
    return os.path.getsize(path) if path and os.path.isfile(path) else -1


def file_content(value: Any) -> bytes:
    """Returns the file of an entry of an undecoded image column.

    Raises:
        UnreadablePhotoError: the entry is empty.
        OSError: the file that the entry names cannot be read.
    """
    content, path = _content_and_path(value)
    if content is not None:
        return content
    if not path:
        raise UnreadablePhotoError("the row holds no photo")
    if os.path.lexists(path):
        return read_regular(path)
    import fsspec

    with fsspec.open(path, "rb") as file:  # a streamed file, e.g. zip://0.png::https://...
        return file.read()
