"""Checkpoints from which a run resumes: safetensors and JSON, no pickle, written atomically.

A checkpoint holds the parameters, the moving average, the optimizer and the counters. With `hold_to_start` it also
holds the state at the last good step (`good`). No random state is stored: every draw is a function of the seed and the
sample's number (`sources.sampling.generator_for`).
"""

import copy
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..adapters.updates import statistics
from ..errors import CheckpointError, ConfigurationError
from ..files import in_bytes
from ..objectives.base import Objective
from .setup import tensor_bytes

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
STATE_FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
_PREFIX = "step-"
GOOD = "good"  # folder of the last good step's state in a checkpoint


def new_counters() -> dict[str, Any]:
    """Returns the initial counters of a run, JSON-plain, which checkpoints save besides the number of steps."""
    return {
        "losses": {},
        "validation": {},
        "window": {},
        "skipped_steps": 0,
        "skipped_in_a_row": 0,
        "best": {},
        "health": {},
        "alarms": [],
        "harm": [],
        "stopped_early": False,
        "safeguard": {},
        "spent": 0.0,  # seconds of the time budget
    }


def _with_scaler_and_counters(plain: dict[str, Any]) -> dict[str, Any]:
    return {**plain, "format_version": 2, "loss_scale": None, "counters": {**new_counters(), **plain["counters"]}}


# Format version -> function that converts the contents of `state.json` to the next version.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_scaler_and_counters}


@dataclass(frozen=True)
class Snapshot:
    """State of training after a step: parameters, moving average and optimizer.

    Attributes:
        files: file (`STATE_FILES` without the suffix) -> name -> tensor.
        plain: the rest of the state, JSON-plain.
    """

    files: dict[str, dict[str, torch.Tensor]]
    plain: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer) -> "Snapshot":
        """Returns the current state on the CPU, without copying tensors that are there already; see `copy`."""
        state = optimizer.state_dict()
        files = {
            "model": dict(model.state_dict()),
            "ema": {str(number): average for number, average in enumerate(ema.shadow_params)},
            "optimizer": {  # number of the parameter and name of its value, such as "0.exp_avg"
                f"{number}.{name}": torch.as_tensor(value)
                for number, values in state["state"].items()
                for name, value in values.items()
            },
        }
        on_cpu = {name: {k: v.detach().cpu() for k, v in tensors.items()} for name, tensors in files.items()}
        return cls(on_cpu, {"ema_step": ema.optimization_step, "param_groups": state["param_groups"]})

    def copy(self) -> "Snapshot":
        """Returns a copy that training does not change."""
        files = {name: {k: v.clone() for k, v in tensors.items()} for name, tensors in self.files.items()}
        return Snapshot(files, copy.deepcopy(self.plain))

    def restore(self, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer) -> None:
        """Loads this state into the objects.

        Raises:
            CheckpointError: the state does not fit the objects.
        """
        average = self.files["ema"]
        if len(average) != len(ema.shadow_params):
            raise CheckpointError(f"an average of {len(average)} parameters, expected {len(ema.shadow_params)}")
        values: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in self.files["optimizer"].items():
            number, name = key.split(".", 1)
            # a copy: the optimizer would otherwise change the snapshot, or the file mapped into memory
            values.setdefault(int(number), {})[name] = value.clone()
        try:
            model.load_state_dict(self.files["model"])
            optimizer.load_state_dict({"state": values, "param_groups": copy.deepcopy(self.plain["param_groups"])})
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(str(error)) from error
        with torch.no_grad():
            for index, parameter in enumerate(ema.shadow_params):
                parameter.copy_(average[str(index)])
        ema.optimization_step = self.plain["ema_step"]

    def write(self, folder: Path) -> None:
        """Writes the tensors into `folder`."""
        for name, tensors in self.files.items():
            save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")

    @classmethod
    def read(cls, folder: Path, plain: dict[str, Any]) -> "Snapshot":
        """Reads the tensors that `write` wrote.

        Args:
            folder: folder of the tensors.
            plain: the rest of the state.
        """
        return cls({name.removesuffix(".safetensors"): load_file(folder / name) for name in STATE_FILES}, plain)

    @property
    def bytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(tensor_bytes(tensors.values()) for tensors in self.files.values())


def save_checkpoint(
    folder: str | os.PathLike,
    *,
    step: int,
    model: nn.Module,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    counters: dict[str, Any],
    keep: int,
    loss_scale: dict[str, Any] | None = None,
    good: Snapshot | None = None,
) -> Path:
    """Writes `folder/step-XXXXXXXX`, and removes all but the newest `keep` checkpoints.

    If saving is interrupted or fails, earlier checkpoints stay intact.

    Args:
        model: unwrapped objective; its state dict is saved under its own names.
        counters: JSON-plain values, which `load_checkpoint` returns.
        loss_scale: JSON-plain state of the gradient scaler (fp16), if there is one.
        good: state after the last good step, which `load_checkpoint` returns.

    Raises:
        CheckpointError: not enough disk space; the message names the bytes needed.
    """
    folder = Path(folder)
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    for left in folder.glob(f".{_PREFIX}*.tmp"):  # left by a run that was killed while saving
        shutil.rmtree(left, ignore_errors=True)
    state = Snapshot.of(model, ema, optimizer)
    plain = {
        "format_version": FORMAT_VERSION,
        "step": step,
        **state.plain,
        "loss_scale": loss_scale,
        "counters": counters,
        **({"good": good.plain} if good else {}),
    }
    try:
        temporary.mkdir(parents=True)
        state.write(temporary)
        if good:
            (temporary / GOOD).mkdir()
            good.write(temporary / GOOD)
        (temporary / "state.json").write_text(json.dumps(plain))
        for file in temporary.rglob("*.*"):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not _is_full(error):
            raise
        needed = state.bytes + (good.bytes if good else 0)
        free = shutil.disk_usage(folder).free
        raise CheckpointError(
            f"no space to save step {step} in {str(folder)!r}: it needs about {needed / 1e6:.1f} MB, "
            f"{free / 1e6:.1f} MB are free. Earlier checkpoints are intact: free some space and run the same command "
            "again"
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def check_space(output: Path, model: Objective, *, is_held: bool) -> None:
    """Checks before a run's first step that there is disk space for a checkpoint and the pipeline.

    Args:
        output: folder of the run, which need not exist.
        model: objective, with the networks that are trained.
        is_held: whether the checkpoint also contains the last good step.

    Raises:
        ConfigurationError: not enough disk space; the message names the bytes needed.
    """
    if list_checkpoints(output / "checkpoints"):
        return
    moments = 2 * tensor_bytes(p for p in model.parameters() if p.requires_grad)
    average = tensor_bytes(p for p in model.restorer.parameters() if p.requires_grad)
    state = tensor_bytes(model.state_dict().values()) + moments + average
    needed = (2 if is_held else 1) * state + tensor_bytes(model.restorer.state_dict().values())
    existing = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigurationError(
            f"`output_dir` {str(output)!r}: a run needs about {in_bytes(needed)} there, {in_bytes(free)} are free; "
            "free some space, or choose another folder"
        )


def _is_full(error: Exception) -> bool:
    """Whether an error of writing is due to a full disk or quota."""
    full = (errno.ENOSPC, errno.EDQUOT)
    # safetensors reports the system's error only as text
    return getattr(error, "errno", None) in full or any(f"os error {code}" in str(error) for code in full)


def list_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """Returns the checkpoints in `folder`, oldest first."""
    return sorted(path for path in Path(folder).glob(f"{_PREFIX}*") if path.is_dir())


def load_latest(
    folder: str | os.PathLike, *, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Loads the newest undamaged checkpoint into the given objects; damaged ones are skipped with a warning.

    Returns:
        "step", "counters", "loss_scale" and "good"; None if there is no checkpoint to load.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path, model=model, ema=ema, optimizer=optimizer)
        except CheckpointError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
    return None


def load_checkpoint(
    path: str | os.PathLike, *, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Loads one checkpoint; raises CheckpointError if a file is missing, damaged, or does not fit the objects."""
    path = Path(path)
    try:
        plain = json.loads((path / "state.json").read_text())
        state = Snapshot.read(path, plain)
        good = Snapshot.read(path / GOOD, plain["good"]).copy() if "good" in plain else None
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    plain = _migrated(plain, path)
    try:
        state.restore(model, ema, optimizer)
    except CheckpointError as error:
        raise CheckpointError(f"{path} does not fit this run: {error}") from error
    return {**{name: plain[name] for name in ("step", "counters", "loss_scale")}, "good": good}


def _migrated(plain: dict[str, Any], path: Path) -> dict[str, Any]:
    while plain.get("format_version") != FORMAT_VERSION:
        version = plain.get("format_version")
        if version not in MIGRATIONS:
            raise CheckpointError(f"{path} has format version {version}, this version reads 1 to {FORMAT_VERSION}")
        plain = MIGRATIONS[version](plain)
    return plain


@torch.no_grad()
def load_average(path: Path, restorer: nn.Module, blend: float = 1.0) -> nn.Module:
    """Loads the weights that a run without an adapter would have kept at a checkpoint.

    Parameters are blended with the checkpoint's moving average and batch-norm statistics with the checkpoint's; other
    buffers are copied.

    Args:
        path: folder of the checkpoint.
        restorer: initial restorer of the run; changed in place, and returned.
        blend: weight of the checkpoint, as in the run's options.
    """
    average, saved = load_file(path / "ema.safetensors"), load_file(path / "model.safetensors")
    trained = [parameter for parameter in restorer.parameters() if parameter.requires_grad]
    for number, parameter in enumerate(trained):
        parameter.lerp_(average[str(number)].to(parameter.dtype), blend)
    blended = statistics(restorer)
    for name, buffer in restorer.named_buffers():
        if (value := saved.get(f"restorer.{name}")) is not None:
            buffer.copy_(buffer.lerp(value.to(buffer), blend) if name in blended else value)
    return restorer


def recorded_steps(folder: str | os.PathLike) -> list[int]:
    """Returns the steps of the best weights to which the readable checkpoints in `folder` refer."""
    steps = []
    for path in list_checkpoints(folder):
        try:
            best = json.loads((path / "state.json").read_text())["counters"].get("best", {})
        except (OSError, ValueError, KeyError):
            continue
        steps += [best["step"]] if best else []
    return steps
