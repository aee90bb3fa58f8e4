"""Which checkpoint restores, and where: as `--checkpoint` and `--device` of the commands name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    import torch

    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline


def check_model(checkpoint: str, device: str | None = None) -> None:
    """Whether there may be such a checkpoint and such a device; of the Hub nothing is asked.

    Raises:
        CheckpointError, ConfigurationError: there is not.
    """
    from ..hub.resolving import MODEL_INDEX, resolve

    source = resolve(checkpoint, "--checkpoint")
    if source.kind == "folder" and not (Path(source.location) / MODEL_INDEX).is_file():
        raise CheckpointError(f"`--checkpoint` {checkpoint!r} is no pipeline's folder: {MODEL_INDEX} is missing")
    if device is not None:
        usable_device(device)


def usable_device(device: str) -> torch.device:
    """A device by its name.

    Raises:
        ConfigurationError: there is no such device.
    """
    import torch

    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ConfigurationError(f"`--device` {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return where


def load_pipeline(checkpoint: str, device: str | None, dtype: str = "float32") -> DAARestorationPipeline:
    """The pipeline of a checkpoint, on a device; None: the fastest that is there.

    Raises:
        ConfigurationError: there is no such device.
        CheckpointError: as `from_pretrained`.
    """
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

    check_model(checkpoint)
    disable_progress_bar()  # of loading
    if device is None:
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    where = usable_device(device)
    return DAARestorationPipeline.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).to(where)
