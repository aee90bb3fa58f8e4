"""Training of adapters: small updates of a frozen restorer."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapters.files import TENSORS, AdapterConfig, save_adapter
from ..adapters.matching import read_camera, summarize
from ..adapters.updates import attach, attached, base_parameters, fingerprint, merge, statistics, updates_for
from ..hub.records import stated_license
from ..sources.folders import PhotoSource
from .config import TrainingConfig

logger = logging.getLogger(__name__)

EXIF_PHOTOS = 64  # maximum number of photos per source from which EXIF data are read


def add_adapter(config: TrainingConfig, restorer: nn.Module) -> None:
    """Freezes `restorer` and attaches the adapter that `config.adapter` names, if any.

    Raises:
        ConfigurationError: the restorer has no parameters for this kind of adapter.
    """
    if config.adapter:
        updates = updates_for(restorer, config.adapter, config.adapter_rank)
        for update in updates.values():
            update.reset_parameters()
        attach(restorer, updates)


@torch.no_grad()
def save_trained_adapter(
    config: TrainingConfig, restorer: nn.Module, folder: Path, real: list[PhotoSource]
) -> nn.Module:
    """Saves the attached adapter in half precision, and returns a copy of the restorer with it merged.

    Args:
        config: options of the run.
        restorer: trained restorer with the adapter attached; not changed.
        folder: folder to write the adapter to.
        real: photos that the restorer was adapted to; their EXIF data describe the camera, except for the entries of
            `config.adapter_info`.
    """
    restorer = copy.deepcopy(restorer)
    updates = attached(restorer)
    for update in updates.values():
        for parameter in update.parameters():
            parameter.copy_(parameter.half())  # files store half precision
    info: dict[str, Any] = {**_camera_of(real), **config.adapter_info}
    base_license = stated_license(restorer)
    if base_license.non_commercial:  # takes precedence over the options
        info["licence"] = base_license.key
    assert config.adapter is not None and config.init_from is not None  # checked by the config
    adapter = AdapterConfig(
        config.adapter,
        fingerprint(base_parameters(restorer)),
        rank=config.adapter_rank if config.adapter == "lora" else None,
        base_name=Path(config.init_from).name,
        **info,
    )
    save_adapter(folder, adapter, updates, statistics(restorer))
    logger.info("adapter saved: %s, %.0f kB", folder, (folder / TENSORS).stat().st_size / 1e3)
    merge(restorer)
    return restorer


def _camera_of(sources: list[PhotoSource]) -> dict[str, Any]:
    """Returns the entries of an adapter's config that describe the camera of the photos, from their EXIF data."""
    cameras = []
    for source in sources:
        for index in source.spread(EXIF_PHOTOS):
            try:
                cameras.append(read_camera(source.encoded(index)))
            except (OSError, ValueError, IndexError):  # damaged file, or beyond the end of a stream
                continue
    return summarize(cameras)
