"""Validation of the fields of a degradation and of its input photos."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import ConfigurationError, did_you_mean


def check_field_names(type_name: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ConfigurationError, which suggests a similar name, if a config of a degradation has an unknown field."""
    for name in options:
        if name not in known:
            raise ConfigurationError(
                f"degradation {type_name!r} has no field {name!r}{did_you_mean(name, known)}; its fields: {known}"
            )


def check_parts(type_name: str, options: Mapping[str, Any], entries: str) -> Sequence[Any]:
    """Returns the list "parts" of a mixture or sequence, whose entries the caller checks.

    Args:
        type_name: type of the degradation, for messages.
        options: its config without the type; "parts" must be the only field.
        entries: description of the entries of "parts", for messages.

    Raises:
        ConfigurationError: another field, or "parts" is not a list.
    """
    check_field_names(type_name, options, ["parts"])
    parts = options.get("parts")
    if isinstance(parts, str | Mapping) or not isinstance(parts, Sequence):
        raise ConfigurationError(f"`parts` must be a list of {entries}, got {parts!r}")
    return parts


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Returns `value` as a float; raises ConfigurationError unless it is a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        bounds = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"of at least {low:g}"
        raise ConfigurationError(f"`{name}` must be a number {bounds}, got {value!r}")
    if not math.isfinite(value):
        raise ConfigurationError(f"`{name}` must be finite, got {value!r}")
    return float(value)


def check_range(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """Returns `value` as a pair; raises ConfigurationError unless it is two ascending numbers in [low, high]."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ConfigurationError(f"`{name}` must be a pair [low, high], got {value!r}")
    first, second = (check_number(name, v, low, high) for v in value)
    if first > second:
        raise ConfigurationError(f"`{name}` must be [low, high] with low <= high, got {list(value)!r}")
    return first, second


def check_flag(name: str, value: Any) -> None:
    """Raises ConfigurationError unless `value` is a boolean."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"`{name}` must be true or false, got {value!r}")


def check_whole_range(name: str, value: Any, low: int, high: int) -> tuple[int, int]:
    """Like `check_range` for whole numbers."""
    first, last = check_range(name, value, low, high)
    if first != int(first) or last != int(last):
        raise ConfigurationError(f"`{name}` must be whole numbers, got {list(value)!r}")
    return int(first), int(last)


def check_clean(clean: torch.Tensor) -> torch.Tensor:
    """Returns `clean`; raises ValueError unless it is floating point (B, C, H, W)."""
    if clean.ndim != 4 or not clean.is_floating_point():
        raise ValueError(f"`clean` must be floating point (B, C, H, W), got {clean.dtype} of {tuple(clean.shape)}")
    return clean
