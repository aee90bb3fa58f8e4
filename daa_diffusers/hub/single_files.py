"""Restorers in single weight files: networks of this package, and those that spandrel recognizes."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..errors import CheckpointError
from ..foreign.restorer import ForeignRestorer
from ..foreign.weights import SAFETENSORS
from ..models.registry import RESTORERS
from ..models.restoration_unet import RestorationUNet
from .untrusted import check_inside, check_shapes, empty_network, loading_errors, read_config, read_json, shapes_of
from .weight_files import read_stored

logger = logging.getLogger(__name__)


def load_restorer(path: Path, dtype: torch.dtype = torch.float32) -> ModelMixin:
    """Loads a restorer from a single weight file, in eval mode.

    The network is defined by this package's config.json next to a safetensors file. Without a config, it is inferred
    from the names and shapes of the tensors. What they do not determine in a `RestorationUNet` (value range, slope,
    corner alignment) gets default values, with a warning. Any other network must be one that spandrel recognizes
    (`ForeignRestorer.from_checkpoint`).

    Args:
        path: .safetensors, the index.json of its shards, or .pth, .pt, .ckpt, .bin, from which only tensors are read.
        dtype: dtype of the restorer.

    Raises:
        CheckpointError: the file is damaged or not a weight file, the config is of another class, tensors do not fit
            (all are listed), or the architecture is unknown (the known ones are listed).
    """
    config_file = path.with_name("config.json")
    has_config = path.suffix in (SAFETENSORS, ".json") and config_file.is_file()
    if has_config:
        check_inside(path.parent, [config_file])
        has_config = "_class_name" in read_json(config_file, "")
    weights = read_stored(path)
    shapes = shapes_of(weights)
    if "down_path.0.block.0.weight" in shapes:
        raise CheckpointError(
            f"{str(path)!r} has tensor names of the official code; convert it first: `daa convert {path.name} OUT`"
        )
    name = read_json(config_file, "")["_class_name"] if has_config else None
    if name == ForeignRestorer.__name__:
        return _cast(_load_foreign(path, config_file, weights), dtype)
    if has_config:
        config = read_config(config_file, name if name in RESTORERS else RestorationUNet.__name__)
    elif "down_blocks.0.conv1.weight" in shapes:
        config = {"_class_name": RestorationUNet.__name__, **_infer(shapes, path)}
    else:
        try:
            return _cast(ForeignRestorer.from_weights(weights, path.name), dtype)
        except (ImportError, ValueError) as error:
            raise CheckpointError(str(error)) from error
    restorer = empty_network(config, str(config_file))
    assert isinstance(restorer, ModelMixin)
    check_shapes(f"restorer of {str(path)!r}", restorer.state_dict(), shapes)
    restorer.load_state_dict(weights, assign=True)
    return _cast(restorer, dtype)


def _cast(restorer: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """Returns the restorer in eval mode and in `dtype`."""
    return nn.Module.to(restorer.eval(), dtype)  # `ModelMixin.to` warns of every cast


def _load_foreign(path: Path, config_file: Path, weights: Mapping[str, torch.Tensor]) -> ForeignRestorer:
    config = read_config(config_file, ForeignRestorer.__name__)
    with loading_errors(path.parent):
        restorer = ForeignRestorer.from_config(config)
        check_shapes(f"restorer of {str(path)!r}", restorer.state_dict(), shapes_of(weights))
        restorer.load_state_dict(weights)
    return restorer


def _infer(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """Infers constructor arguments of a `RestorationUNet` from the shapes of its tensors."""
    first = shapes["down_blocks.0.conv1.weight"]
    if len(first) != 4:
        raise CheckpointError(
            f"{str(path)!r} holds no {RestorationUNet.__name__}: down_blocks.0.conv1.weight has shape {first}"
        )
    levels = {int(match[1]) for match in map(re.compile(r"down_blocks\.(\d{1,9})\.").match, shapes) if match}
    config = {"channels": first[1], "width": first[0], "depth": len(levels)}
    logger.warning("no config.json next to %s: sizes inferred (%s), all else at the defaults", path.name, config)
    return config
