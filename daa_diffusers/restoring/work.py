"""Restoration of one photo after another: failures are reported and skipped, finished photos are not repeated."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import check_writable, of_the_machine, one_line, replacing, shortened
from ..photos import open_photo, save_photo
from ..photos.registry import BY_NAME
from ..photos.saving import own_format
from ..photos.stored import StoredPhoto, with_bits
from .options import Options
from .outputs import Job

if TYPE_CHECKING:
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

logger = logging.getLogger(__name__)

RESTORED, SKIPPED, FAILED, PLANNED = "restored", "skipped", "failed", "planned"
Record = dict[str, Any]


def restore_all(jobs: Iterable[Job], options: Options, load: Callable[[], DAARestorationPipeline]) -> Iterator[Record]:
    """Restores photos in order and yields a record of each.

    Args:
        jobs: what `find_jobs` gave, or a part of it.
        options: of restoring.
        load: gives the pipeline; called before the first photo that is restored, and not at all without one.

    Yields:
        For each job a JSON object with "input", "output", "status" (restored, skipped, failed or planned), for a failed
        or skipped one "reason", and for a restored one "width", "height", "format", "bits", "seconds", "notes" and
        "guard".

    Raises:
        OSError: after the record of a photo that failed for a reason of the machine, such as a full or read-only disk:
            the others would fail as well. What is written already stays.
    """
    pipeline = None
    for job in jobs:
        record: Record = {"input": job.source, "output": job.target}
        if job.refused:
            yield record | {"status": FAILED, "reason": job.refused}
        elif job.skipped:
            yield record | {"status": SKIPPED, "reason": job.skipped}
        elif os.path.lexists(job.target) and not options.overwrite:
            yield record | {"status": SKIPPED, "reason": "the output exists"}
        elif options.dry_run:
            yield record | {"status": PLANNED}
        else:
            pipeline = pipeline or load()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # libraries warn of damaged metadata; losses are in the notes
                    done = restore_one(pipeline, job, options)
            except FileExistsError:
                yield record | {"status": SKIPPED, "reason": "another process has written the output since"}
            except Exception as error:  # no error in one photo stops the others
                logger.debug("%s", job.source, exc_info=True)
                yield record | {"status": FAILED, "reason": _words(error)}
                if of_the_machine(error):
                    raise
            else:
                yield record | {"status": RESTORED} | done


def _words(error: Exception) -> str:
    message = str(error) or "out of memory" if isinstance(error, MemoryError) else str(error)
    return message if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {message}"


def restore_one(pipeline: DAARestorationPipeline, job: Job, options: Options) -> Record:
    """Restores one photo to its file, which gets the photo's permissions and modification time.

    Returns:
        The record of `restore_all` for a restored photo.

    Raises:
        UnreadablePhotoError, ConfigurationError, OSError, FloatingPointError: as reading, restoring and writing do.
        FileExistsError: another process has written its file since.
    """
    start = time.perf_counter()
    folder = Path(job.target).parent
    check_writable(folder)  # before the work
    photo = open_photo(job.source, max_megapixels=options.max_megapixels)
    if options.bits == 16 and 16 in BY_NAME[options.format or own_format(photo)].depths:
        photo = _deepened(photo)  # before restoring, which then rounds to 16 bits
    result: Any = pipeline(
        photo.pixels,
        output_type="np",
        tile=options.tile,
        strength=options.strength,
        self_ensemble=options.self_ensemble,
        guard=options.guard,
    )
    restored: np.ndarray = result.images[0]
    if options.compare is not None:
        _compare(photo, restored, job, Path(options.compare))
    folder.mkdir(parents=True, exist_ok=True)
    if not options.overwrite and os.path.lexists(job.target):
        raise FileExistsError(f"{job.target!r} exists")
    with replacing(job.target, like=job.source) as temporary:
        if _same(photo, restored, options):
            shutil.copyfile(job.source, temporary)  # coding it again would only lose quality
            format_, bits = own_format(photo), photo.bits
            notes: tuple[str, ...] = ("nothing to restore: the file was copied",)
        else:
            photo = dataclasses.replace(photo, pixels=restored)  # frees the memory of the old pixels for the encoder
            saved = save_photo(
                temporary,
                photo,
                format=options.format,
                bits=options.bits,
                quality=options.quality,
                strip_location=options.strip_location,
                overwrite=True,  # of the temporary file, which exists
            )
            format_, bits, notes = saved.format, saved.bits, saved.notes
    return {
        "width": restored.shape[1],
        "height": restored.shape[0],
        "format": format_,
        "bits": bits,
        "seconds": round(time.perf_counter() - start, 3),
        "notes": list(notes),
        "guard": dataclasses.asdict(result.guard[0]) if result.guard else None,
    }


def _same(photo: StoredPhoto, restored: np.ndarray, options: Options) -> bool:
    """Whether the file can be copied unchanged."""
    as_it_was = options.bits in (None, photo.bits) and options.quality is None and not options.strip_location
    as_it_was &= photo.format != "RAW" and options.format in (None, own_format(photo))
    return as_it_was and np.array_equal(photo.pixels, restored)


def _deepened(photo: StoredPhoto) -> StoredPhoto:
    alpha = None if photo.alpha is None else with_bits(photo.alpha, 16)
    return dataclasses.replace(photo, pixels=with_bits(photo.pixels, 16), alpha=alpha)


def _compare(photo: StoredPhoto, restored: np.ndarray, job: Job, folder: Path) -> None:
    """A sheet: the whole photo before and after, and its middle, enlarged."""
    from ..evaluation.sheets import contact_sheet
    from ..photos.stored import upright

    cell = 480
    rows = []
    for pick in (_reduced, _middle):
        row = [pick(upright(pixels, photo.orientation), cell) for pixels in (photo.pixels, restored)]
        rows.append([np.ascontiguousarray(with_bits(np.ascontiguousarray(one), 8)) for one in row])
    name = os.path.basename(job.target)
    target = folder / shortened(name, ".png", append=True)
    number = 1
    while target.exists():  # photos of several folders may have one name
        number += 1
        target = folder / shortened(name, f".{number}.png", append=True)
    contact_sheet(rows, ("before", "after"), (), target, cell=cell, title=os.path.basename(job.source))


def _reduced(pixels: np.ndarray, cell: int) -> np.ndarray:
    step = max(1, max(pixels.shape[:2]) // (2 * cell))  # the rest is done with a filter
    return pixels[::step, ::step]


def _middle(pixels: np.ndarray, cell: int) -> np.ndarray:
    height, width = (min(side, cell // 3) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


class Summary:
    """Counts of photos by status, and of notes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: dict[str, tuple[int, str]] = {}
        self.stopped = ""  # why the rest was not tried

    def add(self, record: Record) -> None:
        """Counts one record of `restore_all`."""
        self.counts[record["status"]] += 1
        for note in record.get("notes", ()):
            self._note(note, 1, record["input"])
        guard = record.get("guard")
        if guard and guard["strength"] < 1:
            done = "left as it was" if guard["strength"] == 0 else "restored less"
            self._note(f"{done} by the guard: {guard['reason']}", 1, record["input"])

    def merge(self, other: Summary) -> None:
        """Adds another process's counts."""
        self.counts.update(other.counts)
        self.stopped = self.stopped or other.stopped
        for note, (count, example) in other.notes.items():
            self._note(note, count, example)

    def _note(self, note: str, count: int, example: str) -> None:
        before, first = self.notes.get(note, (0, example))
        self.notes[note] = (before + count, first)

    def as_dict(self) -> dict[str, int]:
        """How many photos had each status."""
        return {status: self.counts[status] for status in (RESTORED, SKIPPED, FAILED, PLANNED)}

    def describe(self) -> str:
        """A summary of a few lines."""
        lines = [
            one_line(f"{count} x {note} ({example}{', ...' if count > 1 else ''})")
            for note, (count, example) in self.notes.items()
        ]
        shown = {RESTORED: True, SKIPPED: self.counts[SKIPPED], FAILED: self.counts[FAILED]}
        parts = [f"{self.counts[status]} {status}" for status in shown if shown[status]]
        if self.counts[PLANNED]:
            parts = [f"{self.counts[PLANNED]} would be restored", *parts[1:]]
        return "\n".join([*lines, ", ".join(parts)])
