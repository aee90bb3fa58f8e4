"""Listing of the photos of folders, tar shards and datasets, each with its key and the place of its bytes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, UnreadablePhotoError
from ..photos.reading import list_photos
from ..sources.hf_datasets import DatasetSource
from ..sources.specs import SAVED_DATASET, open_source
from ..sources.tar_shards import ShardSource


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """One photo to restore: a file, a part of a tar file (with `offset` and `size`), or a `row` of a `dataset`.

    Args:
        key: its name in the output, without a dot in the last part; no other photo of the job has it.
        source: its name in messages.
        suffix: what follows the key in its file's name, from the dot on; "" where that is unknown.
        path: the file that holds it; "" for a dataset's row.
        offset, size: of its bytes in that file; a size of -1 is the whole file.
        dataset: what `open_source` opens, "" for a file.
        row: of that dataset.
    """

    key: str
    source: str
    suffix: str = ""
    path: str = ""
    offset: int = 0
    size: int = -1
    dataset: str = ""
    row: int = -1

    def to_line(self) -> str:
        """A line of JSON without default values; names that are not UTF-8 are kept."""
        fields = dataclasses.fields(self)
        return json.dumps({f.name: value for f in fields if (value := getattr(self, f.name)) != f.default}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Input:
        """The inverse of `to_line`."""
        return cls(**json.loads(line))


def list_inputs(sources: Sequence[str]) -> Iterator[Input]:
    """All photos of all sources, always in the same order as long as the sources do not change.

    A photo's key is its path below the folder without the suffix, the sample's key of a tar shard, or the number of a
    row. Dots in the last part become "_" (webdataset ends keys there), parts that lead out of a folder are dropped, and
    a key that an earlier photo has gets "_2", "_3", ...

    Args:
        sources: what `open_source` opens; of folders, HEIC and raw files are listed too.

    Raises:
        ConfigurationError: no sources, one that cannot be opened or holds no photos, or a stream, which has no numbers.
    """
    if not sources:
        raise ConfigurationError("`sources` must name at least one folder, tar shard or dataset")
    taken: set[str] = set()
    for spec in sources:
        for one in _of_source(spec):
            key = free = _clean(one.key)
            number = 1
            while free in taken:
                number += 1
                free = f"{key}_{number}"
            taken.add(free)
            yield one if free == one.key else dataclasses.replace(one, key=free)


def _of_source(spec: str) -> Iterator[Input]:
    folder = Path(spec).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in SAVED_DATASET):
        yield from _of_folder(folder)
        return
    source = open_source(spec, cache_bytes=0, argument="sources")
    if isinstance(source, ShardSource):
        for index in range(len(source)):
            member = source.member(index)
            path = os.path.abspath(source.shards[member.shard])
            suffix = f".{member.extension}"
            yield Input(member.key, source.label(index), suffix, path, member.offset, member.size)
    elif isinstance(source, DatasetSource):
        digits = max(6, len(str(len(source) - 1)))
        for row in range(len(source)):
            yield Input(f"{row:0{digits}d}", source.label(row), dataset=spec, row=row)
    else:
        raise ConfigurationError(f"`sources`: photos of a stream have no numbers, got {spec!r}; leave out `streaming`")


def _of_folder(folder: Path) -> Iterator[Input]:
    root = os.path.abspath(folder)
    for photo in list_photos(root, "sources"):
        stem, suffix = os.path.splitext(os.path.relpath(photo, root))
        yield Input(Path(stem).as_posix(), str(photo), suffix, str(photo))


def _clean(key: str) -> str:
    parts = [part for part in key.replace("\\", "/").split("/") if part not in ("", ".", "..")] or ["photo"]
    parts[-1] = parts[-1].replace(".", "_")
    return "/".join(parts)


def open_input(one: Input, folder: str | os.PathLike) -> str:
    """A file with the photo: its own, or a new one in `folder` that holds its bytes.

    Raises:
        UnreadablePhotoError, OSError: there are no such bytes (any more).
    """
    if one.dataset:
        content = _dataset(one.dataset).encoded(one.row)
    elif one.size < 0:
        return one.path
    else:
        with open(one.path, "rb") as shard:
            shard.seek(one.offset)
            content = shard.read(one.size)
        if len(content) < one.size:
            raise UnreadablePhotoError(f"the shard {os.path.basename(one.path)} has become shorter")
    path = os.path.join(folder, "photo" + os.path.splitext(one.suffix)[1])
    with open(path, "wb") as file:
        file.write(content)
    return path


@lru_cache(maxsize=8)
def _dataset(spec: str) -> Any:
    return open_source(spec, cache_bytes=0, argument="sources")
