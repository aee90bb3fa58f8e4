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
from ..photos.reading import list_photos
from ..photos.registry import PHOTO_SUFFIXES, suffix_for


@dataclass(frozen=True, slots=True)
class Job:
    """One photo to restore.

    Args:
        source: its file.
        target: the file to write.
        refused: why it cannot be restored; "" if it can.
        skipped: why it need not be; "" if it must.
    """

    source: str
    target: str
    refused: str = ""
    skipped: str = ""


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
    have in common. What an earlier run made is left out, where it lies in a folder of photos or matches a pattern:
    everything in `output`, if that is inside, sheets in `compare`, and what other photos are restored to.

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
    found: dict[str, _Found] = {}
    left_out: list[str] = []
    for one in _sources(inputs, output, compare, listed, left_out):
        target = os.path.join(output, renamed(one.relative, format, suffix))
        key = f"{os.path.abspath(one.source)}\0{target}"
        if key not in found or one.named:
            found[key] = replace(one, target=target)
    if not found and left_out:
        raise ConfigurationError(
            f"nothing to restore: what lies in the output folder, and sheets, are left out, and that is all "
            f"{len(left_out)} photos, such as {left_out[0]!r}; choose another folder"
        )
    if not found:
        raise ConfigurationError("nothing to restore: the list of photos is empty")
    jobs = _without_conflicts(list(found.values()), overwrite)
    root, parents = os.path.realpath(output), {}
    checked = []
    for job in jobs:
        parent = os.path.dirname(job.target)
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        checked.append(
            job if job.refused or job.skipped else replace(job, refused=_refusal(job, root, parents[parent], overwrite))
        )
    return checked


@dataclass(frozen=True, slots=True)
class _Found:
    """A file, its path below the output folder, why it cannot be restored, and whether it was named itself."""

    source: str
    relative: str
    refused: str = ""
    named: bool = False
    target: str = ""


def _sources(
    inputs: Sequence[str], output: str, compare: str | None, listed: Iterable[str], left_out: list[str]
) -> Iterable[_Found]:
    def in_folder(folder: str) -> Iterable[_Found]:
        try:
            photos = [str(path) for path in list_photos(folder, "inputs")]
        except ConfigurationError:
            yield _Found(folder, "photo", "there is no photo in this folder")
            return
        for photo in but_made(photos, folder):
            yield _Found(photo, os.path.relpath(photo, os.path.expanduser(folder)))

    def matching(pattern: str) -> Iterable[_Found]:
        parts = pattern.split(os.sep)
        fixed = next(k for k, part in enumerate(parts) if glob.has_magic(part))
        start = os.sep.join(parts[:fixed]) or (os.sep if pattern.startswith(os.sep) else os.curdir)
        matches = _glob(start, [part for part in parts[fixed:] if part])
        photos = [
            path for path in matches if os.path.splitext(path)[1].lower() in PHOTO_SUFFIXES and os.path.isfile(path)
        ]
        for photo in but_made(photos, start):
            yield _Found(photo, os.path.relpath(photo, start))
        if not photos:
            yield _Found(pattern, "photo", "no photo matches the pattern")

    def but_made(photos: Iterable[str], folder: str) -> Iterable[str]:
        inside = _is_below(output, folder)
        for photo in photos:
            if (inside and _is_below(photo, output)) or _is_sheet(photo, compare):
                left_out.append(photo)
            else:
                yield photo

    for one in inputs:
        if one == "-":
            files = []
            for path in filter(None, listed):
                if os.path.isdir(path):
                    yield from in_folder(path)
                else:
                    files.append(path)
            yield from _below_common_folder(files)
        elif os.path.isdir(one):
            yield from in_folder(one)
        elif os.path.lexists(one):
            yield _Found(one, os.path.basename(one), named=True)
        elif glob.has_magic(one):
            yield from matching(one)
        else:
            yield _Found(one, os.path.basename(one) or "photo", "no such file or folder")


def _is_below(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def _is_sheet(photo: str, compare: str | None) -> bool:
    """Whether a file lies in the folder of the sheets and is called as they are: a photo's name, and .png behind it."""
    name = re.sub(r"(\.\d+)?\.png$", "", os.path.basename(photo))
    sheet = name != os.path.basename(photo) and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES
    return sheet and compare is not None and os.path.realpath(os.path.dirname(photo)) == os.path.realpath(compare)


def _glob(start: str, parts: list[str]) -> list[str]:
    """As a shell does, but "**" follows no links, which may lead in circles; hidden files are not found."""
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts]
    parts += ["*"] if parts[-1] == "**" else []
    hidden = any(_is_hidden(part) for part in parts)
    found = (str(path) for path in Path(start).glob("/".join(parts)))
    return sorted(
        path for path in found if hidden or not any(map(_is_hidden, os.path.relpath(path, start).split(os.sep)))
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name not in (os.curdir, os.pardir)


def _below_common_folder(files: list[str]) -> Iterable[_Found]:
    if files:
        common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in files])
        for path in files:
            missing = "" if os.path.lexists(path) else "no such file or folder"
            yield _Found(path, os.path.relpath(os.path.abspath(path), common), missing, named=True)


def renamed(relative: str, format: str | None, suffix: str = "") -> str:
    """The name of what is restored from the file `relative`: as `find_jobs` says of `format` and `suffix`."""
    stem, ending = os.path.splitext(relative)
    return f"{stem}{suffix}{suffix_for(ending, format)}"


def _without_conflicts(photos: list[_Found], overwrite: bool) -> list[Job]:
    """Photos that would become one file are refused; one that is where another goes is not restored.

    Such a photo is most often the other's result, but may be an original. If nothing is overwritten, both are safe: it
    is left out if it would have a result of its own, was not named, and so is an earlier run's; else it is reported.
    """
    by_target: dict[str, list[_Found]] = {}
    for photo in photos:
        if not photo.refused:
            by_target.setdefault(_key(photo.target), []).append(photo)
    refused: dict[int, str] = {}
    makers: dict[str, _Found] = {}
    for key, rivals in by_target.items():
        rivals = [one for one in rivals if overwrite or _key(one.source) != key]
        if len(rivals) == 1:
            makers[key] = rivals[0]
        for one in rivals if len(rivals) > 1 else ():
            others = ", ".join(repr(other.source) for other in rivals if other is not one)
            refused[id(one)] = f"{one.target!r} would be the output of {others} too"
    jobs = []
    for photo in photos:
        job = Job(photo.source, photo.target, photo.refused or refused.get(id(photo), ""))
        maker = makers.get(_key(photo.source))
        if not job.refused and maker is not None and maker is not photo:
            if _key(photo.target) == _key(photo.source):
                job = replace(job, skipped=f"it lies where {maker.source!r} is restored to")
            elif not photo.named:
                continue
        jobs.append(job)
    return jobs


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
