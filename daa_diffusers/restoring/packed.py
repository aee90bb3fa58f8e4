"""Compact sequence of records with similar texts, such as the paths of a million photos."""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Record = TypeVar("Record")

CHUNK = 1024  # records that are compressed together


class Packed(Sequence[Record]):
    """Sequence of records, compressed in chunks: a twentieth of the memory of a list. Records are created on access.

    Args:
        create: creates a record from its fields, which are texts or other plain JSON.
    """

    def __init__(self, create: Callable[..., Record]):
        self._create = create
        self._chunks: list[bytes] = []
        self._open: list[list] = []  # fields of the last records, not compressed yet
        self._read: tuple[int, list[list]] = -1, []  # number and content of the chunk that was read last

    def append(self, *fields: Any) -> None:
        """Adds a record by its fields."""
        self._open.append([*fields])
        if len(self._open) == CHUNK:
            self._chunks.append(zlib.compress(json.dumps(self._open).encode(), 1))
            self._open = []

    def __len__(self) -> int:
        return CHUNK * len(self._chunks) + len(self._open)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number, place = divmod(index % len(self), CHUNK)
        if number == len(self._chunks):
            return self._create(*self._open[place])
        if number != self._read[0]:
            self._read = number, json.loads(zlib.decompress(self._chunks[number]))
        return self._create(*self._read[1][place])
