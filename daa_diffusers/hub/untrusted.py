"""Validation of untrusted checkpoint files: configs within bounds, paths inside the folder, tensors that fit.

All checks run before memory is allocated or a network is built.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from diffusers.models.modeling_utils import no_init_weights
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError
from ..foreign.weights import something_else
from ..models.daa_unet import DAAUNet2DConditionModel
from ..models.registry import RESTORERS

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 10 * 2**20
# Limits on the values of a config, about a hundred times those of this package's networks.
MAX_INTEGER = 2**16
MAX_FLOAT = 1e9
MAX_LIST = 4096  # a scheduler's config may list its betas
MAX_NESTING = 8
# Lower limits on config fields whose cost grows faster than their value.
MAX_BY_NAME = {
    "depth": 10, "layers_per_block": 16, "channels": 1024, "width": 4096, "widths": 4096, "blocks": 64, "unshuffle": 16
}  # fmt: skip
MAX_LEVELS = {"block_out_channels": 10, "down_block_types": 10, "up_block_types": 10, "widths": 10, "blocks": 10}

NETWORKS: dict[str, Any] = {**RESTORERS, "DAAUNet2DConditionModel": DAAUNet2DConditionModel}


# --- JSON ---


def read_json(path: Path, if_missing: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        CheckpointError: the file does not exist (with the message `if_missing`), has more than 10 MB, or is not a JSON
            object.
    """
    if not path.is_file():
        raise CheckpointError(if_missing)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{str(path)!r} has {path.stat().st_size} bytes, at most {MAX_JSON_BYTES} are read")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} must hold a JSON object, got {type(content).__name__}")
    return content


def read_config(path: Path, expected: str) -> dict[str, Any]:
    """Reads the config of a component.

    Raises:
        CheckpointError: the config is of another class than `expected`, or has a value out of bounds.
    """
    content = read_json(path, f"{str(path)!r} is missing")
    if content.get("_class_name") != expected:
        raise CheckpointError(f"{str(path)!r} has class {content.get('_class_name')}, expected {expected}")
    check_bounds(content, str(path))
    return content


def check_bounds(config: Mapping[str, Any], where: str) -> None:
    """Raises CheckpointError if a config has an implausible value, such as a width of a million."""
    limits = MAX_BY_NAME if config.get("_class_name") in NETWORKS else {}
    for name, value in config.items():
        _check_value(value, str(name), where, limits, 0)


def _check_value(value: Any, name: str, where: str, limits: Mapping[str, int], nesting: int) -> None:
    """Checks a value, and those in it, against the limits above; `limits` has lower ones by name."""
    if nesting > MAX_NESTING:
        raise CheckpointError(f"`{name}` in {where!r} is nested more than {MAX_NESTING} deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_value(item, f"{name}.{key}", where, limits, nesting + 1)
    elif isinstance(value, list | tuple):
        most = MAX_LEVELS.get(name, MAX_LIST)
        if len(value) > most:
            raise CheckpointError(f"`{name}` in {where!r} must have at most {most} entries, got {len(value)}")
        for item in value:
            _check_value(item, name, where, limits, nesting + 1)
    elif isinstance(value, int):
        limit = limits.get(name, MAX_INTEGER)
        if abs(value) > limit:
            raise CheckpointError(f"`{name}` in {where!r} must be at most {limit}, got {_short(value)}")
    elif isinstance(value, float) and not (math.isfinite(value) and abs(value) <= MAX_FLOAT):
        raise CheckpointError(f"`{name}` in {where!r} must be finite and at most {MAX_FLOAT:g}, got {value}")


def _short(value: int) -> str:
    """Formats an integer for a message."""
    return str(value) if abs(value) < 10**18 else "a number of more than 18 digits"  # str() fails for huge integers


# --- paths ---


def check_name(name: Any, where: str) -> str:
    """Checks a file name that a repository's index states, and returns it.

    Raises:
        CheckpointError: the name is absolute or points outside its folder.
    """
    parts = PurePosixPath(str(name).replace("\\", "/"))
    if not isinstance(name, str) or not name or parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise CheckpointError(f"{where!r} names the file {name!r}, which is not inside its folder")
    return name


def check_inside(folder: Path, paths: Iterable[Path]) -> None:
    """Raises CheckpointError if a file is a link to a place outside `folder`.

    The links of the Hub's cache to its own blobs are allowed.
    """
    allowed = [folder.resolve()]
    if allowed[0].parent.name == "snapshots":  # CACHE/models--OWNER--NAME/snapshots/COMMIT
        allowed.append(allowed[0].parents[2])
    for path in paths:
        if path.exists() and not any(path.resolve().is_relative_to(place) for place in allowed):
            raise CheckpointError(
                f"{str(path.relative_to(folder))!r} in {str(folder)!r} is a link to a place outside the folder"
            )


# --- tensors ---


def empty_network(config: Mapping[str, Any], where: str) -> nn.Module | None:
    """Builds a network of this package from its config, without memory for its weights; None for other classes.

    Raises:
        CheckpointError: the class rejects the config.
    """
    network = NETWORKS.get(str(config.get("_class_name")))
    if network is None:
        return None
    check_bounds(config, where)
    try:
        with torch.device("meta"), no_init_weights():  # random initialization on "meta" would import torch's compiler
            return network.from_config(dict(config))
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{where!r} is not a valid config of {network.__name__}: {error}") from error


def stored_shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Returns tensor name -> shape in safetensors files, read from their headers.

    Raises:
        CheckpointError: a file is something else, such as a Git LFS pointer.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if other := something_else(file):
            raise CheckpointError(f"{str(file)!r} {other}")
        with safe_open(file, framework="pt") as handle:
            shapes |= {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    return shapes


def stored_dtypes(files: Sequence[Path]) -> tuple[str, ...]:
    """Returns the dtypes of the tensors in safetensors files ("F32", "F16", ...), sorted, read from their headers."""
    dtypes: set[str] = set()
    for file in files:
        with safe_open(file, framework="pt") as handle:
            dtypes |= {handle.get_slice(name).get_dtype() for name in handle.keys()}  # noqa: SIM118
    return tuple(sorted(dtypes))


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns tensor name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(what: str, tensors: Mapping[str, torch.Tensor], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError, listing all differences, unless `found` are exactly the shapes of `tensors`."""
    expected = shapes_of(tensors)
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    raise_unfitting(what, [n for n in expected if n not in found], [n for n in found if n not in expected], wrong)


def check_keys(component: str, module: nn.Module, files: Sequence[Path]) -> None:
    """Raises CheckpointError unless the files hold exactly the module's tensors.

    diffusers only logs missing tensors, and leaves them at random values.
    """
    stored = set(stored_shapes(files))
    tensors = module.state_dict()
    shared = {tensor.data_ptr() for name, tensor in tensors.items() if name in stored}  # tied weights are stored once
    missing = [name for name, tensor in tensors.items() if name not in stored and tensor.data_ptr() not in shared]
    raise_unfitting(f"{component} of {str(files[0].parent.parent)!r}", missing, sorted(stored - set(tensors)), [])


def raise_unfitting(what: str, missing: Sequence[str], unknown: Sequence[str], shapes: Sequence[str]) -> None:
    """Raises CheckpointError with the given problems, if there are any."""
    kinds = (("missing tensors", missing), ("unknown tensors", unknown), ("wrong shapes", shapes))
    problems = [f"{kind}: {', '.join(names)}" for kind, names in kinds if names]
    if problems:
        raise CheckpointError(f"the weights do not fit the {what}: {'; '.join(problems)}")


@contextmanager
def loading_errors(folder: Path) -> Iterator[None]:
    """Context that converts errors of diffusers and safetensors about damaged or unfitting files to CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} cannot be loaded: {error}") from error
