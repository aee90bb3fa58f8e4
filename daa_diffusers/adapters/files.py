"""Reading and writing of an adapter's folder: `adapter.json`, the config, and `adapter.safetensors`, the tensors."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import CheckpointError, ConfigurationError
from ..files import replacing, write_text
from ..hub.resolving import is_repo_id
from .updates import KINDS, Update

logger = logging.getLogger(__name__)

CONFIG = "adapter.json"
TENSORS = "adapter.safetensors"
FORMAT_VERSION = 1
LARGE = 500_000  # bytes above which a warning is logged
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
INFO = ("make", "models", "iso", "licence")  # fields of the config that a user may set


@dataclass(frozen=True)
class AdapterConfig:
    """Content of `adapter.json`.

    Args:
        kind: "bias", "pointwise" or "lora" (`updates.updates_for`).
        base: fingerprint of the restorer that the adapter was trained for.
        rank: rank of kind "lora"; None for other kinds.
        base_name: name of that restorer, for messages.
        make, models, iso: cameras that the adapter is for: maker, models, and inclusive range of ISO numbers; None or
            empty: any.
        licence: license of the tensors; None: not stated.
        format_version: format version of the folder.

    Raises:
        ConfigurationError: a field is invalid; the message names it.
    """

    kind: str
    base: str
    rank: int | None = None
    base_name: str | None = None
    make: str | None = None
    models: tuple[str, ...] = ()
    iso: tuple[int, int] | None = None
    licence: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        if self.format_version != FORMAT_VERSION:
            raise ConfigurationError(f"`format_version` must be {FORMAT_VERSION}, got {self.format_version!r}")
        if self.kind not in KINDS:
            raise ConfigurationError(f"`kind` must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if (self.kind == "lora") != (isinstance(self.rank, int) and self.rank > 0):
            raise ConfigurationError(f"`rank` must be a positive number for lora, else None, got {self.rank!r}")
        if not isinstance(self.base, str) or not self.base:
            raise ConfigurationError(f"`base` must be a fingerprint, got {self.base!r}")
        for name in ("base_name", "make", "licence"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigurationError(f"`{name}` must be text or None, got {getattr(self, name)!r}")
        models, iso = self.models, self.iso
        if not isinstance(models, list | tuple) or not all(isinstance(model, str) for model in models):
            raise ConfigurationError(f"`models` must be a list of names, got {models!r}")
        is_pair = isinstance(iso, list | tuple) and len(iso) == 2 and all(type(number) is int for number in iso)
        if iso is not None and not (is_pair and 0 < iso[0] <= iso[1]):
            raise ConfigurationError(f"`iso` must be [lowest, highest], positive integers, or None, got {iso!r}")
        object.__setattr__(self, "models", tuple(models))
        object.__setattr__(self, "iso", None if iso is None else tuple(iso))


def save_adapter(
    folder: str | os.PathLike,
    config: AdapterConfig,
    updates: Mapping[str, Update],
    statistics: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Writes an adapter's folder, each file atomically, the config last; returns the folder.

    Args:
        folder: folder to write to, created if missing; an existing adapter is replaced.
        config: config of the adapter.
        updates: updates by name of the parameter. They are stored in float16; round them first if the file and the
            updates in memory must be equal.
        statistics: batch-norm statistics (`updates.statistics`), stored in float32.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{parameter}.{name}": value.detach().to("cpu", torch.float16).contiguous()
        for parameter, update in updates.items()
        for name, value in update.state_dict().items()
    }
    tensors |= {name: value.detach().cpu().float().contiguous() for name, value in (statistics or {}).items()}
    with replacing(folder / TENSORS) as temporary:
        save_file(tensors, temporary)
    size = (folder / TENSORS).stat().st_size
    if size > LARGE:
        logger.warning("the adapter is large, %.1f MB: use a lower rank or kind bias for a smaller one", size / 1e6)
    write_text(folder / CONFIG, json.dumps(asdict(config), indent=2) + "\n")
    return folder


def read_adapter(
    source: str | os.PathLike, *, subfolder: str | None = None, **hub_options: Any
) -> tuple[AdapterConfig, dict[str, torch.Tensor], str]:
    """Reads an adapter from a folder or from the Hub.

    Args:
        source: folder, or id of a Hub repository ("owner/name"); a `Path` is always a folder.
        subfolder: subfolder of the source, if it holds several adapters.
        hub_options: `cache_dir`, `force_download`, `local_files_only`, `token`, `revision`.

    Returns:
        The config, the stored tensors by name, and a name for the adapter.

    Raises:
        CheckpointError: no such folder or repository id; files are missing (all are listed), damaged or invalid.
        TypeError: an unknown option.
        RepositoryNotFoundError: the Hub has no such repository. Other errors of huggingface_hub are passed on.
    """
    unknown = sorted(set(hub_options) - set(HUB_OPTIONS))
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; known are {', '.join(HUB_OPTIONS)}")
    text = os.fspath(source)
    if subfolder is not None and (Path(subfolder).is_absolute() or ".." in Path(subfolder).parts):
        raise CheckpointError(f"`subfolder` must lie inside {text!r}, got {subfolder!r}")
    folder = Path(text).expanduser()
    if not folder.is_dir():
        if not isinstance(source, str) or not is_repo_id(text):
            raise CheckpointError(f'`adapter` {text!r} is neither a folder nor a Hub repository ("owner/name")')
        inside = f"{subfolder}/" if subfolder else ""
        patterns = [inside + CONFIG, inside + TENSORS]
        folder = Path(snapshot_download(text, allow_patterns=patterns, **hub_options))
    folder = folder / (subfolder or "")
    missing = [name for name in (CONFIG, TENSORS) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"`adapter` {text!r} is not an adapter: {', '.join(missing)} is missing")
    name = Path(os.path.abspath(os.path.join(text, subfolder or ""))).name
    return _read_config(folder / CONFIG), _read_tensors(folder / TENSORS), name


def _read_config(path: Path) -> AdapterConfig:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ConfigurationError(f"it must hold a JSON object, got {type(content).__name__}")
        unknown = sorted(set(content) - {field.name for field in fields(AdapterConfig)})
        if unknown:
            raise ConfigurationError(f"unknown fields {', '.join(unknown)}")
        return AdapterConfig(**content)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not an adapter's config: {error}") from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}") from error
    broken = [name for name, value in tensors.items() if not value.is_floating_point() or not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{str(path)!r} holds tensors that are NaN, infinite or not floating point: {', '.join(broken)}"
        )
    return tensors
