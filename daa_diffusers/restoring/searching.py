"""Search for photos in files, folders, patterns and lists, with counts of skipped files."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..photos.listing import scan_folder
from ..photos.registry import PHOTO_SUFFIXES

RESULT = "in the output folder, or a sheet"  # reason in `Search.left_out`
NO_NAME = "photo"  # `Found.relative` of an input without photos, which has no output


@dataclass(frozen=True, slots=True)
class Found:
    """A found file.

    Args:
        source: path of the file.
        relative: path of its output below the output folder, before renaming.
        refused: reason why it cannot be restored, or "".
        named: whether the user named the file itself, instead of a folder or pattern.
        target: path of its output; set by `find_jobs`.
    """

    source: str
    relative: str
    refused: str = ""
    named: bool = False
    target: str = ""


@dataclass
class Search:
    """Search for photos.

    Args:
        output: folder of the outputs; its files are skipped in folders that contain it.
        compare: folder of the sheets, which are skipped as well.

    Attributes:
        left_out: number of skipped files in folders and patterns, by reason.
        result: one of the photos skipped as results of an earlier run, or "".
    """

    output: str
    compare: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    result: str = ""

    def find(self, inputs: Sequence[str], listed: Iterable[str]) -> Iterable[Found]:
        """Yields the photos of `inputs` (see `find_jobs`); inputs without photos have a reason `refused`."""
        for one in inputs:
            if one == "-":
                files = []
                for path in filter(None, listed):
                    if os.path.isdir(path):
                        yield from self._in_folder(path)
                    else:
                        files.append(path)
                yield from _below_common_folder(files)
            elif os.path.isdir(one):
                yield from self._in_folder(one)
            elif os.path.lexists(one):
                yield Found(one, os.path.basename(one), named=True)
            elif glob.has_magic(one):
                yield from self._matching(one)
            else:
                yield Found(one, os.path.basename(one) or NO_NAME, "no such file or folder")

    def _in_folder(self, folder: str) -> Iterable[Found]:
        listing = scan_folder(folder)
        self.left_out.update(listing.skipped())
        for path, reason in listing.unreadable.items():
            yield Found(path, NO_NAME, f"the folder cannot be read: {reason}")
        if not listing.photos and not listing.unreadable:
            yield Found(folder, NO_NAME, "there is no photo in this folder")
        for photo in self._without_results(map(str, listing.photos), folder):
            yield Found(photo, os.path.relpath(photo, folder))

    def _matching(self, pattern: str) -> Iterable[Found]:
        parts = pattern.split(os.sep)
        first = next(k for k, part in enumerate(parts) if glob.has_magic(part))
        start = os.sep.join(parts[:first]) or (os.sep if pattern.startswith(os.sep) else os.curdir)
        photos = []
        for path in _glob(start, [part for part in parts[first:] if part]):
            suffix = os.path.splitext(path)[1].lower()
            if suffix in PHOTO_SUFFIXES and not os.path.isdir(path):
                photos.append(path)
            elif not os.path.isdir(path):
                self.left_out[f"not a photo ({suffix or 'no suffix'})"] += 1
        for photo in self._without_results(photos, start):
            yield Found(photo, os.path.relpath(photo, start))
        if not photos:
            yield Found(pattern, NO_NAME, "no photo matches the pattern")

    def _without_results(self, photos: Iterable[str], folder: str) -> Iterable[str]:
        inside = _is_below(self.output, folder)
        for photo in photos:
            if (inside and _is_below(photo, self.output)) or _is_sheet(photo, self.compare):
                self.result = self.result or photo
                self.left_out[RESULT] += 1
            else:
                yield photo


def _is_below(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def _is_sheet(photo: str, compare: str | None) -> bool:
    """Whether a file is in the folder of the sheets and is named like one: PHOTO.png or PHOTO.NUMBER.png."""
    name, endings = re.subn(r"(\.\d+)?\.png$", "", os.path.basename(photo))
    is_sheet = endings == 1 and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES
    return is_sheet and compare is not None and os.path.realpath(os.path.dirname(photo)) == os.path.realpath(compare)


def _glob(start: str, parts: list[str]) -> list[str]:
    """Expands a pattern like a shell, with two differences.

    "**" does not follow links, which may be cyclic. If a part begins with a dot, "*" and "**" match hidden names too.
    """
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts]  # a shell reads a**b as a*b
    parts += ["*"] if parts[-1] == "**" else []  # before Python 3.13, "**" at the end finds folders only
    hidden = any(_is_hidden(part) for part in parts)
    paths = (str(path) for path in Path(start).glob("/".join(parts)))
    return sorted(
        path for path in paths if hidden or not any(map(_is_hidden, os.path.relpath(path, start).split(os.sep)))
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name not in (os.curdir, os.pardir)


def _below_common_folder(files: list[str]) -> Iterable[Found]:
    if files:
        common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in files])
        for path in files:
            missing = "" if os.path.lexists(path) else "no such file or folder"
            yield Found(path, os.path.relpath(os.path.abspath(path), common), missing, named=True)
