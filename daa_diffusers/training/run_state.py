"""What a run resumes from: safetensors and JSON, no pickle, written beside and renamed.

A checkpoint holds the parameters, the moving average, the optimizer and the counters. Nothing random is stored: every
draw is a function of the seed and the sample's number (`data.sampling.generator_for`).
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..adapters.updates import statistics
from ..errors import CheckpointError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
STATE_FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
_PREFIX = "step-"


def new_counters() -> dict[str, Any]:
    """What a run counts besides its steps, JSON-plain; saved in its checkpoints."""
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
    }


def _with_scaler_and_counters(plain: dict[str, Any]) -> dict[str, Any]:
    counters = {"window": {}, "skipped_steps": 0, "skipped_in_a_row": 0, "best": {}, "health": {}}
    counters |= {"alarms": [], "stopped_early": False, **plain["counters"]}
    return {**plain, "format_version": 2, "loss_scale": None, "counters": counters}


# From the version that a checkpoint has to the next one: its `state.json` in, the newer one out.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_scaler_and_counters}


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
) -> Path:
    """Writes `folder/step-XXXXXXXX` and removes all but the newest `keep`; an interrupted save leaves the others whole.

    Args:
        model: the unwrapped joint module; its state dict is saved under its own names.
        counters: JSON-plain values to get back from `load_checkpoint`.
        loss_scale: JSON-plain state of the gradient scaler (fp16), if there is one.

    Raises:
        CheckpointError: there is no space; the message says how much is needed, and the checkpoints before are whole.
    """
    folder = Path(folder)
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    for left in folder.glob(f".{_PREFIX}*.tmp"):  # of a run that was killed while saving
        shutil.rmtree(left, ignore_errors=True)
    state = optimizer.state_dict()
    files = {
        "model": dict(model.state_dict()),
        "ema": {str(i): p for i, p in enumerate(ema.shadow_params)},
        "optimizer": {
            f"{i}.{name}": torch.as_tensor(v) for i, slots in state["state"].items() for name, v in slots.items()
        },
    }
    plain = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "ema_step": ema.optimization_step,
        "param_groups": state["param_groups"],
        "loss_scale": loss_scale,
        "counters": counters,
    }
    try:
        temporary.mkdir(parents=True)
        for name, tensors in files.items():
            tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            save_file(tensors, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(json.dumps(plain))
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not _is_full(error, folder):
            raise
        needed = sum(v.numel() * v.element_size() for tensors in files.values() for v in tensors.values())
        free = shutil.disk_usage(folder).free
        raise CheckpointError(
            f"no space to save step {step} in {str(folder)!r}: it needs about {needed / 1e6:.1f} MB, "
            f"{free / 1e6:.1f} MB are free. The checkpoints before are whole: make space and run the same command again"
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _is_full(error: Exception, folder: Path) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    # safetensors tells the system's error in words only
    return getattr(error, "errno", None) in full or any(f"os error {code}" in str(error) for code in full)


def list_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in Path(folder).glob(f"{_PREFIX}*") if path.is_dir())


def load_latest(
    folder: str | os.PathLike, *, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Loads the newest checkpoint that is whole into the given objects.

    Damaged ones are skipped with a warning. Returns `{"step", "counters", "loss_scale"}`, or None where there is
    none to load.
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
    """Loads one checkpoint; CheckpointError where a file is missing, damaged, or does not fit the objects."""
    path = Path(path)
    try:
        plain = json.loads((path / "state.json").read_text())
        weights = load_file(path / "model.safetensors")
        average = load_file(path / "ema.safetensors")
        tensors = load_file(path / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    plain = _migrated(plain, path)
    if len(average) != len(ema.shadow_params):
        raise CheckpointError(
            f"{path} holds an average of {len(average)} parameters, expected {len(ema.shadow_params)}"
        )
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, slot = name.split(".", 1)
        # a copy: the file is mapped into memory, and the optimizer would go on living in the map
        slots.setdefault(int(index), {})[slot] = value.clone()
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict({"state": slots, "param_groups": plain["param_groups"]})
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit this run: {error}") from error
    with torch.no_grad():
        for number, parameter in enumerate(ema.shadow_params):
            parameter.copy_(average[str(number)])
    ema.optimization_step = plain["ema_step"]
    return {"step": plain["step"], "counters": plain["counters"], "loss_scale": plain["loss_scale"]}


def _migrated(plain: dict[str, Any], path: Path) -> dict[str, Any]:
    while plain.get("format_version") != FORMAT_VERSION:
        version = plain.get("format_version")
        if version not in MIGRATIONS:
            raise CheckpointError(f"{path} has format version {version}, this version reads 1 to {FORMAT_VERSION}")
        plain = MIGRATIONS[version](plain)
    return plain


@torch.no_grad()
def load_average(path: Path, restorer: nn.Module, blend: float = 1.0) -> nn.Module:
    """Brings `restorer`, as a run without an adapter started, to what the run would have kept at a checkpoint.

    Args:
        path: of the checkpoint.
        restorer: is changed: its parameters and statistics of batch norms go `blend` of the way to the moving average
            and to those of the checkpoint, other buffers all of it.
        blend: as in the run's options.
    """
    average, saved = load_file(path / "ema.safetensors"), load_file(path / "model.safetensors")
    trained = [parameter for parameter in restorer.parameters() if parameter.requires_grad]
    for number, parameter in enumerate(trained):
        parameter.lerp_(average[str(number)].to(parameter.dtype), blend)
    follow = statistics(restorer)
    for name, buffer in restorer.named_buffers():
        if (value := saved.get(f"restorer.{name}")) is not None:
            buffer.copy_(buffer.lerp(value.to(buffer), blend) if name in follow else value)
    return restorer


def recorded_steps(folder: str | os.PathLike) -> list[int]:
    """The step of the best weights that each readable checkpoint in `folder` refers to, where it does."""
    steps = []
    for path in list_checkpoints(folder):
        try:
            best = json.loads((path / "state.json").read_text())["counters"].get("best", {})
        except (OSError, ValueError, KeyError):
            continue
        steps += [best["step"]] if best else []
    return steps
