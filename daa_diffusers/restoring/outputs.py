"""Mapping of photos to output files, with detection of conflicts."""

from __future__ import annotations

import functools
import glob
import mimetypes
import os
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..errors import ConfigurationError
from ..files import NAME_BYTES
from ..photos.registry import BY_SUFFIX, FORMATS, suffix_for
from .searching import Found, Search


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
        jobs: jobs, one per photo.
        left_out: number of skipped files in folders and patterns, by reason.
    """

    jobs: list[Job]
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
    found: dict[str, Found] = {}
    search = Search(folder, compare)
    for photo in search.find(inputs, listed):
        target = os.path.join(folder, name or renamed(photo.relative, format, suffix))
        key = f"{os.path.abspath(photo.source)}\0{target}"
        if key not in found or photo.named:
            found[key] = replace(photo, target=target)
    if not found and search.results:
        raise ConfigurationError(
            f"nothing to restore: files in the output folder and sheets are skipped, and these are all "
            f"{len(search.results)} photos, such as {search.results[0]!r}; choose another folder"
        )
    if not found:
        raise ConfigurationError("nothing to restore: the list of photos is empty")
    photos = list(found.values())
    jobs = _without_conflicts(photos, overwrite, _is_case_sensitive([photo.target for photo in photos], folder))
    if len(jobs) < len(photos):
        search.left_out["another photo's result"] += len(photos) - len(jobs)
    root, real_path = os.path.realpath(folder), functools.cache(os.path.realpath)
    for number, job in enumerate(jobs):
        if not job.refused and not job.skipped:
            reason = _refusal(job, root, real_path(os.path.dirname(job.target)), overwrite)
            jobs[number] = replace(job, refused=reason)
    return Plan(jobs, search.left_out)


def renamed(relative: str, format: str | None, suffix: str = "") -> str:
    """Returns the name of the restored file for `relative`; `format` and `suffix` are as for `find_jobs`."""
    stem, ending = os.path.splitext(relative)
    return f"{stem}{suffix}{suffix_for(ending, format)}"


def _without_conflicts(photos: list[Found], overwrite: bool, exact: bool) -> list[Job]:
    """Returns the jobs of photos, after resolving conflicts between their outputs.

    Photos with the same output are refused. A photo at the path of another photo's output is not restored, since it is
    probably the result of an earlier run. If the user did not name it, and its own output would be a third file, it is
    omitted; otherwise it becomes a skipped job with the reason, since it may be an original.

    Args:
        exact: whether the file system distinguishes names that differ only in case.
    """
    by_target: dict[str, list[Found]] = {}
    for photo in photos:
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
    jobs = []
    for photo in photos:
        job = Job(photo.source, photo.target, photo.refused or refused.get(id(photo), ""))
        writer = writers.get(_key(photo.source, exact))
        if not job.refused and writer is not None and writer is not photo:
            if _key(photo.target, exact) == _key(photo.source, exact):
                job = replace(job, skipped=f"it is at the path of the output of {writer.source!r}")
            elif not photo.named:
                continue
        jobs.append(job)
    return jobs


def _key(path: str, exact: bool) -> str:
    """Returns a text that is equal for paths of the same file; `exact` is as for `_without_conflicts`."""
    path = os.path.normcase(os.path.abspath(path))
    return path if exact else unicodedata.normalize("NFC", path).casefold()


def _is_case_sensitive(targets: Sequence[str], folder: str) -> bool:
    """Whether the file system of `folder` distinguishes all names in `targets`; exFAT and APFS ignore case.

    If some names differ only in case, this is tested by a temporary file.
    """
    if sys.platform == "darwin":
        return False
    if len({_key(target, True) for target in targets}) == len({_key(target, False) for target in targets}):
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
