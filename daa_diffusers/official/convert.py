"""Conversion of official checkpoints to this package's classes.

Names and layouts change, values do not: a converted network computes the same as the official one. The converted
weights keep the official license (non-commercial), regardless of the license of this package.

Source: docs/method.md, "The official noise predictor as a UNet2DConditionModel".
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..foreign.weights import PICKLED, SAFETENSORS, read_state
from ..models.daa_unet import DAAUNet2DConditionModel
from ..models.restoration_unet import RestorationUNet
from .layout import Network, infer_predictor, infer_restorer, official_names, packed, schedule_buffers, unpack

logger = logging.getLogger(__name__)

RESTORER_PREFIX = "RestorationNet."
PREDICTOR_PREFIX = "denoise_fn."
VALUE_RANGES = {"denoise": (0.0, 1.0), "derain": (-1.0, 1.0), "deblur": (-1.0, 1.0)}

_RESTORER_MODULES = ("down_path.", "up_path.", "last.")
# Keys under which training scripts nest the weights.
_WRAPPERS = ("state_dict", "params")


def _compare(state_dict: Mapping[str, Any], network: Network, prefix: str) -> dict[str, list[str]]:
    """Returns the problems of official tensors of a network by kind; names in messages begin with `prefix`."""
    expected = packed(network)
    wrong = []
    for name in state_dict.keys() & expected.keys():
        tensor, shape = state_dict[name], tuple(expected[name].shape)
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            wrong.append(f"{prefix}{name} is {kind}, not a floating point tensor")
        elif tuple(tensor.shape) != shape:
            wrong.append(f"{prefix}{name} is {tuple(tensor.shape)}, should be {shape}")
    return {
        "missing": [prefix + name for name in expected.keys() - state_dict.keys()],
        "unknown": [prefix + name for name in state_dict.keys() - expected.keys()],
        "of a wrong shape or type": wrong,
    }


def _fill(network: Network, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Loads official tensors into a network on the meta device."""
    state: dict[str, torch.Tensor] = {}
    head_channels = getattr(network.config, "attention_head_dim", 1)
    for official, names in official_names(network).items():
        tensor = state_dict[official].detach().to(torch.float32, copy=True)
        parts = unpack(official, tensor, len(names), head_channels)
        state |= {name: part.contiguous() for name, part in zip(names, parts, strict=True)}
    network.load_state_dict(state, assign=True)  # built on the meta device, without memory
    network.eval()


def _split(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """Splits a state dict into restorer, noise predictor and the rest; also returns the restorer's prefix."""
    # data-parallel wrappers insert `module.` at any depth; no official module has that name
    names = {key: ".".join(part for part in str(key).split(".") if part != "module") for key in state_dict}
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if twice:
        raise ValueError(f"`state_dict` must hold each name once, with or without `module.`, got twice: {twice}")
    state_dict = {names[key]: value for key, value in state_dict.items()}
    prefixed = any(key.startswith(RESTORER_PREFIX) for key in state_dict)
    restorer, predictor, rest = {}, {}, {}
    for key, value in state_dict.items():
        if key.startswith(PREDICTOR_PREFIX):
            predictor[key.removeprefix(PREDICTOR_PREFIX)] = value
        elif key.startswith(RESTORER_PREFIX) or (not prefixed and key.startswith(_RESTORER_MODULES)):
            restorer[key.removeprefix(RESTORER_PREFIX)] = value
        else:
            rest[key] = value
    return restorer, predictor, rest, RESTORER_PREFIX if prefixed else ""


def _check_schedule(rest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the problems of the other tensors by kind: they may only be buffers of the official noise schedule."""
    expected = schedule_buffers()
    wrong = []
    for name in rest.keys() & expected.keys():
        tensor, value = rest[name], expected[name]
        if not isinstance(tensor, torch.Tensor) or tensor.shape != value.shape:
            kind = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            wrong.append(f"{name} is {kind}, should be {tuple(value.shape)}")
        elif not torch.allclose(tensor.cpu().double(), value, rtol=1e-4, atol=1e-6):
            wrong.append(f"{name} differs by up to {(tensor.cpu().double() - value).abs().max():.2g}")
    return {"unknown": list(rest.keys() - expected.keys()), "not of the schedule beta 1e-6..1e-2 in 1000 steps": wrong}


def _check_arguments(state_dict: Any, task: str, head_channels: int, groups: int, dropout: float) -> None:
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"`state_dict` must be a mapping of names to tensors, got {type(state_dict).__name__}")
    if task not in VALUE_RANGES:
        raise ValueError(f"`task` must be one of {sorted(VALUE_RANGES)}, got {task!r}")
    for name, value in (("head_channels", head_channels), ("groups", groups)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must lie in [0, 1), got {dropout!r}")


def _empty_predictor(
    weights: Mapping[str, Any], head_channels: int, groups: int, dropout: float
) -> DAAUNet2DConditionModel:
    sizes = infer_predictor(weights, groups)
    channels = sizes["block_out_channels"]
    if any(c % groups for c in channels):
        raise ValueError(f"`groups` must divide the noise predictor's channels {channels}, got {groups}")
    if channels[-1] % head_channels:
        last = channels[-1]
        raise ValueError(f"`head_channels` must divide the noise predictor's last width, {last}, got {head_channels}")
    return DAAUNet2DConditionModel(**sizes, norm_num_groups=groups, attention_head_dim=head_channels, dropout=dropout)


def convert_official_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    task: str = "denoise",
    head_channels: int = 32,
    groups: int = 32,
    dropout: float = 0.2,
) -> tuple[RestorationUNet, DAAUNet2DConditionModel | None]:
    """Builds this package's networks from official weights.

    Sizes (widths, depth, levels, blocks per level) are inferred from the tensors' shapes; those that no shape
    determines are arguments, with the official values as defaults. Buffers of the noise schedule are checked and
    dropped.

    Args:
        state_dict: official names -> floating point tensors, of a full checkpoint (`RestorationNet.*`, optionally
            `denoise_fn.*` and schedule buffers) or of a single restorer (`down_path.*`, ...). `module.` in names, added
            by data-parallel training, is ignored.
        task: "denoise" (value range [0, 1]), "derain" or "deblur" ([-1, 1]).
        head_channels: channels per attention head of the noise predictor.
        groups: number of groups of every GroupNorm of the noise predictor.
        dropout: dropout probability of the noise predictor, for further training.

    Returns:
        The restorer (with `align_corners=True`, as in the official code) and the noise predictor, or None if the state
        dict has none. Both are in float32 and eval mode, on the device of the tensors, and share no memory with
        `state_dict`.

    Raises:
        ValueError: an invalid argument, or tensors that are missing, unknown, of a wrong shape, or not of the official
            noise schedule; all are listed.
    """
    _check_arguments(state_dict, task, head_channels, groups, dropout)
    restorer_weights, predictor_weights, rest, prefix = _split(state_dict)
    if not restorer_weights:
        raise ValueError(
            "`state_dict` must hold the official restorer, keys down_path.*, up_path.* and last.*, with or without "
            f"the prefix {RESTORER_PREFIX!r}; got {sorted(map(str, state_dict))[:8]}"
        )
    unet = None
    with torch.device("meta"):
        sizes = infer_restorer(restorer_weights)
        restorer = RestorationUNet(**sizes, align_corners=True, value_range=VALUE_RANGES[task])
        if predictor_weights:
            unet = _empty_predictor(predictor_weights, head_channels, groups, dropout)
    reports = [_compare(restorer_weights, restorer, prefix), _check_schedule(rest)]
    if unet is not None:
        reports.append(_compare(predictor_weights, unet, PREDICTOR_PREFIX))
    problems: dict[str, list[str]] = {}
    for report in reports:
        for kind, keys in report.items():
            problems.setdefault(kind, []).extend(keys)
    if any(problems.values()):
        lines = [f"{len(keys)} {kind}: {', '.join(sorted(keys))}" for kind, keys in problems.items() if keys]
        raise ValueError("`state_dict` must hold exactly the official names and shapes; it has\n" + "\n".join(lines))
    _fill(restorer, restorer_weights)
    if unet is not None:
        _fill(unet, predictor_weights)
    logger.info("Converted official weights, which keep their own license: %s", dict(restorer.config))
    return restorer, unet


def load_official_file(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Reads a state dict from `.pth`, `.pt`, `.ckpt`, `.bin` (with `weights_only=True`) or `.safetensors`.

    Weights nested under the keys "state_dict" or "params" are unwrapped.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: wrong suffix, a damaged file, a pickle of more than tensors, or not a mapping of names to
            tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must name a checkpoint file, got {str(path)!r}, which is not a file")
    suffixes = (SAFETENSORS, *PICKLED)
    if path.suffix not in suffixes:
        raise CheckpointError(f"{path} must end in one of {', '.join(suffixes)}, got {path.suffix!r}")
    loaded = read_state(path)
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} must hold a dict of tensors by name, got {type(loaded).__name__}")
    others = [str(k) for k, v in loaded.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))]
    if others or not loaded:
        raise CheckpointError(f"{path} must hold tensors by name and nothing else, got {others[:8] or 'an empty dict'}")
    return dict(loaded)
