"""Listing of the photos of folders, tar shards and datasets, with the key and location of each photo."""

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
    """One photo to restore: a file, a part of a tar file (`offset` and `size`), or a `row` of a `dataset`.

    Args:
        key: unique name in the output of the job, without a dot in its last part.
        source: name in messages.
        suffix: extension of the file name, with the dot; "" if unknown.
        path: file that contains the photo; "" for a dataset.
        offset, size: position and number of the photo's bytes in this file; a size of -1: the whole file.
        dataset: spec for `open_source`; "" for a file.
        row: row of the dataset.
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
        """Returns a line of JSON without default values; names that are not UTF-8 are preserved."""
        fields = dataclasses.fields(self)
        return json.dumps({f.name: value for f in fields if (value := getattr(self, f.name)) != f.default}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Input:
        """Inverts `to_line`."""
        return cls(**json.loads(line))


def list_inputs(sources: Sequence[str]) -> Iterator[Input]:
    """Lists all photos of all sources, in an order that is always the same for unchanged sources.

    The key of a photo is its path below the folder without the suffix, the key of its sample in a tar shard, or the
    number of its row. Dots in the last part are replaced by "_" (webdataset ends keys at a dot), parts that lead out of
    a folder are removed, and "_2", "_3", ... is appended to a key that is already used.

    Args:
        sources: specs for `open_source`.

    Raises:
        ConfigurationError: no sources; a source cannot be opened or holds no photos, or is a stream, which cannot be
            read by index.
    """
    if not sources:
        raise ConfigurationError("`sources` must name at least one folder, tar shard or dataset")
    used: set[str] = set()
    for spec in sources:
        for photo in _of_source(spec):
            key = unused = _clean(photo.key)
            number = 1
            while unused in used:
                number += 1
                unused = f"{key}_{number}"
            used.add(unused)
            yield photo if unused == photo.key else dataclasses.replace(photo, key=unused)


def _of_source(spec: str) -> Iterator[Input]:
    """Lists the photos of one source, with keys that may be in use."""
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
        raise ConfigurationError(f"`sources`: streams cannot be read by index, got {spec!r}; omit `streaming`")


def _of_folder(folder: Path) -> Iterator[Input]:
    """Lists the photos of a folder."""
    root = os.path.abspath(folder)
    for photo in list_photos(root, "sources"):
        stem, suffix = os.path.splitext(os.path.relpath(photo, root))
        yield Input(Path(stem).as_posix(), str(photo), suffix, str(photo))


def _clean(key: str) -> str:
    """Returns a key without parts that lead out of a folder, and without dots in its last part."""
    parts = [part for part in key.replace("\\", "/").split("/") if part not in ("", ".", "..")] or ["photo"]
    parts[-1] = parts[-1].replace(".", "_")
    return "/".join(parts)


def open_input(photo: Input, folder: str | os.PathLike) -> str:
    """Returns the path of a file with the photo: its own file, or a copy in `folder`.

    Raises:
        UnreadablePhotoError, OSError: the photo does not exist (any more).
    """
    if photo.dataset:
        content = _dataset(photo.dataset).encoded(photo.row)
    elif photo.size < 0:
        return photo.path
    else:
        with open(photo.path, "rb") as shard:
            shard.seek(photo.offset)
            content = shard.read(photo.size)
        if len(content) < photo.size:
            raise UnreadablePhotoError(f"the shard {os.path.basename(photo.path)} has been truncated")
    path = os.path.join(folder, "photo" + os.path.splitext(photo.suffix)[1])
    with open(path, "wb") as file:
        file.write(content)
    return path


@lru_cache(maxsize=8)
def _dataset(spec: str) -> Any:
    return open_source(spec, cache_bytes=0, argument="sources")
