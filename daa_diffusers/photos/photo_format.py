"""Descriptor of a file format: recognition, reading, writing, supported metadata."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .source import Source
from .stored import StoredPhoto

SizeCheck = Callable[[int, int], None]  # (width, height); raises if too large
Reader = Callable[[Source, SizeCheck], StoredPhoto]
# (file, photo, pixels (H, W, 1 or 3), alpha (H, W) or None, quality) -> notes on what could not be saved
Writer = Callable[[Path, StoredPhoto, np.ndarray, np.ndarray | None, int | None], list[str]]


@dataclass(frozen=True)
class PhotoFormat:
    """File format of photos; an entry of `registry.REGISTRY`.

    Args:
        name: name in `format` options and messages; upper case in `StoredPhoto.format`.
        suffixes: file suffixes, lower case; new files get the first one.
        recognizes: function that tests whether a file has this format, by its signature.
        read: function that reads a photo (see `open_photo`).
        size: function that returns (width, height) as stored, from the header only.
        write: function that writes a photo; None: read-only format.
        saved_as: for read-only formats, name of the format in which their photos are saved.
        aliases: additional names of the format.
        depths: supported bits per sample in memory, among 8 and 16.
        lossy: whether `quality` applies.
        alpha: whether alpha channels are supported.
        carries: supported fields of `Metadata`.
        max_side: maximum width and height in pixels.
    """

    name: str
    suffixes: tuple[str, ...]
    recognizes: Callable[[Source], bool]
    read: Reader
    size: Callable[[Source], tuple[int, int]]
    write: Writer | None = None
    saved_as: str = ""
    aliases: tuple[str, ...] = ()
    depths: tuple[int, ...] = (8,)
    lossy: bool = False
    alpha: bool = True
    carries: frozenset[str] = frozenset({"exif", "xmp", "icc", "dpi"})
    max_side: int = sys.maxsize


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes a file from consecutive pieces."""
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
