"""Configs of degradations in YAML and JSON files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigurationError
from ..files import check_writable, write_text

DEGRADATION_SUFFIXES = (".yaml", ".yml", ".json")


def read_degradation(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a config, a mapping with a `type`, from a YAML or JSON file; raises ConfigurationError if it cannot."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        # JSON files are not read as YAML, because YAML 1.1 reads 5e-05 as text
        config = json.loads(text) if Path(path).suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(
            f"`degradation` must be a readable YAML or JSON file, got {str(path)!r}: {error}"
        ) from error
    if not isinstance(config, dict) or "type" not in config:
        raise ConfigurationError(
            f"`degradation` file {str(path)!r} must hold a mapping with a `type`, got {config!r:.80}"
        )
    return config


def check_degradation_path(path: str | os.PathLike) -> Path:
    """Returns `path`; raises ConfigurationError or UnwritableError unless a degradation can be written there."""
    path = Path(path)
    if path.suffix.lower() not in DEGRADATION_SUFFIXES:
        raise ConfigurationError(f"a degradation file must end in .yaml, .yml or .json, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ConfigurationError(f"the folder of {str(path)!r} must exist, there is no {str(path.parent)!r}")
    check_writable(path.parent)
    return path


def write_degradation(config: Mapping[str, Any], path: str | os.PathLike, comment: str = "") -> Path:
    """Writes a config as JSON (`.json`) or as YAML (`.yaml`, `.yml`) with `comment` as its header, atomically.

    Raises:
        ConfigurationError, UnwritableError: as for `check_degradation_path`.
    """
    path = check_degradation_path(path)
    if path.suffix.lower() == ".json":
        text = json.dumps(config, indent=1)
    else:
        text = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
        # `default_flow_style=None`: a list of numbers on one line
        text += yaml.safe_dump(dict(config), sort_keys=False, width=120, default_flow_style=None)
    return write_text(path, text)
