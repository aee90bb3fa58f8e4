"""Job of bulk restoration: a folder with its settings, its finished shards, and a record of each photo."""

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

LAYOUT = 1
OURS = ("inputs", "manifest", "attempts")


@dataclasses.dataclass(frozen=True)
class BulkSettings:
    """Settings of a job. It resumes only with the settings that it began with: one restorer for the whole output.

    Args:
        sources: folders, tar shards and datasets as `sources.specs.open_source` takes them.
        checkpoint: as `DAARestorationPipeline.from_pretrained` takes it.
        dtype: "float32", "bfloat16" or "float16".
        photos_per_shard: size of the unit that is finished whole, and repeated where a process was killed.
        options: of `daa restore`; `overwrite`, `compare` and `dry_run` have no effect here.

    Raises:
        ConfigurationError: values that cannot work.
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
        """The settings as one flat JSON mapping."""
        fields = dataclasses.asdict(self)
        options = fields.pop("options")
        return {**fields, "sources": list(self.sources)} | {k: options[k] for k in options if k not in _NOT_OF_JOBS}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BulkSettings:
        """The inverse of `to_json`."""
        own = {field.name for field in dataclasses.fields(cls)}
        options = Options(**{name: value for name, value in fields.items() if name not in own})
        return cls(**{name: value for name, value in fields.items() if name in own}, options=options)


_NOT_OF_JOBS = ("overwrite", "compare", "dry_run")


@dataclasses.dataclass(frozen=True)
class BulkJob:
    """A planned job. Paths of shard n, all in `folder`, on a file system that all workers share:

    - `inputs/n.jsonl`: its photos, fixed when the job was planned.
    - `n.tar`: the restored ones, in webdataset's layout.
    - `manifest/n.jsonl`: a record of each photo; written last, so that the shard is finished where this file is.
    - `attempts/n.log`: while it is in progress, the photos that processes began (`shards.AttemptLog`).

    Args:
        folder: absolute.
        settings: what to do.
        photos, shards: how many.
        working_folder: base of the relative paths in `settings`.
        fingerprint: of the restorer's weights, where it is known.
    """

    folder: Path
    settings: BulkSettings
    photos: int
    shards: int
    working_folder: str
    fingerprint: str | None

    @classmethod
    def open(cls, folder: str | os.PathLike) -> BulkJob:
        """The job that `plan_job` put into `folder`.

        Raises:
            ConfigurationError: there is none, or a newer version's.
        """
        folder = Path(folder).absolute()
        try:
            fields = json.loads((folder / "job.json").read_text(encoding="utf-8"))
            if fields.pop("layout") != LAYOUT:
                raise ValueError("its layout is another version's")
            settings = BulkSettings.from_json(fields.pop("settings"))
            return cls(folder, settings, *(fields[k] for k in ("photos", "shards", "working_folder", "fingerprint")))
        except FileNotFoundError:
            raise ConfigurationError(f"{str(folder)!r} holds no job: job.json is missing") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{str(folder / 'job.json')!r} is no job of this version: {error}") from error

    def tar_path(self, number: int) -> Path:
        """The shard's photos."""
        return self.folder / f"{number:06d}.tar"

    def manifest_path(self, number: int) -> Path:
        """The shard's records."""
        return self.folder / "manifest" / f"{number:06d}.jsonl"

    def attempts_path(self, number: int) -> Path:
        """How far processes got with the shard."""
        return self.folder / "attempts" / f"{number:06d}.log"

    def inputs(self, number: int) -> list[Input]:
        """The photos of shard `number`."""
        with open(self.folder / "inputs" / f"{number:06d}.jsonl", encoding="utf-8") as lines:
            return [Input.from_line(line) for line in lines]

    def records(self, number: int) -> list[dict[str, Any]] | None:
        """The records of shard `number`, None where it is not finished."""
        try:
            with open(self.manifest_path(number), encoding="utf-8") as lines:
                return [json.loads(line) for line in lines]
        except FileNotFoundError:
            return None

    def unfinished(self) -> list[int]:
        """The shards that are left, in order."""
        names = set(os.listdir(self.folder / "manifest"))
        return [number for number in range(self.shards) if f"{number:06d}.jsonl" not in names]

    def photos_of(self, shards: Iterable[int]) -> int:
        """How many photos these shards have: all as many as `photos_per_shard`, but the last."""
        size = self.settings.photos_per_shard
        return sum(min(size, self.photos - number * size) for number in shards)

    def reopen_failed(self) -> int:
        """Makes shards with failed photos unfinished, to be done again whole; returns how many."""
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
        """Removes the incomplete files of processes that were killed. No process may be at work."""
        for folder in (self.folder, *(self.folder / name for name in OURS)):
            for path in itertools.chain(folder.glob(".*.tar"), folder.glob(".*.jsonl")):
                path.unlink(missing_ok=True)

    def join_manifest(self) -> Path:
        """Writes `manifest.jsonl`, the records of all shards in order, when all are finished; returns its path.

        Raises:
            ConfigurationError: shards are missing, or a shard's records are not those of its photos.
        """
        path, lines = self.folder / "manifest.jsonl", 0
        if left := self.unfinished():
            raise ConfigurationError(f"{len(left)} of {self.shards} shards are not finished, the first is {left[0]}")
        with replacing(path) as temporary, open(temporary, "wb") as joined:
            for number in range(self.shards):
                content = self.manifest_path(number).read_bytes()
                lines += content.count(b"\n")
                joined.write(content)
            if lines != self.photos:
                raise ConfigurationError(f"the manifest holds {lines} records, the job has {self.photos} photos")
        return path


def check_new(folder: Path) -> None:
    """ConfigurationError where a folder that holds no job holds something else, or is no folder."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"the output must be a folder, got the file {str(folder)!r}")
    others = [name for name in (os.listdir(folder) if folder.exists() else ()) if name not in OURS and name[0] != "."]
    if others:
        raise ConfigurationError(f"the output {str(folder)!r} must be new, empty or a job's, it holds {others[0]!r}")


def plan_job(folder: str | os.PathLike, settings: BulkSettings, fingerprint: str | None = None) -> BulkJob:
    """Lists the photos and cuts them into shards; or returns the job that `folder` holds already, as it was planned.

    Photos that come to the sources later belong to another job, those that vanish are recorded as failed.

    Args:
        folder: made where missing; must be empty, or hold a job of the same settings.
        settings: what to do.
        fingerprint: of the restorer's weights, as `shards.restorer_fingerprint` gives it; None is not compared.

    Raises:
        ConfigurationError: other settings or weights than the job began with, a folder of other things, or sources that
            cannot be listed.
    """
    folder = Path(folder).absolute()
    if (folder / "job.json").exists():
        job = BulkJob.open(folder)
        _check_same(job, settings, fingerprint)
        return job
    check_new(folder)
    listed = list_inputs(settings.sources)
    first = list(itertools.islice(listed, settings.photos_per_shard))  # errors come before anything is written
    made = not folder.exists()
    try:
        for name in OURS:
            shutil.rmtree(folder / name, ignore_errors=True)  # of a plan that was cut short
            (folder / name).mkdir(parents=True)
        photos, shards = _write_inputs(folder, first, listed, settings.photos_per_shard)
        job = BulkJob(folder, settings, photos, shards, os.getcwd(), fingerprint)
        fields = {k: getattr(job, k) for k in ("photos", "shards", "working_folder", "fingerprint")}
        content = {"layout": LAYOUT, "settings": settings.to_json()} | fields
        # last: its presence marks the plan as complete
        write_whole(folder / "job.json", (json.dumps(content, indent=2) + "\n").encode())
    except BaseException:
        for name in OURS:
            shutil.rmtree(folder / name, ignore_errors=True)
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return job


def _write_inputs(folder: Path, first: list[Input], listed: Iterator[Input], size: int) -> tuple[int, int]:
    """Writes the photos of each shard; returns the numbers of photos and shards."""
    photos = shards = 0
    while first:
        write_text(folder / "inputs" / f"{shards:06d}.jsonl", "".join(one.to_line() for one in first))
        photos, shards = photos + len(first), shards + 1
        first = list(itertools.islice(listed, size))
    return photos, shards


def _check_same(job: BulkJob, settings: BulkSettings, fingerprint: str | None) -> None:
    before, now = job.settings.to_json(), settings.to_json()
    wrong = [f"`{name}` {before[name]!r}, got {now[name]!r}" for name in before if before[name] != now[name]]
    if not wrong and job.fingerprint and fingerprint not in (None, job.fingerprint):
        wrong = [f"other weights under the checkpoint's name {settings.checkpoint!r}"]
    if wrong:
        raise ConfigurationError(
            f"the job in {str(job.folder)!r} began with {'; '.join(wrong)}; go on as it began, or choose another output"
        )


def read_manifest(folder: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The records of all photos of the finished shards of a job, in order.

    Yields:
        "key" (its sample), "source" (what it was), "shard" (the tar file it belongs to), "member" (its name there),
        "status" ("restored" or "failed"), "error" (why), "checksum" ("sha256:..." of the restored file), "width",
        "height", "format", "bits", "seconds", "notes" and "guard" as `daa restore --json`; null where there is none.
    """
    job = BulkJob.open(folder)
    for number in range(job.shards):
        yield from job.records(number) or ()


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike) -> Iterator[None]:
    """Context that excludes a second command from the same job, until this process ends in any way.

    Raises:
        ConfigurationError: one is at work.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    check_writable(folder)
    lock = folder / ".lock"
    made, locked_before = not folder.exists(), lock.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise ConfigurationError(f"another `daa bulk` is at work in {str(folder)!r}") from None
    finally:
        if not locked_before and not (folder / "job.json").exists():  # refused: the folder stays as it was
            lock.unlink(missing_ok=True)
            if made and not os.listdir(folder):
                folder.rmdir()


def write_whole(path: Path, content: bytes) -> None:
    """As `files.replacing`, and written to the disk before it is renamed: a crash of the machine leaves no empty
    file."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
