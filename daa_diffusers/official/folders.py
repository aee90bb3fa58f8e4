"""Conversion of official checkpoint files to pipeline folders with license and card."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError, ConfigurationError
from ..files import write_text
from ..foreign.weights import PICKLED, SAFETENSORS, weight_names
from ..hub.card import render_card
from ..hub.description import describe
from ..hub.licenses import S_LAB
from ..hub.record_files import WeightsRecord
from ..hub.records import keep_record
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from .convert import PREDICTOR_PREFIX, convert_official_state_dict, load_official_file
from .layout import schedule_buffers


def is_official_file(path: str | os.PathLike) -> bool:
    """Returns whether the tensors in a file have names of the official code.

    Raises:
        CheckpointError: the file has the suffix of a weight file, but cannot be read.
    """
    path = Path(path)
    if not path.is_file() or path.suffix not in (SAFETENSORS, *PICKLED):
        return False
    return any("down_path.0.block.0." in name for name in weight_names(path))


def convert_official_file(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    task: str,
    predictor: str | os.PathLike | None = None,
    **sizes,
) -> Path:
    """Converts official checkpoint files to a pipeline folder with weights, configs, license and card.

    Args:
        path: file of a restorer, or of restorer and noise predictor (see `load_official_file`).
        folder: output folder, created if it does not exist; must not contain a pipeline.
        task: "denoise" (value range [0, 1]), "derain" or "deblur" ([-1, 1]).
        predictor: file of the noise predictor, if it is not in `path`.
        sizes: arguments `head_channels`, `groups` and `dropout` of `convert_official_state_dict`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, CheckpointError: see `load_official_file`, and for weights that are not official or do not
            fit the task.
        ConfigurationError: `folder` contains a pipeline, or is a file.
    """
    folder = Path(folder)
    if (folder / "model_index.json").exists() or folder.is_file():
        raise ConfigurationError(f"`folder` must be new, or contain no pipeline, got {str(folder)!r}")
    files = [Path(path), *([] if predictor is None else [Path(predictor)])]
    weights = load_official_file(files[0])
    if predictor is not None:
        weights = {**weights, **_predictor_weights(load_official_file(files[1]))}
    try:
        restorer, unet = convert_official_state_dict(weights, task=task, **sizes)
    except ValueError as error:
        raise CheckpointError(f"{' and '.join(file.name for file in files)} cannot be converted: {error}") from error
    sources = [{"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files]
    keep_record(restorer, WeightsRecord({"license": S_LAB.name, "task": task, "converted_from": sources}))
    DAARestorationPipeline(restorer, unet).save_pretrained(folder)
    write_text(folder / "README.md", render_card(describe(folder), folder.resolve().name))
    return folder


def _predictor_weights(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adds the official prefix to the names of a noise predictor's tensors; schedule buffers are unchanged."""
    prefixed = any(PREDICTOR_PREFIX in name for name in state_dict)
    buffers = schedule_buffers()
    weights = {}
    for name, tensor in state_dict.items():
        bare = ".".join(part for part in name.split(".") if part != "module")
        if bare in buffers or bare.startswith(PREDICTOR_PREFIX):
            weights[bare] = tensor
        elif not prefixed:
            weights[PREDICTOR_PREFIX + bare] = tensor
    return weights
