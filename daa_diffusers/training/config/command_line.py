"""Command line of training: parser and `--help`, with the defaults of each preset."""

import argparse
import json
import sys
from dataclasses import Field
from typing import Any, get_type_hints

from ...errors import ConfigurationError
from .field import bare_type, facts
from .names import NAMES, refuse_unknown
from .objective import add_objective_options
from .options import TrainingConfig
from .presets import ADAPTER_LEARNING_RATES, PRESETS

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def typed_options(arguments: list[str] | None = None) -> dict[str, Any]:
    """Parses the given options, and returns field name -> value; accepts aliases, `--no_name`, and - or _ in names.

    Exits as argparse does on `--help` and on values of a wrong type.

    Raises:
        ConfigurationError: an unknown option (the message names a replacement), or stray arguments.
    """
    given = sys.argv[1:] if arguments is None else arguments
    typed, unknown = _parser().parse_known_args([_with_underscores(argument) for argument in given])
    refuse_unknown([u.removeprefix("--").partition("=")[0] for u in unknown if u.startswith("--")], "the command line")
    if unknown:
        raise ConfigurationError(f"stray arguments on the command line: {' '.join(unknown)}")
    return vars(typed)


def _with_underscores(argument: str) -> str:
    """Converts `--some-name=a-value` to `--some_name=a-value`; other arguments are unchanged."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.removeprefix("--").partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def json_mapping(text: str) -> dict[str, Any]:
    """Parses a mapping written as JSON; a bare name, such as `camera`, becomes its `type`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = {"type": text}
    if not isinstance(value, dict):
        raise ConfigurationError(f'expected a JSON mapping such as \'{{"type": "gaussian"}}\', got {text!r}')
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # only given options override the YAML file
        usage="%(prog)s [--option value ...]",
        description="Train a restorer, or adapt it to real photos. Names may be written with - or _; --no_name turns "
        "an option off.",
    )
    hints = get_type_hints(TrainingConfig)
    for name, field in NAMES.items():
        kind, element = bare_type(hints[name])
        flags = [f"--{each}" for each in (name, *facts(field).aliases)]
        text = _help(field).replace("%", "%%")
        if kind is bool:
            parser.add_argument(*flags, type=_boolean, nargs="?", const=True, metavar="true|false", help=text)
            parser.add_argument(f"--no_{name}", action="store_false", dest=name, help=argparse.SUPPRESS)
        elif element is not None:
            parser.add_argument(*flags, type=element, nargs="+", action="extend", metavar="VALUE", help=text)
        else:
            # `degradation` is parsed in `resolve`, because argparse would hide the reason for an error
            reader = kind if kind is not dict else str if name == "degradation" else json_mapping
            shown = "JSON" if kind is dict else kind.__name__.upper()
            parser.add_argument(*flags, type=reader, metavar=shown, help=text)
    add_objective_options(parser)
    return parser


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return _BOOLEANS[text.lower()]


def _help(field: Field) -> str:
    known = facts(field)
    choices = f" One of: {', '.join(known.choices)}." if known.choices else ""
    return f"{known.help}{choices} ({_defaults(field)})"


def _defaults(field: Field) -> str:
    """Returns the default of the default preset, then the presets and options with other defaults."""
    of_field = getattr(TrainingConfig(), field.name)
    default = PRESETS[TrainingConfig.preset].get(field.name, of_field)
    others: dict[str, list[str]] = {}  # value as shown -> presets and options
    for preset, options in PRESETS.items():
        value = options.get(field.name, of_field)
        if value != default:
            others.setdefault(_shown(value), []).append(preset)
    if field.name == "learning_rate":
        for kind, rate in ADAPTER_LEARNING_RATES.items():
            others.setdefault(_shown(rate), []).append(f"--adapter {kind}")
    return "; ".join([f"default: {_shown(default)}", *(f"{', '.join(by)}: {shown}" for shown, by in others.items())])


def _shown(value: Any) -> str:
    """Formats a value as it is given on the command line."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)
