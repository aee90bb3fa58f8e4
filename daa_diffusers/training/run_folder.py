"""The output folder of a run: held by one process, claimed by one set of options; its record, its files' places."""

import json
import subprocess
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import ConfigurationError
from ..files import write_text
from ..objectives.registry import with_defaults
from .config import TrainingConfig
from .objective_options import flattened, nest_objective
from .option_names import without_retired

RECORD = "run.json"
LOCK_FILE = ".lock"
LOCK_SECONDS = 60.0  # a run that was asked to stop may still be saving

RECORDED_PACKAGES = ("daa-diffusers", "torch", "diffusers", "accelerate", "numpy", "safetensors")


class RunFolder:
    """The output folder of one run. Only the main process locks, claims and writes.

    Args:
        config: of the run; `config.output_dir` is the folder.
        writes: whether this process is the one that writes.

    Attributes:
        path: the folder.
        checkpoints, best, pipeline, adapter, log: where in it they are.
    """

    def __init__(self, config: TrainingConfig, *, writes: bool = True):
        self.config, self.writes = config, writes
        self.path = Path(config.output_dir)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.pipeline = self.path / "pipeline"
        self.adapter = self.path / "adapter"
        self.log = self.path / "log.jsonl"
        self._lock: FileLock | None = None

    def take(self, samples_per_step: int) -> None:
        """Locks and claims the folder; see `lock_output` and `claim_output` for what is refused."""
        if self.writes:
            self._lock = lock_output(self.config)
            claim_output(self.config, samples_per_step)

    def release(self) -> None:
        """Lets another process have it."""
        if self._lock is not None:
            self._lock.release()

    @property
    def record(self) -> dict[str, Any]:
        """The run's record: its options, versions, photos, and what was found out before its first step."""
        return json.loads((self.path / RECORD).read_text())

    def update(self, **values: Any) -> None:
        """Adds to the record, and writes the options with the steps that are planned, once they are."""
        if self.writes:
            record = {**self.record, **values}
            write_text(self.path / RECORD, json.dumps(record, indent=2))
            if record["steps"]:
                write_text(self.path / "options.yaml", replace(self.config, steps=record["steps"]).to_yaml())


def lock_output(config: TrainingConfig, wait: float = LOCK_SECONDS) -> FileLock:
    """Holds `config.output_dir` for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        ConfigurationError: another process has held it for `wait` seconds on end.
    """
    folder = Path(config.output_dir)
    _check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=wait)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigurationError(
            f"`output_dir` {str(folder)!r} is in use by another process that trains there; wait for its end, or choose "
            "another folder"
        ) from error
    return lock


def _check_output(folder: Path) -> None:
    if (folder / RECORD).exists():
        return
    if folder.exists() and (not folder.is_dir() or any(p.name != LOCK_FILE for p in folder.iterdir())):
        raise ConfigurationError(
            f"`output_dir` must be a new or empty folder, or one of the same run, got {str(folder)!r}"
        )


def claim_output(config: TrainingConfig, samples_per_step: int) -> dict[str, Any]:
    """Makes `config.output_dir` this run's, or finds that it already is; returns its record (`run.json`).

    Args:
        samples_per_step: synthetic samples that a step takes over all processes. Sample numbers follow from it.

    Raises:
        ConfigurationError: the folder belongs to a run with other options (each is named) and `resume_with_changes` is
            not set, or it holds foreign files.
    """
    folder = Path(config.output_dir)
    record = folder / RECORD
    # through JSON, because tuples come back as lists
    identity = json.loads(json.dumps({**config.identity(), "samples_per_step": samples_per_step}))
    if not record.exists():
        _check_output(folder)
        folder.mkdir(parents=True, exist_ok=True)
        known = {"options": identity, "steps": None, "git_commit": _git_commit(), "versions": _versions()}
        write_text(record, json.dumps(known, indent=2))
        return known
    known = json.loads(record.read_text())
    # a run of an earlier version lacks the newer options: it ran with their defaults; some of its own have gone
    defaults = json.loads(json.dumps({**asdict(TrainingConfig()), "samples_per_step": samples_per_step}))
    before = nest_objective(without_retired(known["options"], str(record)), record=True)
    there = flattened({**defaults, **before, "objective": with_defaults(before["objective"])})
    changes = {
        name: [there.get(name), now] for name, now in sorted(flattened(identity).items()) if there.get(name) != now
    }
    if changes and not config.resume_with_changes:
        raise ConfigurationError(
            f"`output_dir` {str(folder)!r} belongs to a run with other options; choose another folder, the same "
            "options, or insist by `resume_with_changes`:\n- "
            + "\n- ".join(f"{name}: {before!r} there, {now!r} now" for name, (before, now) in changes.items())
        )
    if changes:
        known["changes"] = [*known.get("changes", []), changes]
        known["options"] = identity
        if {"steps", "minutes"} & set(changes):
            known["steps"] = None  # planned anew
        write_text(record, json.dumps(known, indent=2))
    return known


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
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
