"""Restoration of a list of photos; a failure is reported, and does not stop the others."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any

from ..files import concerns_all_files, one_line
from . import stages
from .options import Options
from .outputs import Job
from .quiet import without_warnings
from .stages import Record, StagedPhoto
from .stages import restore_one as restore_one

if TYPE_CHECKING:
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

logger = logging.getLogger(__name__)

RESTORED, SKIPPED, FAILED, PLANNED = "restored", "skipped", "failed", "planned"
# Number of photos read in advance, and of photos being written, on a CPU and on a GPU. On a CPU one is enough, since
# restoring takes far longer; a GPU can be faster than decoding and encoding of one file after another.
AHEAD, AHEAD_OF_GPU = 1, 8

Result = tuple[Record, OSError | None]  # a record, and the system error (`concerns_all_files`) that ends the run


def restore_all(jobs: Iterable[Job], options: Options, load: Callable[[], DAARestorationPipeline]) -> Iterator[Record]:
    """Restores photos in order, while the next ones are read and the previous ones written.

    Args:
        jobs: jobs of `find_jobs`.
        options: options of the restoration.
        load: function that returns the pipeline; called before the first photo is restored, if any.

    Yields:
        A record of each job (plain JSON), in order: "input", "output", "status" (restored, skipped, failed or planned);
        "reason" if failed or skipped; and if restored "width", "height", "format", "bits", "seconds" (for reading,
        restoring and writing), "notes" and "guard".

    Raises:
        OSError: a system error, such as a full or read-only disk, with which other photos would fail as well. It is
            raised after the record of the failed photo; nothing more is written, and finished outputs are kept.
        KeyboardInterrupt: raised after the records of the photos that are being written.
    """
    with _Overlap(options) as overlap:
        try:
            yield from overlap.run(jobs, load)
        except KeyboardInterrupt:
            yield from overlap.records(0)
            raise


class _Overlap:
    """Threads that read photos ahead and write finished ones; the caller's thread restores.

    Args:
        options: options of the restoration.
    """

    def __init__(self, options: Options):
        self.options = options
        self.readers = ThreadPoolExecutor(AHEAD_OF_GPU, "read")
        self.writers: ThreadPoolExecutor | None = None
        self.pending: deque[Future[Result]] = deque()  # in the order of the jobs
        self.stopped = Event()  # set by a system error: nothing more is written
        self.ahead = AHEAD

    def __enter__(self) -> _Overlap:
        return self

    def __exit__(self, *error: Any) -> None:
        for pool in (self.readers, self.writers):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: Iterable[Job], load: Callable[[], DAARestorationPipeline]) -> Iterator[Record]:
        """See `restore_all`."""
        pipeline = None
        for job, state in self._read_ahead(jobs):
            if isinstance(state, Future):
                pipeline = pipeline or self._load(load)
                self.pending.append(self._restore(pipeline, job, state))
            else:
                self.pending.append(_finished(state))
            yield from self.records(self.ahead)
        yield from self.records(0)

    def records(self, left: int) -> Iterator[Record]:
        """Yields finished records in order, and waits until at most `left` photos are being written."""
        while self.pending and (len(self.pending) > left or self.pending[0].done()):
            record, error = self.pending.popleft().result()
            yield record
            if error is not None:
                raise error

    def _load(self, load: Callable[[], DAARestorationPipeline]) -> DAARestorationPipeline:
        pipeline = load()
        kind = getattr(getattr(pipeline, "device", None), "type", "cpu")
        self.ahead = AHEAD if kind == "cpu" else AHEAD_OF_GPU
        self.writers = ThreadPoolExecutor(self.ahead, "write")
        return pipeline

    def _read_ahead(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Record | Future[StagedPhoto]]]:
        """Yields each job with the future of its photo, or with its record if it is not to be restored."""
        rest, queue = iter(jobs), deque[tuple[Job, Record | Future[StagedPhoto]]]()
        while True:
            for job in islice(rest, 1 + self.ahead - len(queue)):
                queue.append((job, _record_of(job, self.options) or self.readers.submit(self._read, job)))
            if not queue:
                return
            yield queue.popleft()

    def _read(self, job: Job) -> StagedPhoto:
        with without_warnings():
            return stages.read(job, self.options)

    def _restore(self, pipeline: DAARestorationPipeline, job: Job, read: Future[StagedPhoto]) -> Future[Result]:
        try:
            with without_warnings():
                restored = stages.restore(pipeline, read.result(), self.options)
        except Exception as error:  # an error in one photo does not stop the others
            return _finished(*self._failed(job, error))
        assert self.writers is not None
        return self.writers.submit(self._write, restored, job)

    def _write(self, restored: StagedPhoto, job: Job) -> Result:
        if self.stopped.is_set():
            return {}, None  # never yielded, since `records` raises the system error first
        try:
            with without_warnings():
                return _paths(job) | {"status": RESTORED} | stages.write(restored, job, self.options), None
        except FileExistsError:
            reason = "another process has written the output in the meantime"
            return _paths(job) | {"status": SKIPPED, "reason": reason}, None
        except Exception as error:
            return self._failed(job, error)

    def _failed(self, job: Job, error: Exception) -> Result:
        """Returns the result of a photo that failed; stops all writing if other photos would fail as well."""
        logger.debug("%s", job.source, exc_info=True)
        record = _paths(job) | {"status": FAILED, "reason": _message(error)}
        if isinstance(error, OSError) and concerns_all_files(error):
            self.stopped.set()
            return record, error
        return record, None


def _paths(job: Job) -> Record:
    return {"input": job.source, "output": job.target}


def _finished(record: Record, error: OSError | None = None) -> Future[Result]:
    done: Future[Result] = Future()
    done.set_result((record, error))
    return done


def _record_of(job: Job, options: Options) -> Record | None:
    """Returns the record of a job that is not to be restored: refused, skipped or planned; else None."""
    if job.refused:
        return _paths(job) | {"status": FAILED, "reason": job.refused}
    if job.skipped:
        return _paths(job) | {"status": SKIPPED, "reason": job.skipped}
    if os.path.lexists(job.target) and not options.overwrite:
        return _paths(job) | {"status": SKIPPED, "reason": "the output exists"}
    return _paths(job) | {"status": PLANNED} if options.dry_run else None


def _message(error: Exception) -> str:
    """Returns the reason for a failed photo, with the type of unexpected errors."""
    message = str(error)
    if isinstance(error, MemoryError) and not message:
        message = "out of memory"
    return message if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {message}"


class Summary:
    """Counts of photos by status, and counts of notes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: dict[str, tuple[int, str]] = {}  # note -> number of photos, path of the first
        self.stopped = ""  # reason why the remaining photos were not tried

    def add(self, record: Record) -> None:
        """Counts one record of `restore_all`."""
        self.counts[record["status"]] += 1
        for note in record.get("notes", ()):
            self._note(note, 1, record["input"])
        guard = record.get("guard")
        if guard and guard["strength"] < 1:
            done = "left unchanged" if guard["strength"] == 0 else "restored less"
            self._note(f"{done} by the guard: {guard['reason']}", 1, record["input"])

    def merge(self, other: Summary) -> None:
        """Adds the counts of another process."""
        self.counts.update(other.counts)
        self.stopped = self.stopped or other.stopped
        for note, (count, example) in other.notes.items():
            self._note(note, count, example)

    def _note(self, note: str, count: int, example: str) -> None:
        before, first = self.notes.get(note, (0, example))
        self.notes[note] = (before + count, first)

    def as_dict(self) -> dict[str, int]:
        """Returns the number of photos with each status."""
        return {status: self.counts[status] for status in (RESTORED, SKIPPED, FAILED, PLANNED)}

    def describe(self) -> str:
        """Returns a summary of a few lines."""
        lines = [
            one_line(f"{count} x {note} ({example}{', ...' if count > 1 else ''})")
            for note, (count, example) in self.notes.items()
        ]
        planned = self.counts[PLANNED]
        parts = [f"{planned} would be restored" if planned else f"{self.counts[RESTORED]} {RESTORED}"]
        parts += [f"{self.counts[status]} {status}" for status in (SKIPPED, FAILED) if self.counts[status]]
        return "\n".join([*lines, ", ".join(parts)])
