"""Options of the objective: nested under `objective` in a config, or at its top level."""

import argparse
from collections.abc import Mapping
from typing import Any

import yaml

from ...objectives.registry import OBJECTIVES

# Option of an objective -> objectives that have it.
OBJECTIVE_OPTIONS: dict[str, list[str]] = {}
for _name, _class in OBJECTIVES.items():
    for _option in _class.defaults():
        OBJECTIVE_OPTIONS.setdefault(_option, []).append(_name)

DEFAULT_OBJECTIVE = "noise_space"
# For files of earlier versions: an option for the objective's options, and the variant of noise-space adaptation that
# was the supervised objective.
EARLIER_OPTIONS, VANILLA = ("objective_options",), "vanilla"


def nest_objective(options: Mapping[str, Any], *, record: bool = False) -> dict[str, Any]:
    """Moves the options of the objective into the mapping `objective`, which has no "type" if none was given.

    Args:
        options: options of a run, nested or flat.
        record: whether they are the recorded options of an earlier run; flat ones that its objective does not have are
            omitted.
    """
    nested = dict(options)
    given = nested.pop("objective", None)
    objective = {"type": given} if isinstance(given, str) else dict(given or {})
    objective |= nested.pop("objective_options", None) or {}
    flat = {name: nested.pop(name) for name in OBJECTIVE_OPTIONS if name in nested}
    if flat.get("variant") == VANILLA and objective.get("type", DEFAULT_OBJECTIVE) == DEFAULT_OBJECTIVE:
        objective["type"], record = "supervised", True
    if record:
        known = OBJECTIVES[objective.setdefault("type", DEFAULT_OBJECTIVE)].defaults()
        flat = {name: value for name, value in flat.items() if name in known}
    objective |= flat
    if objective:
        nested["objective"] = objective
    return nested


def flattened(options: Mapping[str, Any]) -> dict[str, Any]:
    """Moves the options of the objective to the top level, for comparisons."""
    objective = {name: value for name, value in options["objective"].items() if name != "type"}
    return {**options, **objective, "objective": options["objective"]["type"]}


def merge_objectives(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides `below` with `above`; if `above` names another objective, returns only `above`."""
    if "type" in above and above["type"] != below.get("type", above["type"]):
        return dict(above)
    return {**below, **above}


def add_objective_options(parser: argparse.ArgumentParser) -> None:
    """Adds every option of every objective to the command line; values are parsed as YAML, several as a list."""
    group = parser.add_argument_group("options of the objective")
    for name, owners in OBJECTIVE_OPTIONS.items():
        defaults = {owner: OBJECTIVES[owner].defaults()[name] for owner in owners}
        text = ", ".join(f"{owner} (default: {value})" for owner, value in defaults.items()).replace("%", "%%")
        group.add_argument(f"--{name}", dest=name, nargs="*", action=_Value, help=f"Of {text}.")
        if True in defaults.values():
            group.add_argument(f"--no_{name}", dest=name, action="store_false", help=argparse.SUPPRESS)


class _Value(argparse.Action):
    """Stores True if an option has no value, the value if it has one, else the list."""

    def __call__(self, parser, namespace, values, option_string=None):
        read = [yaml.safe_load(value) for value in values]
        setattr(namespace, self.dest, True if not read else read[0] if len(read) == 1 else read)
