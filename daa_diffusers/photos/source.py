"""Access to the bytes of a photo's file, on disk or in memory."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class Source:
    """Bytes of a photo's file, read by offset, as a whole, or as a stream.

    Args:
        name: file name for messages; its suffix is used if the content does not determine the format.
        content: content of the file. None: it is read from `path`.
        path: path of the file on disk; required without `content`.
    """

    def __init__(self, name: str, content: bytes | None = None, path: str | os.PathLike | None = None):
        self.name = name
        self.path = None if path is None else Path(path)
        self._content = content
        self._file: BinaryIO | None = None if self.path is None else open(self.path, "rb")  # noqa: SIM115
        self.size = len(content) if content is not None else os.fstat(self._opened().fileno()).st_size

    def _opened(self) -> BinaryIO:
        assert self._file is not None, "a source has content or a path"
        return self._file

    @property
    def suffix(self) -> str:
        """Suffix of the name, lower case, with its dot."""
        return os.path.splitext(self.name)[1].lower()

    def read(self, offset: int, size: int) -> bytes:
        """Reads at most `size` bytes from `offset`."""
        if self._content is not None:
            return self._content[offset : offset + size]
        file = self._opened()
        file.seek(offset)
        return file.read(size)

    def content(self) -> bytes:
        """Content of the file."""
        if self._content is None:
            self._content = self.read(0, self.size)
        return self._content

    def stream(self) -> BinaryIO:
        """The file as a stream from its start; closed with the source."""
        if self._content is not None:
            return io.BytesIO(self._content)
        self._opened().seek(0)
        return self._opened()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
