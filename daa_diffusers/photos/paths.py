"""Compact sequence of paths below a folder: tens of megabytes for a million paths."""

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Paths(Sequence[Path]):
    """Paths of files below a folder, in the order of addition. `Path` objects are created on access.

    Args:
        folder: common start of all paths.
    """

    def __init__(self, folder: str | os.PathLike[str] = ""):
        self.folder = os.fspath(folder)
        self._names = bytearray()  # concatenated, in the encoding of the file system
        self._ends = array("Q")  # the end of each name in `_names`

    def append(self, name: str) -> None:
        """Adds a file, named relative to the folder."""
        self._names += os.fsencode(name)
        self._ends.append(len(self._names))

    def name(self, index: int) -> str:
        """Name of a file relative to the folder."""
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(bytes(memoryview(self._names)[start : self._ends[index]]))

    def names(self) -> Iterator[str]:
        """Names of all files relative to the folder."""
        return map(self.name, range(len(self)))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        return Path(self.folder, self.name(index % len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same paths."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Path.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment] # mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.folder!r}, {len(self)} files)"
