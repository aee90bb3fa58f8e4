"""Bulk restoration job: a folder with its settings, its finished shards, and a record of each photo."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..checkpoints import DEFAULT
from ..errors import ConfigurationError
from ..files import check_writable, replacing, write_text
from ..restoring.loading import check_dtype
from ..restoring.options import Options
from .inputs import Input, list_inputs

LAYOUT = 1  # version of the folder's layout
SUBFOLDERS = ("inputs", "manifest", "attempts")


@dataclasses.dataclass(frozen=True)
class BulkSettings:
    """Settings of a job. A job is only resumed with the same settings, so that one restorer made the whole output.

    Args:
        sources: folders, tar shards and datasets, as specs for `sources.specs.open_source`.
        checkpoint: checkpoint, as for `DAARestorationPipeline.from_pretrained`.
        dtype: "float32", "bfloat16" or "float16".
        photos_per_shard: number of photos per shard, the unit that is repeated if a process is killed.
        options: options of `daa restore`; `overwrite`, `compare` and `dry_run` have no effect here.

    Raises:
        ConfigurationError: a value is invalid.
    """

    sources: tuple[str, ...]
    checkpoint: str = DEFAULT
    dtype: str = "float32"
    photos_per_shard: int = 500
    options: Options = dataclasses.field(default_factory=Options)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        if self.photos_per_shard < 1:
            raise ConfigurationError(f"`photos_per_shard` must be at least 1, got {self.photos_per_shard}")
        check_dtype(self.dtype)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as one flat JSON mapping."""
        fields = dataclasses.asdict(self)
        options = fields.pop("options")
        used = {name: value for name, value in options.items() if name not in _UNUSED_OPTIONS}
        return {**fields, "sources": list(self.sources), **used}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BulkSettings:
        """Inverts `to_json`."""
        of_job = {field.name for field in dataclasses.fields(cls)}
        options = Options(**{name: value for name, value in fields.items() if name not in of_job})
        return cls(**{name: value for name, value in fields.items() if name in of_job}, options=options)


_UNUSED_OPTIONS = ("overwrite", "compare", "dry_run")
_PLANNED = ("photos", "shards", "working_folder", "fingerprint")  # fields of a job in job.json, besides its settings


@dataclasses.dataclass(frozen=True)
class BulkJob:
    """A planned job.

    The files of shard n are in `folder`, on a file system that all workers share:

    - `inputs/n.jsonl`: its photos, fixed when the job is planned.
    - `n.tar`: the restored photos, in webdataset's layout.
    - `manifest/n.jsonl`: a record of each photo. It is written last: a shard with this file is finished.
    - `attempts/n.log`: while in progress, the photos that processes started to restore (`shards.AttemptLog`).

    Args:
        folder: absolute path of the job's folder.
        settings: settings of the job.
        photos, shards: number of photos and shards.
        working_folder: base of the relative paths in `settings`.
        fingerprint: fingerprint of the restorer's weights, if known.
    """

    folder: Path
    settings: BulkSettings
    photos: int
    shards: int
    working_folder: str
    fingerprint: str | None

    @classmethod
    def open(cls, folder: str | os.PathLike) -> BulkJob:
        """Opens the job that `plan_job` wrote to `folder`.

        Raises:
            ConfigurationError: there is no job, or one of another version.
        """
        folder = Path(folder).absolute()
        try:
            fields = json.loads((folder / "job.json").read_text(encoding="utf-8"))
            if fields.pop("layout") != LAYOUT:
                raise ValueError("it has the layout of another version")
            settings = BulkSettings.from_json(fields.pop("settings"))
            return cls(folder, settings, *(fields[name] for name in _PLANNED))
        except FileNotFoundError:
            raise ConfigurationError(f"{str(folder)!r} holds no job: job.json is missing") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{str(folder / 'job.json')!r} is not a job of this version: {error}") from error

    def tar_path(self, number: int) -> Path:
        """Returns the path of a shard's tar file."""
        return self.folder / f"{number:06d}.tar"

    def manifest_path(self, number: int) -> Path:
        """Returns the path of a shard's records."""
        return self.folder / "manifest" / f"{number:06d}.jsonl"

    def attempts_path(self, number: int) -> Path:
        """Returns the path of a shard's `AttemptLog`."""
        return self.folder / "attempts" / f"{number:06d}.log"

    def inputs(self, number: int) -> list[Input]:
        """Reads the photos to restore in shard `number`."""
        with open(self.folder / "inputs" / f"{number:06d}.jsonl", encoding="utf-8") as lines:
            return [Input.from_line(line) for line in lines]

    def records(self, number: int) -> list[dict[str, Any]] | None:
        """Reads the records of shard `number`; None if it is not finished."""
        try:
            with open(self.manifest_path(number), encoding="utf-8") as lines:
                return [json.loads(line) for line in lines]
        except FileNotFoundError:
            return None

    def unfinished(self) -> list[int]:
        """Returns the numbers of unfinished shards, in order."""
        names = set(os.listdir(self.folder / "manifest"))
        return [number for number in range(self.shards) if f"{number:06d}.jsonl" not in names]

    def photos_of(self, shards: Iterable[int]) -> int:
        """Returns the total number of photos in these shards."""
        size = self.settings.photos_per_shard
        return sum(min(size, self.photos - number * size) for number in shards)

    def reopen_failed(self) -> int:
        """Marks shards with failed photos as unfinished, so that they are repeated; returns their number."""
        count = 0
        for number in range(self.shards):
            if any(record["status"] == "failed" for record in self.records(number) or ()):
                self.attempts_path(number).unlink(missing_ok=True)
                self.manifest_path(number).unlink()
                count += 1
        if count:
            (self.folder / "manifest.jsonl").unlink(missing_ok=True)
        return count

    def clear_leftovers(self) -> None:
        """Removes incomplete files of killed processes. Must not run while processes restore."""
        for folder in (self.folder, *(self.folder / name for name in SUBFOLDERS)):
            for path in itertools.chain(folder.glob(".*.tar"), folder.glob(".*.jsonl")):
                path.unlink(missing_ok=True)

    def join_manifest(self) -> Path:
        """Writes `manifest.jsonl`, the records of all shards in order, and returns its path.

        Raises:
            ConfigurationError: shards are unfinished, or the number of records differs from that of photos.
        """
        path, lines = self.folder / "manifest.jsonl", 0
        if left := self.unfinished():
            raise ConfigurationError(f"{len(left)} of {self.shards} shards are not finished; the first is {left[0]}")
        with replacing(path) as temporary, open(temporary, "wb") as joined:
            for number in range(self.shards):
                content = self.manifest_path(number).read_bytes()
                lines += content.count(b"\n")
                joined.write(content)
            if lines != self.photos:
                raise ConfigurationError(f"the manifest holds {lines} records, but the job has {self.photos} photos")
        return path


def check_new(folder: Path) -> None:
    """Raises ConfigurationError unless `folder`, which has no job yet, is new or empty."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"the output must be a folder, got the file {str(folder)!r}")
    names = os.listdir(folder) if folder.exists() else ()
    others = [name for name in names if name not in SUBFOLDERS and name[0] != "."]
    if others:
        raise ConfigurationError(
            f"the output {str(folder)!r} must be new, empty or that of a job, but holds {others[0]!r}"
        )


def plan_job(folder: str | os.PathLike, settings: BulkSettings, fingerprint: str | None = None) -> BulkJob:
    """Lists the photos and divides them into shards; if `folder` already holds the job, returns it.

    Photos added to the sources later are not part of the job; removed ones are recorded as failed.

    Args:
        folder: folder of the job, created if missing; must be empty, or hold a job with the same settings.
        settings: settings of the job.
        fingerprint: fingerprint of the restorer's weights, from `shards.restorer_fingerprint`; None: not compared.

    Raises:
        ConfigurationError: the job in `folder` has other settings or weights, the folder holds other files, or a source
            cannot be listed.
    """
    folder = Path(folder).absolute()
    if (folder / "job.json").exists():
        job = BulkJob.open(folder)
        _check_same(job, settings, fingerprint)
        return job
    check_new(folder)
    listed = list_inputs(settings.sources)
    first = list(itertools.islice(listed, settings.photos_per_shard))  # raises errors before anything is written
    is_new = not folder.exists()
    try:
        for name in SUBFOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)  # left by an interrupted plan
            (folder / name).mkdir(parents=True)
        photos, shards = _write_inputs(folder, first, listed, settings.photos_per_shard)
        job = BulkJob(folder, settings, photos, shards, os.getcwd(), fingerprint)
        content = {"layout": LAYOUT, "settings": settings.to_json(), **{name: getattr(job, name) for name in _PLANNED}}
        # last: its presence marks the plan as complete
        write_whole(folder / "job.json", (json.dumps(content, indent=2) + "\n").encode())
    except BaseException:
        for path in [folder] if is_new else [folder / name for name in SUBFOLDERS]:
            shutil.rmtree(path, ignore_errors=True)
        raise
    return job


def _write_inputs(folder: Path, first: list[Input], listed: Iterator[Input], size: int) -> tuple[int, int]:
    """Writes the photos of each shard; returns the numbers of photos and shards."""
    photos = shards = 0
    shard = first
    while shard:
        write_text(folder / "inputs" / f"{shards:06d}.jsonl", "".join(photo.to_line() for photo in shard))
        photos, shards = photos + len(shard), shards + 1
        shard = list(itertools.islice(listed, size))
    return photos, shards


def _check_same(job: BulkJob, settings: BulkSettings, fingerprint: str | None) -> None:
    """Raises ConfigurationError unless a job has these settings and weights."""
    before, now = job.settings.to_json(), settings.to_json()
    wrong = [f"`{name}` {before[name]!r}, got {now[name]!r}" for name in before if before[name] != now[name]]
    if not wrong and job.fingerprint and fingerprint not in (None, job.fingerprint):
        wrong = [f"other weights under the checkpoint's name {settings.checkpoint!r}"]
    if wrong:
        raise ConfigurationError(
            f"the job in {str(job.folder)!r} began with {'; '.join(wrong)}; resume it with the same settings, or "
            "choose another output"
        )


def read_manifest(folder: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Reads the records of all photos of a job's finished shards, in order.

    Yields:
        For each photo "key" (of its sample), "source" (name of the input), "shard" (tar file), "member" (name in it),
        "status" ("restored" or "failed"), "error" (reason of a failure), "checksum" ("sha256:..." of the restored file)
        and, as in `daa restore --json`, "width", "height", "format", "bits", "seconds", "notes" and "guard". Values
        that do not apply are None.
    """
    job = BulkJob.open(folder)
    for number in range(job.shards):
        yield from job.records(number) or ()


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike) -> Iterator[None]:
    """Context that locks a job for this process; the lock is released when the process ends in any way.

    Raises:
        ConfigurationError: another process has locked the job.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    check_writable(folder)
    lock = folder / ".lock"
    is_new, had_lock = not folder.exists(), lock.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise ConfigurationError(f"another `daa bulk` is running in {str(folder)!r}") from None
    finally:
        if not had_lock and not (folder / "job.json").exists():  # no job was planned: leave the folder unchanged
            lock.unlink(missing_ok=True)
            if is_new and not os.listdir(folder):
                folder.rmdir()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically like `files.replacing`, also if the machine crashes: data are synced before renaming."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
