"""Registry of degradations by name, and the base class of dataclass degradations.

A degradation draws only from the given generator, so that a sample depends only on the seed and its number.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch

from ..errors import ConfigurationError, did_you_mean
from .checks import check_field_names, check_number, check_range


@runtime_checkable
class Degradation(Protocol):
    """Anything that degrades a batch of clean photos and can be written into a config."""

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Degrades `clean` (B, C, H, W), floating point in [0, 1]; the result may exceed [0, 1].

        Each sample draws its own parameters. Every draw is made on the generator's device.
        """
        ...

    def to_config(self) -> dict[str, Any]:
        """Returns a mapping of plain JSON values from which `degradation_from_config` builds an equal degradation."""
        ...


@dataclass(frozen=True)
class ConfigurableDegradation(ABC):
    """Base class of dataclass degradations, with `to_config` and `from_config` for their fields."""

    type_name: ClassVar[str]

    @abstractmethod
    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As in `Degradation`."""

    def check_fields(self, bounds: Mapping[str, tuple[float, float]], probabilities: Sequence[str]) -> None:
        """Validates ranges and probabilities, for `__post_init__`; ranges become tuples of floats.

        Args:
            bounds: field name -> smallest and largest allowed value of the range.
            probabilities: names of fields with values in [0, 1].

        Raises:
            ConfigurationError: a value is not a number, not a pair, or out of range.
        """
        for name, (low, high) in bounds.items():
            # plain assignment fails: the dataclass is frozen
            object.__setattr__(self, name, check_range(name, getattr(self, name), low, high))
        for name in probabilities:
            check_number(name, getattr(self, name), 0, 1)

    def to_config(self) -> dict[str, Any]:
        """Returns `{"type": name, **fields}`, with plain JSON values."""
        return {"type": self.type_name, **{name: _plain(value) for name, value in asdict(self).items()}}

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> Degradation:
        """Builds the degradation from its fields (without "type"); a ConfigurationError names an unknown field."""
        check_field_names(cls.type_name, options, [f.name for f in fields(cls)])
        return cls(**options)


def _plain(value: Any) -> Any:
    """Converts tuples, also nested ones, to lists, as JSON has them."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def check_degradation(part: Any) -> None:
    """Raises ConfigurationError unless `part`, an entry of `parts` of a mixture or sequence, is a degradation."""
    if not isinstance(part, Degradation):
        raise ConfigurationError(f"`parts` must hold degradations, got {part!r}")


Class = TypeVar("Class", bound=type)
DEGRADATIONS: dict[str, Any] = {}


def register_degradation(name: str) -> Callable[[Class], Class]:
    """Class decorator that registers a class for configs with `"type": name`, and sets its `type_name`."""

    def register(cls: Class) -> Class:
        setattr(cls, "type_name", name)  # noqa: B010  mypy: the type variable has no such attribute
        DEGRADATIONS[name] = cls
        return cls

    return register


def degradation_from_config(config: Mapping[str, Any]) -> Degradation:
    """Builds the degradation that a config describes, e.g. `{"type": "gaussian", "sigma_max": 50}`.

    Raises:
        ConfigurationError: a missing or unknown type, an unknown field, or a value out of range; the message names it.
    """
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"a degradation must be a mapping with a `type`, got {config!r}")
    options = dict(config)
    name = options.pop("type", None)
    if not isinstance(name, str) or name not in DEGRADATIONS:
        raise ConfigurationError(
            f"`type` of a degradation must be one of {sorted(DEGRADATIONS)}, got {name!r}"
            f"{did_you_mean(str(name), DEGRADATIONS)}"
        )
    return DEGRADATIONS[name].from_config(options)
