"""Checks and loading of the pipeline given by `--checkpoint` and `--device`; weight files converted to pipelines."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    import torch

    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

DTYPES = ("float32", "bfloat16", "float16")


def check_model(checkpoint: str, device: str | None = None) -> None:
    """Checks a checkpoint and a device without loading weights or querying the Hub.

    Raises:
        CheckpointError: there is no such checkpoint, or it is a file of other weights than a restorer's.
        ConfigurationError: there is no such device.
    """
    from ..foreign.weights import something_else
    from ..hub.resolving import MODEL_INDEX, no_pipeline, resolve
    from ..hub.weight_files import files_of

    source = resolve(checkpoint, "--checkpoint")
    if source.kind == "folder" and not (Path(source.location) / MODEL_INDEX).is_file():
        raise CheckpointError(f"`--checkpoint` {no_pipeline(Path(source.location))}")
    if source.kind == "file":
        files, _ = files_of(Path(source.location))  # several: shards
        for file in files:
            if file.is_file() and (other := something_else(file)):
                raise CheckpointError(f"`--checkpoint` {checkpoint!r} {other}")
    if device is not None:
        usable_device(device)


def usable_device(device: str) -> torch.device:
    """Returns the device of a name, after a test allocation.

    Raises:
        ConfigurationError: there is no such device.
    """
    import torch

    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ConfigurationError(f"`--device` {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return found


def fastest_device() -> str:
    """Returns the name of the fastest available device, which is the default for restoring."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_dtype(dtype: str) -> None:
    """Raises ConfigurationError unless `dtype` is one of `DTYPES`."""
    if dtype not in DTYPES:
        raise ConfigurationError(f"`dtype` must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {dtype!r}")


def load_pipeline(checkpoint: str, device: str | None, dtype: str = "float32") -> DAARestorationPipeline:
    """Loads the pipeline of a checkpoint.

    Args:
        checkpoint: checkpoint, as for `DAARestorationPipeline.from_pretrained`.
        device: name of the device; None: the fastest one available.
        dtype: dtype of the weights, one of `DTYPES`; "auto": float32 with `enable_mixed_precision`.

    Raises:
        ConfigurationError: there is no such device.
        CheckpointError: as for `from_pretrained`.
    """
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

    check_model(checkpoint)  # its messages name `--checkpoint`
    disable_progress_bar()
    target = usable_device(device or fastest_device())
    weights_dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    pipeline = DAARestorationPipeline.from_pretrained(checkpoint, dtype=weights_dtype).to(target)
    if dtype == "auto":
        pipeline.enable_mixed_precision()
    return pipeline


def convert_weights(path: str | os.PathLike, folder: str | os.PathLike, task: str | None = None) -> Path:
    """Converts weights of a restorer to the folder of a pipeline, whose record lists the source files.

    Args:
        path: weight file (.safetensors, .pth, .pt, .ckpt or .bin), or folder of a restorer.
        folder: folder to write; must not contain a pipeline.
        task: a key of `checkpoints.tasks.TASKS`; None: the task in the record of the weights, if any.

    Raises:
        CheckpointError: as for `hub.single_files.load_restorer`.
        ConfigurationError: unknown `task`, or `folder` contains a pipeline or is a file.
    """
    from ..checkpoints.tasks import TASKS
    from ..hub.records import keep_record, record_of
    from ..hub.resolving import MODEL_INDEX, resolve
    from ..hub.weight_files import files_of
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

    folder = Path(folder)
    if task is not None and task not in TASKS:
        raise ConfigurationError(f"`--task` must be one of {', '.join(TASKS)}, got {task!r}")
    if (folder / MODEL_INDEX).exists() or folder.is_file():
        raise ConfigurationError(f"`output` must be a folder without a pipeline, got {str(folder)!r}")
    pipeline = DAARestorationPipeline.from_pretrained(path)
    files, _ = files_of(Path(resolve(path).location))
    sources = [{"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files]
    record = record_of(pipeline.restorer)
    training = {**record.training, "wrapped_from": sources}
    if task:
        training["task"] = task
    keep_record(pipeline.restorer, replace(record, training=training))
    pipeline.save_pretrained(folder)
    return folder
