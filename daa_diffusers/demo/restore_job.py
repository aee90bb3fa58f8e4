"""Restoration of photos for the web page of the demo, independent of its layout."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigurationError
from ..files import printable, replacing, shortened
from ..restoring.options import Options
from ..restoring.outputs import Job, find_jobs
from ..restoring.work import FAILED, Record, restore_all
from .offered import Offered
from .views import Pair

if TYPE_CHECKING:
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

KEPT_SECONDS = 4 * 3600  # age at which results are removed
ARCHIVE = "restored.zip"  # name of the archive of all restored photos


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Args:
        max_megapixels: maximum size of a photo.
        max_file_mb: maximum size of a file, in MB.
        max_files: maximum number of photos in a batch or an adaptation.
        max_minutes: maximum time budget of an adaptation.
    """

    max_megapixels: float = 50.0
    max_file_mb: float = 200.0
    max_files: int = 200
    max_minutes: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                option = name.replace("_", "-")
                raise ConfigurationError(f"`--{option}` must be a positive number, got {value!r}")

    def check(self, files: Sequence[str]) -> None:
        """Raises ConfigurationError if there are no files, too many files, or files that are too large."""
        if not files:
            raise ConfigurationError("choose photos first")
        if len(files) > self.max_files:
            raise ConfigurationError(f"{len(files)} photos are more than the allowed {self.max_files}")
        for file in files:
            megabytes = os.path.getsize(file) / 1e6
            if megabytes > self.max_file_mb:
                name = os.path.basename(file)
                raise ConfigurationError(f"{name}: {megabytes:.0f} MB are more than the allowed {self.max_file_mb:g}")


class Work:
    """State shared by all visitors: folder of results, limits, checkpoints, and the last used pipeline.

    Args:
        folder: folder for results, which are removed after `KEPT_SECONDS`.
        limits: limits on requests.
        checkpoints: checkpoints to offer in addition to the bundled ones.
        runs: folder of adaptations, whose results are offered too.
        only_offered: reject checkpoints that are not offered, so that remote visitors cannot open local folders.
        device: device of the pipeline, as in `daa restore`.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        *,
        checkpoints: Sequence[str] = (),
        runs: Path | None = None,
        only_offered: bool = False,
        device: str | None = None,
    ) -> None:
        self.folder, self.limits, self.offered = folder, limits, Offered(checkpoints, runs)
        self.only_offered, self.device = only_offered, device
        self._lock = threading.Lock()
        self._loaded: tuple[str, DAARestorationPipeline] | None = None

    def load(self, checkpoint: str) -> DAARestorationPipeline:
        """Loads a pipeline, or returns the last one; raises CheckpointError if it is not allowed or fails to load."""
        from ..restoring.loading import load_pipeline

        name = (checkpoint or "").strip()
        if not name:
            raise CheckpointError(f"choose a checkpoint first, such as {self.offered.default}")
        if self.only_offered and name not in self.offered.names():
            raise CheckpointError(f"checkpoint {name!r} is not among those offered")
        with self._lock:
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = None  # two may not fit in memory
                pipeline = load_pipeline(name, self.device, "auto")
                pipeline.set_progress_bar_config(disable=True)
                self._loaded = (name, pipeline)
            return self._loaded[1]

    def restore(self, file: str, checkpoint: str, options: Options) -> tuple[Record, Pair | None]:
        """Restores a photo. Returns its record (see `restore_all`), and the files or, if it failed, None."""
        self.limits.check([file] if file else [])
        (job,) = self._jobs([file])
        record = next(self._restore([job], checkpoint, options))
        return record, None if record["status"] == FAILED else Pair(job.source, job.target)

    def restore_many(
        self, files: Sequence[str], checkpoint: str, options: Options
    ) -> Iterator[tuple[Record, Path | None]]:
        """Restores photos one by one. Yields their records, the last one with a zip of all restored photos, if any."""
        self.limits.check(files)
        jobs = self._jobs(files)
        restored = []
        for number, record in enumerate(self._restore(jobs, checkpoint, options), 1):
            if record["status"] != FAILED:
                restored.append(record["output"])
            archive = None
            if number == len(jobs) and restored:
                archive = _zipped(restored, Path(record["output"]).parent / ARCHIVE)
            yield record, archive

    def _restore(self, jobs: list[Job], checkpoint: str, options: Options) -> Iterator[Record]:
        """Restores photos within the limit of their size; yields records without local folders."""
        options = replace(options, max_megapixels=self.limits.max_megapixels)
        for record in restore_all(jobs, options, lambda: self.load(checkpoint)):
            yield _without_folders(record)

    def _jobs(self, files: Sequence[str]) -> list[Job]:
        """Creates jobs that write to a new folder under unique names; also removes the folders of old results."""
        results = self.folder / "results"
        results.mkdir(parents=True, exist_ok=True)
        for old in results.iterdir():
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        folder = tempfile.mkdtemp(dir=results)
        jobs, taken = [], {ARCHIVE}
        for file in files:
            (job,) = find_jobs([file], folder).jobs
            name, number = shortened(os.path.basename(job.target), "_restored"), 1
            while name.lower() in taken:  # photos from several folders may have the same name
                number += 1
                name = shortened(os.path.basename(job.target), f"_restored_{number}")
            taken.add(name.lower())
            jobs.append(replace(job, target=os.path.join(folder, name)))
        return jobs


def describe(record: Record) -> str:
    """Returns a few lines of text about a record of `restore_all`."""
    name = os.path.basename(record["input"])
    if record["status"] == FAILED:
        return f"{name} could not be restored: {record['reason']}"
    lines = [
        f"{name}: {record['width']} x {record['height']} pixels, {record['format']} of {record['bits']} bits, "
        f"{record['seconds']:.1f} s"
    ]
    guard = record["guard"]
    if guard and guard["strength"] < 1:
        done = "Left unchanged" if guard["strength"] == 0 else f"Restored with {guard['strength']:.0%} strength"
        lines.append(f"{done} by the guard ({guard['reason']}).")
    return "\n".join([*lines, *(f"Note: {note}." for note in record["notes"])])


def _without_folders(record: Record) -> Record:
    """Removes local folders from the texts of a record."""
    if "reason" not in record:
        return record
    reason = record["reason"]
    for path in (record["input"], record["output"]):
        reason = reason.replace(path, os.path.basename(path))
    return record | {"reason": reason}


def _zipped(files: Sequence[str], path: Path) -> Path:
    """Writes a zip archive of files, and returns its path."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive:
        for file in files:  # uncompressed, as photos are compressed already
            archive.write(file, printable(os.path.basename(file)))
    return path
