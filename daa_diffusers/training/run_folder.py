"""Output folder of a run: paths, lock, record, and the check that only the same run resumes in it."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import ConfigurationError
from ..files import write_text
from ..hub.record_files import RUN_RECORD
from ..objectives.registry import with_defaults
from ..sources.contents import Contents, contents, differences
from ..sources.folders import PhotoSource
from .config import TrainingConfig
from .config.field import facts
from .config.names import NAMES, without_retired
from .config.objective import flattened, nest_objective
from .output import LOCK_FILE, check_output
from .preparation import PSEUDO_CLEAN, WRITTEN
from .run_state import list_checkpoints
from .trackers import TENSORBOARD_FOLDER

logger = logging.getLogger(__name__)

PHOTOS = "photos.json"  # contents of the sources
VALIDATION = ("validation_degraded", "validation_clean", "validation_bursts")
BEST = "best"
# Files and folders written before the first step.
BEFORE_THE_FIRST_STEP = (RUN_RECORD, PHOTOS, "options.yaml", "log.jsonl", *WRITTEN, BEST, TENSORBOARD_FOLDER)
LOCK_SECONDS = 60.0  # a run that was asked to stop may still be saving

RECORDED_PACKAGES = ("daa-diffusers", "torch", "diffusers", "accelerate", "numpy", "safetensors")


class RunFolder:
    """The output folder of one run. Only the main process locks, claims and writes.

    Args:
        config: options of the run; `config.output_dir` is the folder.
        writes: whether this is the main process.

    Attributes:
        path: the folder.
        checkpoints, best, pipeline, adapter, log, record_path: paths in the folder.
    """

    def __init__(self, config: TrainingConfig, *, writes: bool = True):
        self.config, self.writes = config, writes
        self.path = Path(config.output_dir)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / BEST
        self.pipeline = self.path / "pipeline"
        self.adapter = self.path / "adapter"
        self.log = self.path / "log.jsonl"
        self.record_path = self.path / RUN_RECORD
        self._lock: FileLock | None = None
        self._is_new = False  # claimed by this object, and no step is done yet
        self._created = False  # this object created the folder

    def take(self, samples_per_step: int, sources: Mapping[str, Sequence[PhotoSource]]) -> None:
        """Locks the folder for this process (`lock_output`) and claims it for this run (`claim_output`)."""
        if not self.writes:
            return
        photos = {role: [contents(source) for source in each] for role, each in sources.items() if each}
        self._created = not self.path.exists()
        self._lock = lock_output(self.config)
        self._is_new = not self.record_path.exists()
        try:
            try:
                claim_output(self.config, samples_per_step, photos)
            except ConfigurationError:
                if list_checkpoints(self.checkpoints) or self.pipeline.exists() or not self.record_path.exists():
                    raise
                # the earlier run was killed before its first checkpoint: there is nothing to resume
                logger.info("%s holds a run with other options and no checkpoint, which is removed", self.path)
                self._clear()
                self._is_new = True
                claim_output(self.config, samples_per_step, photos)
        except BaseException:
            self.withdraw()
            raise

    def begun(self) -> None:
        """Notes that the first step is done: from now on `withdraw` keeps the run's files."""
        self._is_new = False

    def withdraw(self) -> None:
        """Releases the folder; if the run has not done a step, also removes its files."""
        if self._is_new:
            self._clear()
        self.release()
        if self._is_new:
            (self.path / LOCK_FILE).unlink(missing_ok=True)
            if self._created:
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def _clear(self) -> None:
        """Removes the files that a run writes before its first checkpoint, and nothing else."""
        for name in BEFORE_THE_FIRST_STEP:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Releases the folder for other processes."""
        if self._lock is not None:
            self._lock.release()

    @property
    def record(self) -> dict[str, Any]:
        """The run's record: its options, versions, photos, and the measurements before its first step."""
        return json.loads(self.record_path.read_text())

    def update(self, **values: Any) -> None:
        """Adds entries to the record; once the number of steps is planned, also writes `options.yaml`."""
        if self.writes:
            record = {**self.record, **values}
            write_text(self.record_path, json.dumps(record, indent=2))
            if record["steps"]:
                write_text(self.path / "options.yaml", replace(self.config, steps=record["steps"]).to_yaml())


def lock_output(config: TrainingConfig, wait: float = LOCK_SECONDS) -> FileLock:
    """Locks `config.output_dir` for this process; the system releases the lock when the process ends in any way.

    Raises:
        ConfigurationError: another process has held the lock for `wait` seconds.
    """
    folder = Path(config.output_dir)
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=wait)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigurationError(
            f"`output_dir` {str(folder)!r} is in use by another training process; wait for its end, or choose "
            "another folder"
        ) from error
    return lock


def claim_output(config: TrainingConfig, samples_per_step: int, photos: Mapping[str, Sequence[Contents]]) -> None:
    """Writes the record of this run into `config.output_dir`, or checks that the record there is that of this run.

    Photos are compared by the contents of their files, not by their folders; other paths by their targets.

    Args:
        config: options of the run.
        samples_per_step: synthetic samples per step over all processes, which determines the samples of each step.
        photos: contents of the sources, by role.

    Raises:
        ConfigurationError: the folder holds a run with other options or photos, and `resume_with_changes` is not set.
            The message lists the differences.
    """
    folder = Path(config.output_dir)
    path = folder / RUN_RECORD
    identity = _plain({**config.identity(), "samples_per_step": samples_per_step})
    if not path.exists():
        record = {"options": identity, "steps": None, "git_commit": _git_commit(), "versions": _versions()}
        write_text(folder / PHOTOS, json.dumps(photos))
        write_text(path, json.dumps(record, indent=2))
        return
    record = json.loads(path.read_text())
    photos_before = _photos_before(folder, record)
    changes = _changed_options(record["options"], identity, str(path))
    for role in set(photos_before) & set(photos):  # compared by their contents
        changes.pop(role, None)
    changed_photos = _changed_photos(config, photos_before, photos)
    if (changes or changed_photos) and not config.resume_with_changes:
        kind = "options" if changes else "photos"
        texts = [f"{name}: {before!r} there, {now!r} now" for name, (before, now) in changes.items()]
        texts += [f"photos of `{role}`: {text}" for role, text in changed_photos.items()]
        raise ConfigurationError(
            f"`output_dir` {str(folder)!r} belongs to a run with other {kind}; choose another folder, the same {kind}, "
            "or set `resume_with_changes`:\n- " + "\n- ".join(texts)
        )
    if changes or changed_photos:
        entry = {**changes, "photos": changed_photos} if changed_photos else changes
        record |= {"changes": [*record.get("changes", []), entry], "options": identity}
        if {"steps", "minutes"} & set(changes):
            record["steps"] = None  # to be planned again
        write_text(path, json.dumps(record, indent=2))
    if photos_before != photos:
        write_text(folder / PHOTOS, json.dumps({**photos_before, **photos}))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Returns options as they are read from JSON, which turns tuples into lists."""
    return json.loads(json.dumps(options))


def _changed_options(recorded: dict[str, Any], identity: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns option -> [value before, value now]; those of the objective by their own names."""
    # a run of an earlier version used the defaults of newer options; some of its options no longer exist
    options = nest_objective(without_retired(recorded, where), record=True)
    defaults = _plain({**asdict(TrainingConfig()), "samples_per_step": identity["samples_per_step"]})
    before = flattened({**defaults, **options, "objective": with_defaults(options["objective"])})
    return {
        name: [before.get(name), now]
        for name, now in sorted(flattened(identity).items())
        if not _is_same(name, before.get(name), now)
    }


def _changed_photos(
    config: TrainingConfig, before: Mapping[str, Sequence[Contents]], now: Mapping[str, Sequence[Contents]]
) -> dict[str, str]:
    """Returns role -> description of the changes of its photos."""
    changed = differences(before, now)
    if config.select_by == "last":  # other validation photos are allowed if they do not select weights
        for role in set(VALIDATION) & set(changed):
            if [each["name"] for each in before[role]] != [each["name"] for each in now[role]]:
                del changed[role]
    return changed


def _photos_before(folder: Path, record: Mapping[str, Any]) -> dict[str, list[Contents]]:
    """Returns the contents of the sources when the run last started; fingerprints only for runs of earlier versions."""
    if (folder / PHOTOS).exists():
        return json.loads((folder / PHOTOS).read_text())
    return {
        role: [
            {"name": each["folder"], "window": None, "fingerprint": each["fingerprint"], "files": None}
            for each in sources
            if each["folder"] != PSEUDO_CLEAN  # written by the run itself
        ]
        for role, sources in record.get("photos", {}).items()
        if role in record["options"] and record["options"][role]
    }


def _is_same(name: str, before: Any, now: Any) -> bool:
    """Whether two values of the option `name` are equal, or are paths (or lists of paths) with the same targets."""
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(_is_same(name, *pair) for pair in zip(before, now, strict=True))
    is_path = name in NAMES and facts(NAMES[name]).path and isinstance(before, str) and isinstance(now, str)
    if is_path and os.path.exists(before) and os.path.exists(now):
        return os.path.realpath(before) == os.path.realpath(now)
    return before == now


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
