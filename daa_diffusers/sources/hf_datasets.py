"""Photos of Hugging Face datasets: by number where they are stored, in windows where they are streamed."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ConfigurationError, UnreadablePhotoError
from ..files import read_regular
from .folders import Order, PhotoSource, digest_of_files

WINDOW = 256
FINGERPRINTED = 64  # files of a stream


class _ColumnSource(PhotoSource):
    """Photos named by the dataset's name and their number in it."""

    @property
    def name(self) -> str:
        """The argument `name`."""
        return self.location

    def label(self, index: int) -> str:
        """`name[index]`."""
        return f"{self.location}[{index}]"


class DatasetSource(_ColumnSource):
    """One column of a map-style dataset, `datasets.Dataset`.

    Files are decoded as those of folders are (whole bit depth, upright), not by `datasets`.

    Args:
        dataset: with a column of images, or of files' bytes.
        column: its name. None: the one column of images.
        name: the dataset's name in records and messages.
        channels, cache_bytes, argument: as for every `PhotoSource`.

    Raises:
        ConfigurationError: `column` is no column of photos, or None where there is not exactly one of images; or the
            dataset has no rows.
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
            raise ConfigurationError(f"`{argument}`: {name!r} must hold photos, it has no rows")

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    def encoded(self, index: int) -> bytes:
        """The file in row `index`."""
        return file_content(self.dataset[index][self.column])

    def fingerprint(self) -> str:
        """Of the names (where there are any) and sizes of the files."""
        return digest_of_files(self._names_and_sizes())

    def _names_and_sizes(self) -> Iterator[tuple[str, int]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        # slices of the tables on disk: of the files themselves only the offsets are read
        for table in self.dataset.with_format("arrow").iter(batch_size=1000):
            for values in table.column(self.column).chunks:
                nested = pa.types.is_struct(values.type)
                sizes = pc.binary_length(pc.struct_field(values, "bytes") if nested else values).to_pylist()
                paths = pc.struct_field(values, "path").to_pylist() if nested else [None] * len(sizes)
                for path, size in zip(paths, sizes, strict=True):
                    yield os.path.basename(path or ""), _size_on_disk(path) if size is None else size


class StreamSource(_ColumnSource):
    """One column of a streamed dataset, `datasets.IterableDataset`, of any size and unknown length.

    The stream is cut into windows of `window` examples, and each is shuffled in a new order each epoch: photos move by
    less than a window. So which photo comes at a position is a function of the position and the seed, as for every
    source, for any number of workers; an epoch ends with the stream.

    The cost: every loader worker reads the whole stream (and decodes its own photos only) and keeps a window of
    encoded files; a resumed run skips forward to its window, as fast as `datasets` can; a run that resumes in a later
    epoch first reads the whole stream once to count its examples. Photos should be in random order over more than a
    window. Errors while reading (a network that fails, a broken shard) end the run, they do not change its samples.

    Args:
        dataset: a column of images, or of files' bytes. Its order must be the same each time.
        column, name, channels, argument: as for `DatasetSource`.
        window: examples in a window.

    Raises:
        ConfigurationError: `column` is no column of photos, or None where there is not exactly one of images; or
            `window` is below 1.
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
        super().__init__(channels=channels, cache_bytes=0, argument=argument)  # photos come once per epoch
        if window < 1:
            raise ConfigurationError(f"`{argument}`: `window` must be at least 1, got {window}")
        self.location, self.window = name, window
        self.column = image_column(dataset.features, column, argument, name)
        self.dataset = undecoded(dataset, self.column)
        self._length: int | None = None
        self._fingerprint: str | None = None
        self._number = -1  # of the window that is held
        self._examples: list[Any] = []
        self._rows: Iterator | None = None  # of the stream from example `_start`, of which `_consumed` were read
        self._start, self._consumed, self._process = 0, 0, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rows": None, "_number": -1, "_examples": []}

    @property
    def count(self) -> int | None:
        """Number of examples; None until the stream was read to its end."""
        return self._length

    def encoded(self, index: int) -> bytes:
        """The file of example `index`; reads its window from the stream unless it is the one in memory."""
        examples = self._load(index // self.window)
        if index % self.window >= len(examples):
            raise IndexError(f"photo {index} of {self._length}")
        return file_content(examples[index % self.window])

    def turn(self, position: int, order: Order) -> int:
        """Number of the example at `position`."""
        length = self._length
        epoch, step = (0, position) if length is None else divmod(position, length)
        number, step = divmod(step, self.window)
        examples = self._load(number)
        if step >= len(examples):
            if length is not None:
                raise RuntimeError(f"`{self.argument}`: the stream {self.location!r} had {length} photos, now fewer")
            return self.turn(position, order)  # beyond the end: `_load` has set `_length`
        return number * self.window + int(order(len(examples), epoch, number)[step])

    def _from(self, index: int) -> Sequence[int]:
        start = index - index % self.window
        length = len(self._load(index // self.window))
        if index - start >= length:
            raise IndexError(f"photo {index} of {self._length}")
        return [start + (index - start + offset) % length for offset in range(length)]

    def fingerprint(self) -> str:
        """Of the names and sizes of the first files of the stream, read when first asked for."""
        if self._fingerprint is None:
            first = itertools.islice(self._read_from(0), FINGERPRINTED)
            self._fingerprint = digest_of_files(map(_name_and_size, first))
        return self._fingerprint

    def _load(self, number: int) -> list[Any]:
        """Window `number`; empty beyond the end of the stream; sets `_length` when it reaches the end."""
        if number == self._number:
            return self._examples
        if self._rows is None or number < self._number or self._process != os.getpid():  # connections do not fork
            self._start, self._consumed = number * self.window, 0
            self._rows, self._process = self._read_from(self._start), os.getpid()
            self._number = number - 1
        try:
            while self._number < number:
                self._examples = list(itertools.islice(self._rows, self.window))
                self._number += 1
                self._consumed += len(self._examples)
                if len(self._examples) < self.window and self._length is None:
                    self._set_length()
        except BaseException:
            self._rows, self._number, self._examples = None, -1, []  # a broken iterator looks like the end
            raise
        return self._examples

    def _read_from(self, start: int) -> Iterator[Any]:
        # `iter` of a dataset gives a loader's worker a part of the stream only, its method `iter` gives all of it
        rows = (self.dataset.skip(start) if start else self.dataset).iter(batch_size=1)
        return (row[self.column][0] for row in rows)

    def _set_length(self) -> None:
        if self._consumed or not self._start:
            self._length = self._start + self._consumed
        else:  # skipped beyond the end
            self._length = sum(1 for _ in self._read_from(0))
        if not self._length:
            raise ConfigurationError(f"`{self.argument}`: {self.location!r} must hold photos, the stream is empty")


def image_column(features: Any, column: str | None, argument: str, name: str) -> str:
    """`column` if it holds images or bytes, or the one column of images where it is None; else a ConfigurationError."""
    from datasets import Image

    kinds = dict(features or {})
    images = [key for key, kind in kinds.items() if isinstance(kind, Image)]
    usable = [key for key, kind in kinds.items() if isinstance(kind, Image) or "binary" in getattr(kind, "dtype", "")]
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
    """`dataset` with that column alone, as files."""
    from datasets import Image

    dataset = dataset.select_columns([column])
    if isinstance(dataset.features[column], Image):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def _name_and_size(value: Any) -> tuple[str, int]:
    """Size in bytes of an entry of an undecoded image column."""
    value = {"bytes": value} if isinstance(value, bytes) else value or {}
    content, path = value.get("bytes"), value.get("path")
    return os.path.basename(path or ""), _size_on_disk(path) if content is None else len(content)


def _size_on_disk(path: str | None) -> int:
    return os.path.getsize(path) if path and os.path.isfile(path) else -1


def file_content(value: Any) -> bytes:
    """The bytes of an entry of an undecoded image column: {"bytes": ..., "path": ...}, or bytes.

    Raises:
        UnreadablePhotoError: it holds nothing.
        OSError: the file it names cannot be read.
    """
    if isinstance(value, bytes):
        return value
    content, path = (value or {}).get("bytes"), (value or {}).get("path")
    if content is not None:
        return content
    if not path:
        raise UnreadablePhotoError("the row holds no photo")
    if os.path.lexists(path):
        return read_regular(path)
    import fsspec

    with fsspec.open(path, "rb") as file:  # streamed, e.g. zip://0.png::https://...
        return file.read()
