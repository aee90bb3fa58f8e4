"""Resolution of the options of a run: defaults, then preset, then YAML file, then command line."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ...degradations.config_files import DEGRADATION_SUFFIXES, read_degradation
from ...errors import ConfigurationError
from ...files import text_of
from ...objectives.registry import objective_class, with_defaults
from .command_line import json_mapping, typed_options
from .field import converted, facts
from .names import NAMES, canonical, without_retired
from .objective import DEFAULT_OBJECTIVE, merge_objectives, nest_objective
from .options import TrainingConfig
from .presets import ADAPTER_LEARNING_RATES, PRESETS


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping of options; removed options of earlier versions are skipped, with a warning.

    Raises:
        ConfigurationError: a missing or damaged file, or an unknown option.
    """
    try:
        values = yaml.safe_load(text_of(path, "config", "YAML"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"`config` must be a readable YAML file, got {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"`config` must be a YAML mapping of options, got {type(values).__name__} in {path}")
    return canonical(without_retired({str(name): value for name, value in values.items()}, str(path)), str(path))


def resolve(*layers: dict[str, Any]) -> TrainingConfig:
    """Merges mappings of options over the preset that they name; later mappings take precedence.

    `TrainingConfig.check` checks the values that are not needed here.

    Raises:
        ConfigurationError: an unknown name, preset or objective, or a degradation file that cannot be read.
    """
    given: dict[str, Any] = {}
    objective: dict[str, Any] = {}
    for layer in layers:
        nested = nest_objective(canonical(layer, "the options"))
        objective = merge_objectives(objective, nested.pop("objective", {}))
        given.update(nested)
    preset = given.get("preset", TrainingConfig.preset)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigurationError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}")
    for name in given:
        if facts(NAMES[name]).path:
            given[name] = _expanded(given[name])
    if isinstance(given.get("degradation"), str):
        given["degradation"] = _degradation(given["degradation"])  # the file may be gone when the run is resumed
    hints = get_type_hints(TrainingConfig)
    for name, value in given.items():
        try:
            given[name] = converted(value, hints[name])
        except ValueError:
            continue  # reported by `check`
    preset_objective = PRESETS[preset].get("objective", {"type": DEFAULT_OBJECTIVE})
    given["objective"] = with_defaults(merge_objectives(preset_objective, objective))
    if "learning_rate" in given:
        given.setdefault("probe_learning_rate", False)  # a given rate is used as it is
    return replace(TrainingConfig(), **{**_of_preset(preset, given), **given})


def _of_preset(preset: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a preset, adjusted to the given objective and adapter."""
    values = dict(PRESETS[preset])
    if not objective_class(given["objective"]["type"]).uses_preparation:
        values = {name: value for name, value in values.items() if not facts(NAMES[name]).preparation}
    adapter = given.get("adapter")
    if isinstance(adapter, str) and adapter in ADAPTER_LEARNING_RATES:
        values["learning_rate"] = ADAPTER_LEARNING_RATES[adapter]
    return values


def parse_arguments(arguments: list[str] | None = None) -> TrainingConfig:
    """Parses the command line of `examples/train_daa.py`, which overrides `--config FILE`, which overrides the preset.

    Exits on `--help`, as argparse does.

    Raises:
        ConfigurationError: an option is unknown, invalid, or contradicts another.
    """
    typed = typed_options(arguments)
    from_file = read_yaml(typed["config"]) if typed.get("config") else {}
    return resolve(from_file, typed).check()


def _expanded(path: Any) -> Any:
    """Expands `~` and environment variables in paths; other values are unchanged."""
    if isinstance(path, list | tuple):
        return [_expanded(each) for each in path]
    return os.path.expanduser(os.path.expandvars(path)) if isinstance(path, str | os.PathLike) else path


def _degradation(text: str) -> dict[str, Any]:
    """Reads a degradation given as a file, as JSON or as a bare name."""
    if text.lower().endswith(DEGRADATION_SUFFIXES):
        return read_degradation(os.path.expanduser(os.path.expandvars(text)))
    return json_mapping(text)
