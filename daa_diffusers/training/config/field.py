"""Facts about a training option, stored on its dataclass field: help, choices, bounds, changes in a resumed run."""

import contextlib
import math
import types
from dataclasses import Field, dataclass, field
from typing import Any, Union, get_args, get_origin


@dataclass(frozen=True)
class Option:
    """Facts about an option besides its name, type and default.

    Attributes:
        help: text in `--help`.
        choices: allowed values; empty: any.
        at_least, above, at_most, below: bounds of a number.
        path: whether values name files or folders; `~` and environment variables are expanded.
        photos: whether values name photo sources; a resumed run compares the photos, not the names.
        free: whether a resumed run may have another value, because it affects reports or speed, not the weights.
        selects: whether the option is `free` only if `select_by` is "last"; otherwise it affects the choice of weights.
        preparation: whether the option prepares real photos; baseline objectives use its default, not the preset's.
        aliases: names of options of diffusers' training scripts with the same meaning.
    """

    help: str
    choices: tuple[str, ...] = ()
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    path: bool = False
    photos: bool = False
    free: bool = False
    selects: bool = False
    preparation: bool = False
    aliases: tuple[str, ...] = ()


def option(default: Any, help: str, **facts: Any) -> Any:
    """Returns a dataclass field with the facts of an option; lists and mappings are copied for every instance."""
    metadata = {"option": Option(help, **facts)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


def facts(of: Field) -> Option:
    """Returns the facts that `option` stored on a field."""
    return of.metadata["option"]


def bare_type(hint: Any) -> tuple[type, type | None]:
    """Returns a type hint without None, and the type of a list's elements: `list[int] | None` -> (list, int)."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    origin = get_origin(hint) or hint
    return origin, (get_args(hint)[0] if origin is list else None)


TYPES = {int: "an integer", float: "a number", str: "text", bool: "true or false", list: "a list", dict: "a mapping"}


def converted(value: Any, hint: Any) -> Any:
    """Converts `value` to a type hint without loss: integers and text become floats, as YAML 1.1 reads `1e-4` as text.

    Raises:
        ValueError: the value cannot be converted; the message names the expected type.
    """
    kind, element = bare_type(hint)
    if value is None and type(None) in get_args(hint):
        return None
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)
    if kind is list and isinstance(value, list | tuple):
        return [converted(each, element) for each in value]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"must be {TYPES[kind]}, got {value!r}")
    return value


def problem(name: str, value: Any, known: Option) -> str | None:
    """Returns a sentence if a value is not one of the choices or is out of bounds, else None. Types are not checked."""
    if known.choices and value is not None and value not in known.choices:
        return f"`{name}` must be one of {', '.join(known.choices)}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return f"`{name}` must be finite, got {value}"
    if known.at_least <= value <= known.at_most and known.above < value < known.below:
        return None
    bounds = ((known.at_least, "at least"), (known.above, "above"), (known.at_most, "at most"), (known.below, "below"))
    text = " and ".join(f"{word} {bound:g}" for bound, word in bounds if math.isfinite(bound))
    return f"`{name}` must be {text}, got {value}"
