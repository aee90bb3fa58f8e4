"""What a run resumes from: safetensors and JSON, no pickle, written beside and renamed.

A checkpoint holds the parameters, the moving average, the optimizer and the counters. Nothing random is stored: every
draw is a function of the seed and the sample's number (`data.sampling.generator_for`).
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_PREFIX = "step-"


def save_checkpoint(
    folder: str | os.PathLike,
    *,
    step: int,
    model: nn.Module,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    counters: dict[str, Any],
    keep: int,
) -> Path:
    """Writes `folder/step-XXXXXXXX` and removes all but the newest `keep`; an interrupted save leaves the others whole.

    Args:
        model: the unwrapped joint module; its state dict is saved under its own names.
        counters: JSON-plain values to get back from `load_checkpoint`.
    """
    folder = Path(folder)
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = optimizer.state_dict()
    tensors = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            tensors[f"{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, temporary / "model.safetensors"
    )
    save_file(
        {str(i): p.detach().cpu().contiguous() for i, p in enumerate(ema.shadow_params)}, temporary / "ema.safetensors"
    )
    save_file(tensors, temporary / "optimizer.safetensors")
    plain = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "ema_step": ema.optimization_step,
        "param_groups": state["param_groups"],
        "counters": counters,
    }
    (temporary / "state.json").write_text(json.dumps(plain))
    for file in temporary.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in Path(folder).glob(f"{_PREFIX}*") if path.is_dir())


def load_latest(
    folder: str | os.PathLike, *, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Loads the newest checkpoint that is whole into the given objects.

    Damaged ones are passed over with a warning. Returns `{"step", "counters"}`, or None where there is none to load.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path, model=model, ema=ema, optimizer=optimizer)
        except CheckpointError as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
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
    if plain.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {plain.get('format_version')}, expected {FORMAT_VERSION}")
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
    return {"step": plain["step"], "counters": plain["counters"]}
