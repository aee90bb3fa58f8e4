"""Mapping of photos to output files, with detection of conflicts."""

from __future__ import annotations

import functools
import glob
import mimetypes
import os
import sys
import tempfile
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

import numpy as np

from ..errors import ConfigurationError
from ..files import NAME_BYTES
from ..photos.registry import BY_SUFFIX, FORMATS, suffix_for
from .packed import Packed
from .searching import RESULT, Found, Search


@dataclass(frozen=True, slots=True)
class Job:
    """One photo to restore.

    Args:
        source: path of its file.
        target: path of the file to write.
        refused: reason why it cannot be restored, or "".
        skipped: reason why it need not be restored, or "".
    """

    source: str
    target: str
    refused: str = ""
    skipped: str = ""


@dataclass
class Plan:
    """Result of `find_jobs`.

    Args:
        jobs: jobs, one per photo, in little memory.
        left_out: number of skipped files in folders and patterns, by reason.
    """

    jobs: Sequence[Job]
    left_out: Counter[str] = field(default_factory=Counter)


def format_of_output(inputs: Sequence[str], output: str, format: str | None = None, suffix: str = "") -> str | None:
    """Returns the file format of `output` if it is a file: it then has a photo's suffix, and there is one input.

    Returns:
        A key of `photos.FORMATS`; None if `output` is a folder.

    Raises:
        ConfigurationError: `output` is the name of a file, but there may be several photos, or `format` or `suffix`
            contradicts it.
    """
    if os.path.isdir(output) or output.endswith((os.sep, "/")):
        return None
    if output == "-":
        raise ConfigurationError(
            "`--output` must be a folder or a file: photos cannot be written to standard output, got '-'"
        )
    by_suffix = BY_SUFFIX.get(os.path.splitext(output)[1].lower())
    is_photo = by_suffix is not None or (mimetypes.guess_type(output)[0] or "").startswith(("image/", "video/"))
    if not is_photo and not os.path.exists(output):
        return None
    first = inputs[0]
    is_pattern = glob.has_magic(first) and not os.path.lexists(first)
    if len(inputs) > 1 or first == "-" or os.path.isdir(first) or is_pattern:
        raise ConfigurationError(
            f"`--output` {output!r} is the name of a file, but several photos need a folder: choose another name, or "
            "create the folder first"
        )
    if by_suffix is None or by_suffix.name not in FORMATS:
        writable = ", ".join(ending for suffixes in FORMATS.values() for ending in suffixes)
        raise ConfigurationError(f"`--output` must end in one of {writable}, or be a folder, got {output!r}")
    if format not in (None, by_suffix.name):
        raise ConfigurationError(f"`--output` {output!r} is {by_suffix.name}, `--format` is {format}: omit one of them")
    if suffix:
        raise ConfigurationError(f"`--suffix` needs a folder as `--output`, got the file name {output!r}")
    return by_suffix.name


def find_jobs(
    inputs: Sequence[str],
    output: str,
    *,
    format: str | None = None,
    suffix: str = "",
    overwrite: bool = False,
    listed: Iterable[str] = (),
    compare: str | None = None,
) -> Plan:
    """Finds all photos of `inputs`, each once, and the files to restore them to.

    A named file keeps its name. Photos of a folder, of a pattern or of a list keep their path below the folder, the
    fixed part of the pattern or the common folder of the list. Results of earlier runs in folders and patterns are
    skipped: all files in `output`, sheets in `compare`, and outputs of other photos.

    Args:
        inputs: files, folders, patterns ("**" for any depth), or "-" for `listed`.
        output: folder for all outputs, or a file if `format_of_output` returns a format.
        format: a key of `photos.FORMATS`, which determines the suffix; None: suffix of the input (.tif for raw files).
        suffix: text to insert before the file's suffix.
        overwrite: whether a photo may be its own output.
        listed: paths of the list.
        compare: folder of the sheets.

    Raises:
        ConfigurationError: `suffix` is not a part of a file name, or there is nothing to restore.
    """
    if os.path.basename(suffix) != suffix or "\0" in suffix:
        raise ConfigurationError(f"`--suffix` must be a part of a file name, got {suffix!r}")
    folder, name = output, ""
    if format_of_output(inputs, output, format, suffix):
        folder, name = os.path.dirname(output) or os.curdir, os.path.basename(output)
    photos, names = Packed(Found), _Names()
    search = Search(folder, compare)
    for photo in search.find(inputs, listed):
        target = os.path.join(folder, name or renamed(photo.relative, format, suffix))
        photos.append(photo.source, photo.relative, photo.refused, photo.named, target)
        names.add(photo.source, target)
    if not photos and search.result:
        raise ConfigurationError(
            f"nothing to restore: files in the output folder and sheets are skipped, and these are all "
            f"{search.left_out[RESULT]} photos, such as {search.result!r}; choose another folder"
        )
    if not photos:
        raise ConfigurationError("nothing to restore: the list of photos is empty")
    exact = _is_case_sensitive(names, folder)
    numbers = names.shared(exact)
    shared = _each_once({number: photos[number] for number in numbers})
    resolved = _without_conflicts(shared, overwrite, exact)
    if len(resolved) < len(shared):
        search.left_out["another photo's result"] += len(shared) - len(resolved)
    left_out = {*numbers} - {*resolved}
    jobs, root, real_path = Packed(Job), os.path.realpath(folder), functools.cache(os.path.realpath)
    for number, photo in enumerate(photos):
        if number in left_out:
            continue
        job = resolved.get(number) or Job(photo.source, photo.target, photo.refused)
        if not job.refused and not job.skipped:
            job = replace(job, refused=_refusal(job, root, real_path(os.path.dirname(job.target)), overwrite))
        jobs.append(*astuple(job))
    return Plan(jobs, search.left_out)


def renamed(relative: str, format: str | None, suffix: str = "") -> str:
    """Returns the name of the restored file for `relative`; `format` and `suffix` are as for `find_jobs`."""
    stem, ending = os.path.splitext(relative)
    return f"{stem}{suffix}{suffix_for(ending, format)}"


class _Names:
    """Hashes of the paths of photos and of their outputs, which find equal ones in little memory."""

    def __init__(self) -> None:
        self.hashes = array("q")

    def add(self, source: str, target: str) -> None:
        """Adds a photo and its output: each by its path, and by its path without case."""
        self.hashes.extend(hash(_key(path, exact)) for exact in (True, False) for path in (source, target))

    def _columns(self, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        table = np.frombuffer(self.hashes, np.int64).reshape(-1, 4)
        return (table[:, 0], table[:, 1]) if exact else (table[:, 2], table[:, 3])

    def differ_in_case(self) -> bool:
        """Whether there are outputs whose names differ in nothing but case."""
        exact, folded = (len(np.unique(self._columns(exact)[1])) for exact in (True, False))
        return exact != folded

    def shared(self, exact: bool) -> list[int]:
        """Numbers of the photos whose path or output is that of another, and perhaps of a few more."""
        sources, targets = self._columns(exact)
        values, counts = np.unique(targets, return_counts=True)
        elsewhere = sources[sources != targets]
        several = np.isin(targets, values[counts > 1]) | np.isin(targets, elsewhere)
        return np.flatnonzero(several | (np.isin(sources, targets) & (sources != targets))).tolist()


def _each_once(photos: Mapping[int, Found]) -> dict[int, Found]:
    """Leaves out photos that were found before with the same output; a named one takes the place of another."""
    found: dict[str, tuple[int, Found]] = {}
    for number, photo in photos.items():
        key = f"{os.path.abspath(photo.source)}\0{photo.target}"
        if key not in found or photo.named:
            found[key] = found.get(key, (number, photo))[0], photo
    return dict(found.values())


def _without_conflicts(photos: Mapping[int, Found], overwrite: bool, exact: bool) -> dict[int, Job]:
    """Returns the jobs of photos by number, after resolving conflicts between their outputs.

    Photos with the same output are refused. A photo at the path of another photo's output is not restored, since it is
    probably the result of an earlier run. If the user did not name it, and its own output would be a third file, it is
    omitted; otherwise it becomes a skipped job with the reason, since it may be an original.

    Args:
        exact: whether the file system distinguishes names that differ only in case.
    """
    by_target: dict[str, list[Found]] = {}
    for photo in photos.values():
        if not photo.refused:
            by_target.setdefault(_key(photo.target, exact), []).append(photo)
    refused: dict[int, str] = {}
    writers: dict[str, Found] = {}  # path of an output -> the photo restored to it
    for key, candidates in by_target.items():
        # a photo that would replace itself without `overwrite` is refused by `_refusal`
        candidates = [photo for photo in candidates if overwrite or _key(photo.source, exact) != key]
        if len(candidates) == 1:
            writers[key] = candidates[0]
            continue
        for photo in candidates:
            others = ", ".join(repr(other.source) for other in candidates if other is not photo)
            refused[id(photo)] = f"{photo.target!r} would also be the output of {others}"
    jobs = {}
    for number, photo in photos.items():
        job = Job(photo.source, photo.target, photo.refused or refused.get(id(photo), ""))
        writer = writers.get(_key(photo.source, exact))
        if not job.refused and writer is not None and writer is not photo:
            if _key(photo.target, exact) == _key(photo.source, exact):
                job = replace(job, skipped=f"it is at the path of the output of {writer.source!r}")
            elif not photo.named:
                continue
        jobs[number] = job
    return jobs


def _key(path: str, exact: bool) -> str:
    """Returns a text that is equal for paths of the same file; `exact` is as for `_without_conflicts`."""
    path = os.path.normcase(os.path.abspath(path))
    return path if exact else unicodedata.normalize("NFC", path).casefold()


def _is_case_sensitive(names: _Names, folder: str) -> bool:
    """Whether the file system of `folder` distinguishes all outputs; exFAT and APFS ignore case.

    If some names differ only in case, this is tested by a temporary file.
    """
    if sys.platform == "darwin":
        return False
    if not names.differ_in_case():
        return True
    while not os.path.isdir(folder):
        folder = os.path.dirname(os.path.abspath(folder))
    try:
        with tempfile.NamedTemporaryFile(prefix=".daa-case-", dir=folder) as probe:
            return not os.path.exists(os.path.join(folder, os.path.basename(probe.name).upper()))
    except OSError:  # the folder is not writable, which is reported later
        return True


def _refusal(job: Job, root: str, parent: str, overwrite: bool) -> str:
    """Returns the reason why a job's output cannot be written, or ""; `parent` is the real path of its folder."""
    name = os.path.basename(job.target)
    if len(os.fsencode(name)) > NAME_BYTES:
        return f"the name of its output has {len(os.fsencode(name))} bytes, file systems allow {NAME_BYTES}: {name!r}"
    if os.path.commonpath([root, parent]) != root:
        return f"{job.target!r} is outside of the output folder, in {parent!r}"
    if os.path.isdir(job.target) and not os.path.islink(job.target):
        return f"{job.target!r} is a folder"
    if os.path.realpath(job.source) == os.path.join(parent, os.path.basename(job.target)) and not overwrite:
        return "its output would replace the photo itself: choose another folder, `--suffix`, or `--overwrite`"
    return ""
