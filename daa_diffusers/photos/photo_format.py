"""Record of a file format: its recognition, reading and writing, and the metadata that it holds."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .source import Source
from .stored import StoredPhoto

SizeCheck = Callable[[int, int], None]  # raises on a (width, height) that is too large
Reader = Callable[[Source, SizeCheck], StoredPhoto]
# (file, photo, pixels (H, W, 1 or 3), alpha (H, W) or None, quality) -> notes on what the file does not hold
Writer = Callable[[Path, StoredPhoto, np.ndarray, np.ndarray | None, int | None], list[str]]


@dataclass(frozen=True)
class PhotoFormat:
    """One file format; `registry.REGISTRY` holds one record for each.

    Args:
        name: what `format` options and messages call it; upper case in `StoredPhoto.format`.
        suffixes: of its files, lower case; the first is that of new ones.
        recognizes: whether a file is of this format, by its signature.
        read: the whole photo, see `open_photo`.
        size: (width, height) by the header alone, as stored.
        write: None where files are only read.
        saved_as: of a format that is only read: name of the format in which its photos are written.
        aliases: further names of the format.
        depths: bits per sample in memory that it can hold, 8 or 16.
        lossy: whether `quality` applies.
        alpha: whether it holds an alpha channel.
        carries: the fields of `Metadata` that it holds.
        max_side: the most pixels a side.
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
    """Writes the parts of a file one after another."""
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
