"""How clean photos become synthetic degraded ones: a registry of degradations that configs name.

A degradation draws everything from the generator that it is given, so that a sample is a function of its number alone.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch

from ..errors import ConfigurationError


@runtime_checkable
class Degradation(Protocol):
    """Anything that degrades a batch of clean photos and can be written into a config."""

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Degrades `clean` (B, C, H, W), floating point in [0, 1]; the result may exceed [0, 1].

        Each sample draws its own parameters. Every draw is made on the generator's device.
        """
        ...

    def to_config(self) -> dict[str, Any]:
        """JSON-plain mapping from which `degradation_from_config` builds an equal degradation."""
        ...


@dataclass(frozen=True)
class ConfigurableDegradation(ABC):
    """Base of the dataclass degradations: `to_config` and `from_config` from their fields."""

    type_name: ClassVar[str]

    @abstractmethod
    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As in `Degradation`."""

    def check_fields(self, bounds: Mapping[str, tuple[float, float]], probabilities: Sequence[str]) -> None:
        """Checks and sets ranges within their bounds, and checks probabilities; for `__post_init__`.

        Raises:
            ConfigurationError: on a value that is no number, no pair, or out of range.
        """
        for name, (low, high) in bounds.items():  # frozen: the checked, plain values are set past the dataclass
            object.__setattr__(self, name, check_range(name, getattr(self, name), low, high))
        for name in probabilities:
            check_number(name, getattr(self, name), 0, 1)

    def to_config(self) -> dict[str, Any]:
        """`{"type": name, **fields}`, JSON-plain."""
        options = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {"type": self.type_name, **options}

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> Degradation:
        """Builds one from its fields (without "type"); a ConfigurationError names an unknown field."""
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigurationError(
                    f"degradation {cls.type_name!r} has no field {name!r}{_nearest(name, known)}; its fields: {known}"
                )
        return cls(**options)


Class = TypeVar("Class", bound=type)
DEGRADATIONS: dict[str, Any] = {}


def register_degradation(name: str) -> Callable[[Class], Class]:
    """Class decorator: configs with `"type": name` build this class, by its `from_config`; sets its `type_name`."""

    def register(cls: Class) -> Class:
        setattr(cls, "type_name", name)  # noqa: B010  a type variable has no such attribute
        DEGRADATIONS[name] = cls
        return cls

    return register


def degradation_from_config(config: Mapping[str, Any]) -> Degradation:
    """Builds the degradation that a config describes, e.g. `{"type": "gaussian", "sigma_max": 50}`.

    Raises:
        ConfigurationError: on a missing or unknown type, an unknown field or a value out of range, naming it.
    """
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"a degradation must be a mapping with a `type`, got {config!r}")
    options = dict(config)
    name = options.pop("type", None)
    if name not in DEGRADATIONS:
        raise ConfigurationError(
            f"`type` of a degradation must be one of {sorted(DEGRADATIONS)}, got {name!r}"
            f"{_nearest(str(name), list(DEGRADATIONS))}"
        )
    return DEGRADATIONS[name].from_config(options)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _parts(type_name: str, options: Mapping[str, Any], entries: str) -> Sequence[Any]:
    """The field "parts" of a degradation that has only that; a ConfigurationError names what is wrong."""
    for name in options:
        if name != "parts":
            raise ConfigurationError(
                f"degradation {type_name!r} has no field {name!r}{_nearest(name, ['parts'])}; its fields: ['parts']"
            )
    parts = options.get("parts")
    if isinstance(parts, str | Mapping) or not isinstance(parts, Sequence):
        raise ConfigurationError(f"`parts` must be a list of {entries}, got {parts!r}")
    return parts


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float in [low, high], else a ConfigurationError naming `name`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        bounds = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"of at least {low:g}"
        raise ConfigurationError(f"`{name}` must be a number {bounds}, got {value!r}")
    if not math.isfinite(value):
        raise ConfigurationError(f"`{name}` must be finite, got {value!r}")
    return float(value)


def check_range(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """`value` as a pair (first <= second) of numbers in [low, high], else a ConfigurationError naming `name`."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ConfigurationError(f"`{name}` must be a pair [low, high], got {value!r}")
    first, second = (check_number(name, v, low, high) for v in value)
    if first > second:
        raise ConfigurationError(f"`{name}` must be [low, high] with low <= high, got {list(value)!r}")
    return first, second


def check_flag(name: str, value: Any) -> None:
    """A ConfigurationError unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"`{name}` must be true or false, got {value!r}")


def check_whole_range(name: str, value: Any, low: int, high: int) -> tuple[int, int]:
    """As `check_range`, of whole numbers."""
    first, last = check_range(name, value, low, high)
    if first != int(first) or last != int(last):
        raise ConfigurationError(f"`{name}` must be whole numbers, got {list(value)!r}")
    return int(first), int(last)


def check_clean(clean: torch.Tensor) -> torch.Tensor:
    """`clean` if it is a floating-point (B, C, H, W), else a ValueError."""
    if clean.ndim != 4 or not clean.is_floating_point():
        raise ValueError(f"`clean` must be floating point of (B, C, H, W), got {clean.dtype} of {tuple(clean.shape)}")
    return clean


def uniform(shape: Sequence[int], low: float, high: float, clean: torch.Tensor, generator: torch.Generator):
    """U(low, high) of `shape`, drawn on the generator's device, with the device and dtype of `clean`."""
    drawn = torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low
    return drawn.to(clean)


def log_uniform(shape: Sequence[int], low: float, high: float, clean: torch.Tensor, generator: torch.Generator):
    """exp(U(log low, log high)) of `shape`, drawn as `uniform` does; `low` must be positive."""
    return uniform(shape, math.log(low), math.log(high), clean, generator).exp()


def normal(shape: Sequence[int], clean: torch.Tensor, generator: torch.Generator):
    """N(0, 1) of `shape`, drawn on the generator's device, with the device and dtype of `clean`."""
    return torch.randn(shape, generator=generator, device=generator.device).to(clean)


@register_degradation("gaussian")
@dataclass(frozen=True)
class BlindGaussian(ConfigurableDegradation):
    """White Gaussian noise of unknown strength, sigma ~ U(sigma_min, sigma_max) / 255 per sample, unclipped.

    Source: METHOD, "The official sizes and recipes" (denoise: sigma ~ U(0, 75) / 255).

    Args:
        sigma_min, sigma_max: in units of 1/255.
    """

    sigma_min: float = 0.0
    sigma_max: float = 75.0

    def __post_init__(self):
        check_number("sigma_min", self.sigma_min, 0, math.inf)
        check_number("sigma_max", self.sigma_max, 0, math.inf)
        if self.sigma_min > self.sigma_max:
            raise ConfigurationError(
                f"`sigma_min` must be at most `sigma_max`, got {self.sigma_min} and {self.sigma_max}"
            )

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> the same, noisy, unclipped."""
        check_clean(clean)
        sigma = uniform((clean.shape[0], 1, 1, 1), self.sigma_min / 255, self.sigma_max / 255, clean, generator)
        return clean + sigma * normal(clean.shape, clean, generator)


@register_degradation("mixture")
class Mixture:
    """Draws one of several degradations for each sample.

    Args:
        parts: (weight, degradation) pairs; weights are positive and need not sum to one.
    """

    type_name: ClassVar[str]

    def __init__(self, parts: Sequence[tuple[float, Degradation]]):
        if not parts:
            raise ConfigurationError("`parts` must hold at least one (weight, degradation), got none")
        for weight, degradation in parts:
            if check_number("weight", weight, 0, math.inf) == 0:
                raise ConfigurationError("`weight` must be positive, got 0")
            if not isinstance(degradation, Degradation):
                raise ConfigurationError(f"`parts` must hold degradations, got {degradation!r}")
        self.parts = [(float(weight), degradation) for weight, degradation in parts]

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> the same shape, each sample degraded by one part."""
        check_clean(clean)
        weights = torch.tensor([weight for weight, _ in self.parts], device=generator.device)
        chosen = torch.multinomial(weights, clean.shape[0], replacement=True, generator=generator).to(clean.device)
        degraded = torch.empty_like(clean)
        for index, (_, degradation) in enumerate(self.parts):
            where = chosen == index
            if where.any():
                degraded[where] = degradation(clean[where], generator)
        return degraded

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixture) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mixture({self.parts!r})"

    def to_config(self) -> dict[str, Any]:
        """`{"type": "mixture", "parts": [{"weight": w, "degradation": {...}}, ...]}`."""
        return {
            "type": self.type_name,
            "parts": [{"weight": weight, "degradation": part.to_config()} for weight, part in self.parts],
        }

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> "Mixture":
        """Builds one from `{"parts": [...]}`; a ConfigurationError names what is wrong."""
        built = []
        for part in _parts(cls.type_name, options, "{weight, degradation}"):
            if not isinstance(part, Mapping) or set(part) != {"weight", "degradation"}:
                raise ConfigurationError(f"an entry of `parts` must be {{weight, degradation}}, got {part!r}")
            built.append((part["weight"], degradation_from_config(part["degradation"])))
        return cls(built)


@register_degradation("sequence")
class DegradationSequence:
    """Applies several degradations one after another, e.g. rain, then a camera's noise.

    Each takes what the one before made, which may exceed [0, 1] where that one does not clip.

    Args:
        parts: the degradations, first to last.
    """

    type_name: ClassVar[str]

    def __init__(self, parts: Sequence[Degradation]):
        if not parts:
            raise ConfigurationError("`parts` must hold at least one degradation, got none")
        for degradation in parts:
            if not isinstance(degradation, Degradation):
                raise ConfigurationError(f"`parts` must hold degradations, got {degradation!r}")
        self.parts = list(parts)

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> the same shape, degraded by every part."""
        degraded = check_clean(clean)
        for degradation in self.parts:
            degraded = degradation(degraded, generator)
        return degraded

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DegradationSequence) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"DegradationSequence({self.parts!r})"

    def to_config(self) -> dict[str, Any]:
        """`{"type": "sequence", "parts": [{...}, ...]}`."""
        return {"type": self.type_name, "parts": [part.to_config() for part in self.parts]}

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> "DegradationSequence":
        """Builds one from `{"parts": [...]}`; a ConfigurationError names what is wrong."""
        return cls([degradation_from_config(part) for part in _parts(cls.type_name, options, "degradations")])
