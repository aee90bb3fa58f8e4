"""Registry of objectives: name in a config -> class."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import ConfigurationError, did_you_mean
from .base import Objective
from .dann import Dann
from .mean_teacher import MeanTeacher
from .neighbor2neighbor import Neighbor2Neighbor
from .noise_space import NoiseSpaceAdaptation
from .pixel_adversarial import PixelAdversarial
from .predictor_training import NoisePredictorTraining
from .recorrupted import RecorruptedToRecorrupted
from .renoised import Renoised
from .score import ScoreDistillation
from .supervised import Supervised

# To add an objective: its class in its own file, and one line here.
_CLASSES: tuple[type[Objective], ...] = (
    NoiseSpaceAdaptation,
    Renoised,
    ScoreDistillation,
    Supervised,
    Dann,
    PixelAdversarial,
    Neighbor2Neighbor,
    RecorruptedToRecorrupted,
    MeanTeacher,
    NoisePredictorTraining,
)
OBJECTIVES: dict[str, type[Objective]] = {objective.name: objective for objective in _CLASSES}


def objective_class(name: str) -> type[Objective]:
    """Returns the class of the objective `name`.

    Raises:
        ConfigurationError: an unknown name; the message suggests the most similar one.
    """
    if name not in OBJECTIVES:
        raise ConfigurationError(
            f"`objective` must be one of {', '.join(OBJECTIVES)}, got {name!r}{did_you_mean(str(name), OBJECTIVES)}"
        )
    return OBJECTIVES[name]


def with_defaults(objective: Mapping[str, Any]) -> dict[str, Any]:
    """Completes the config of an objective, `{"type": name, **options}`, by the defaults of omitted options.

    Raises:
        ConfigurationError: an unknown objective or option; the message suggests the most similar one.
    """
    name = objective.get("type")
    defaults = objective_class(str(name)).defaults()
    problems = []
    for option in sorted(set(objective) - {"type", *defaults}):
        hint = did_you_mean(option, defaults) or f" (its options are {', '.join(defaults)})"
        problems.append(f"`objective` {name} has no option {option!r}{hint}")
    if problems:
        raise ConfigurationError("; ".join(problems))
    options = {key: _number(value, defaults[key]) for key, value in objective.items() if key != "type"}
    return {"type": name, **defaults, **options}


def _number(value: Any, default: Any) -> Any:
    """Converts `value` to a float if `default` is one; YAML 1.1 reads `1e-4` as text."""
    if not isinstance(default, float) or not isinstance(value, int | str) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def build_objective(objective: Mapping[str, Any], restorer: nn.Module) -> Objective:
    """Builds the objective of a config `{"type": name, **options}` for a restorer.

    Raises:
        ConfigurationError: an unknown objective or option, or a value out of range; the message names it.
    """
    options = with_defaults(objective)
    return objective_class(options.pop("type")).from_options(restorer, **options)
