"""Which photo is restored to which file: folders, globs and lists, and outputs that must not be written."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ConfigurationError
from ..photos.heic import HEIC_SUFFIXES
from ..photos.raw import RAW_SUFFIXES
from ..photos.reading import PHOTO_SUFFIXES, list_photos
from ..photos.saving import FORMATS

SUFFIXES = PHOTO_SUFFIXES | HEIC_SUFFIXES | RAW_SUFFIXES


@dataclass(frozen=True, slots=True)
class Job:
    """One photo to restore.

    Args:
        source: its file.
        target: the file to write.
        refused: why it is not restored; "" if it is.
    """

    source: str
    target: str
    refused: str = ""


def find_jobs(
    inputs: Sequence[str],
    output: str,
    *,
    format: str | None = None,
    suffix: str = "",
    overwrite: bool = False,
    listed: Iterable[str] = (),
    compare: str | None = None,
) -> list[Job]:
    """All photos of `inputs`, each once, with the files that they are restored to.

    A file keeps its name, a folder's or a glob's photos the folders below it, and a list's those below what its files
    have in common. Photos that lie in `output` or `compare`, where those are inside a folder of photos, were made by an
    earlier run and are left out.

    Args:
        inputs: files, folders, patterns ("**" for any depth), or "-" for `listed`.
        output: the folder that everything is written below.
        format: a key of `photos.FORMATS`, which decides the suffix; None keeps the input's (.tif for raw files).
        suffix: put before the file's suffix.
        overwrite: a photo may be its own output.
        listed: one path each.
        compare: the folder of the sheets.

    Raises:
        ConfigurationError: on a `suffix` that is no part of a name, or where there is nothing to restore.
    """
    if os.path.basename(suffix) != suffix or "\0" in suffix:
        raise ConfigurationError(f"`--suffix` must be a part of a file name, got {suffix!r}")
    found: dict[str, Job] = {}
    made = [output, *([] if compare is None else [compare])]
    for source, relative, refused in _sources(inputs, made, listed):
        target = os.path.join(output, renamed(relative, format, suffix))
        found.setdefault(f"{os.path.abspath(source)}\0{target}", Job(source, target, refused))
    if not found:
        raise ConfigurationError("nothing to restore: the list of photos is empty")
    jobs = _without_conflicts(list(found.values()), overwrite)
    root, parents = os.path.realpath(output), {}
    checked = []
    for job in jobs:
        parent = os.path.dirname(job.target)
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        checked.append(job if job.refused else replace(job, refused=_refusal(job, root, parents[parent], overwrite)))
    return checked


def _sources(inputs: Sequence[str], made: Sequence[str], listed: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    """(file, its path below the output folder, why it cannot be restored)."""
    for one in inputs:
        if one == "-":
            yield from _below_common_folder([line for line in listed if line], made)
        elif os.path.isdir(one):
            yield from _in_folder(one, made)
        elif os.path.lexists(one):
            yield one, os.path.basename(one), ""
        elif glob.has_magic(one):
            yield from _matching(one, made)
        else:
            yield one, os.path.basename(one) or "photo", "no such file or folder"


def _in_folder(folder: str, made: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    try:
        photos = [str(path) for path in list_photos(folder, "inputs", SUFFIXES)]
    except ConfigurationError:
        yield folder, "photo", "there is no photo in this folder"
        return
    for photo in _but_made(photos, folder, made):
        yield photo, os.path.relpath(photo, os.path.expanduser(folder)), ""


def _but_made(photos: Iterable[str], folder: str, made: Sequence[str]) -> Iterable[str]:
    """Photos of a folder but those in folders of our own below it."""
    own = [path for path in made if _is_below(path, folder)]
    return [photo for photo in photos if not any(_is_below(photo, path) for path in own)]


def _is_below(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def _matching(pattern: str, made: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    parts = pattern.split(os.sep)
    fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    start = os.sep.join(parts[:fixed]) or (os.sep if pattern.startswith(os.sep) else os.curdir)
    matches = _glob(start, [part for part in parts[fixed:] if part])
    photos = [path for path in matches if os.path.splitext(path)[1].lower() in SUFFIXES and os.path.isfile(path)]
    for photo in _but_made(photos, start, made):
        yield photo, os.path.relpath(photo, start), ""
    if not photos:
        yield pattern, "photo", "no photo matches the pattern"


def _glob(start: str, parts: list[str]) -> list[str]:
    """As a shell does, but "**" follows no links, which may lead in circles; hidden files are not found."""
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts]
    parts += ["*"] if parts[-1] == "**" else []
    hidden = any(part.startswith(".") for part in parts)
    found = (str(path) for path in Path(start).glob("/".join(parts)))
    return sorted(path for path in found if hidden or not _is_hidden(os.path.relpath(path, start)))


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") and part != os.pardir for part in relative.split(os.sep))


def _below_common_folder(paths: list[str], made: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    files = []
    for path in paths:
        if os.path.isdir(path):
            yield from _in_folder(path, made)
        else:
            files.append(path)
    if files:
        common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in files])
        for path in files:
            missing = "" if os.path.lexists(path) else "no such file or folder"
            yield path, os.path.relpath(os.path.abspath(path), common), missing


def renamed(relative: str, format: str | None, suffix: str = "") -> str:
    """The name of what is restored from the file `relative`: as `find_jobs` says of `format` and `suffix`."""
    stem, ending = os.path.splitext(relative)
    if format is not None:
        ending = ending if ending.lower() in FORMATS[format] else FORMATS[format][0]
    elif ending.lower() in RAW_SUFFIXES:
        ending = ".tif"
    return f"{stem}{suffix}{ending}"


def _without_conflicts(jobs: list[Job], overwrite: bool) -> list[Job]:
    """Jobs that would write one file are refused; a photo that another one is restored to is that one's result.

    A photo that would be its own output as well may be an original: where it would be overwritten, both are refused.
    """
    by_target: dict[str, list[Job]] = {}
    for job in jobs:
        if not job.refused:
            by_target.setdefault(_key(job.target), []).append(job)

    def is_result(job: Job) -> bool:
        source = _key(job.source)
        made = any(_key(other.source) != source for other in by_target.get(source, []))
        return made and not (overwrite and _key(job.target) == source)

    kept = []
    for job in jobs:
        rivals = [other for other in by_target.get(_key(job.target), []) if not is_result(other)]
        if job.refused:
            kept.append(job)
        elif is_result(job):
            continue
        elif len(rivals) > 1:
            others = ", ".join(repr(other.source) for other in rivals if other is not job)
            kept.append(replace(job, refused=f"{job.target!r} would be the output of {others} too"))
        else:
            kept.append(job)
    return kept


def _key(path: str) -> str:
    path = os.path.normcase(os.path.abspath(path))
    return path.casefold() if sys.platform == "darwin" else path


def _refusal(job: Job, root: str, parent: str, overwrite: bool) -> str:
    if os.path.commonpath([root, parent]) != root:
        return f"{job.target!r} leads out of the output folder, to {parent!r}"
    if os.path.isdir(job.target) and not os.path.islink(job.target):
        return f"{job.target!r} is a folder"
    if os.path.realpath(job.source) == os.path.join(parent, os.path.basename(job.target)) and not overwrite:
        return "its output would be the photo itself: choose another folder, `--suffix`, or `--overwrite`"
    return ""
