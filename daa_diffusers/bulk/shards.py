"""Restoration of one shard of a job to a tar file of restored photos and a record of each, written atomically."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import socket
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import concerns_all_files, replacing, written
from ..photos.registry import FORMATS
from ..restoring.outputs import Job, renamed
from ..restoring.work import FAILED, RESTORED, restore_one
from .inputs import Input, open_input
from .job import BulkJob, write_whole

if TYPE_CHECKING:
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

logger = logging.getLogger(__name__)

MAX_DEATHS = 3  # number of processes that die on a photo before it is recorded as failed; one may be killed by Ctrl-C


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """Result of a shard.

    Args:
        shard: number of the shard.
        restored, failed: numbers of photos.
        seconds: time taken; 0 if the shard was already finished.
        error: reason why the shard is not finished (another run may finish it), or "".
        stops: whether other shards would fail with the same error, such as a full disk.
    """

    shard: int
    restored: int = 0
    failed: int = 0
    seconds: float = 0.0
    error: str = ""
    stops: bool = False

    @classmethod
    def of(cls, shard: int, records: list[dict[str, Any]], seconds: float = 0.0) -> ShardResult:
        """Builds the result of a shard from the records of its photos."""
        counts = Counter(record["status"] for record in records)
        return cls(shard, counts[RESTORED], counts[FAILED], round(seconds, 3))


def restore_shard(job: BulkJob, number: int, pipeline: DAARestorationPipeline) -> ShardResult:
    """Restores the photos of shard `number`, unless it is finished.

    The tar file, then the records, are written under a temporary name and renamed: a finished shard is never repeated,
    and an interrupted one starts from the beginning. A photo that cannot be restored is recorded as failed, as is one
    on which `MAX_DEATHS` processes died (a crash of the decoder, too little memory).

    Raises:
        OSError: an error not caused by a photo, such as a full disk.
        torch.AcceleratorError: the device failed; this process cannot use it any more.
    """
    start = time.perf_counter()
    if (done := job.records(number)) is not None:
        return ShardResult.of(number, done)
    tar, records = job.tar_path(number), []
    with _attempt(job.attempts_path(number)) as log, tempfile.TemporaryDirectory(prefix="daa-bulk-") as scratch:
        with replacing(tar) as temporary, open(temporary, "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                for index, photo in enumerate(job.inputs(number)):
                    record, content = _restored(job, photo, log, index, pipeline, scratch)
                    if content is not None:
                        _add(archive, record["member"], content)
                    records.append({**record, "shard": tar.name})
            log.begin("end")
            file.flush()
            os.fsync(file.fileno())
        write_whole(job.manifest_path(number), b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return ShardResult.of(number, records, time.perf_counter() - start)


def _restored(
    job: BulkJob, photo: Input, log: AttemptLog, index: int, pipeline: DAARestorationPipeline, scratch: str
) -> tuple[dict[str, Any], bytes | None]:
    """Returns the record of a photo, and the content of the restored file (None if it failed)."""
    record: dict[str, Any] = {"key": photo.key, "source": photo.source, "shard": None, "member": None, "status": FAILED}
    # every line has every key, as table readers expect
    record |= dict.fromkeys(("error", "checksum", "width", "height", "format", "bits", "seconds", "notes", "guard"))
    if log.deaths[str(index)] >= MAX_DEATHS:
        return record | {"error": f"{log.deaths[str(index)]} processes died while they restored it"}, None
    log.begin(str(index))
    target = os.path.join(scratch, "restored")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn about damaged metadata; losses are in the notes
            done = restore_one(pipeline, Job(open_input(photo, scratch), target), job.settings.options)
        content = Path(target).read_bytes()
    except Exception as error:
        if _concerns_all_items(error):
            raise
        logger.debug("%s", photo.source, exc_info=True)
        return record | {"error": str(error) or type(error).__name__}, None
    finally:
        for path in Path(scratch).iterdir():
            path.unlink()
    suffix = photo.suffix or FORMATS[done["format"]][0]
    member = renamed(photo.key + suffix, job.settings.options.format)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return record | {"status": RESTORED, "member": member, "checksum": checksum} | done, content


def _concerns_all_items(error: Exception) -> bool:
    """Returns whether the next photo would fail as well, as on a full disk or after an error of the accelerator."""
    import torch

    return isinstance(error, torch.AcceleratorError) or concerns_all_files(error)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # time and owner stay zero, so that the same photos give the same tar file
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


class AttemptLog:
    """Log of the photos of a shard that each process started to restore, one line per process: "host:pid 0 1 2 ...".

    The entries are not synced to disk: they survive a crash of the process, but not of the machine. A process that
    finishes, or ends with a Python exception, adds the entry "-", so that its last photo does not count as a death.

    Args:
        path: path of the log; its folder must exist.

    Attributes:
        deaths: number of processes that died, by the photo that they were restoring.
    """

    def __init__(self, path: Path):
        before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.deaths = Counter(line.split(" ")[-1] for line in before if " " in line)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
        self._start = self._file.tell()
        self._file.write(f"\n{socket.gethostname()}:{os.getpid()}".encode())

    def begin(self, what: str) -> None:
        """Adds an entry for the start of `what`."""
        self._file.write(f" {what}".encode())

    def close(self) -> None:
        """Adds an entry for the end of the process, unless it was killed."""
        try:
            self._file.write(b" -")
        except OSError:  # the disk is full, but this process's line can still be removed
            self._file.truncate(self._start)
        self._file.close()


@contextlib.contextmanager
def _attempt(path: Path) -> Iterator[AttemptLog]:
    """Context with the `AttemptLog` of a shard, which is removed if the shard is finished."""
    with written(path):
        log = AttemptLog(path)
    try:
        yield log
    except Exception as error:
        import torch

        if not isinstance(error, torch.AcceleratorError):  # a failure of the device counts as a death
            log.close()
        raise
    log.close()
    path.unlink(missing_ok=True)


def restorer_fingerprint(pipeline: DAARestorationPipeline) -> str:
    """Returns a fingerprint of 16 hexadecimal digits for the restorer's weights."""
    from ..adapters.updates import fingerprint

    return fingerprint(pipeline.restorer.state_dict())
