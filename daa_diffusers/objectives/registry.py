"""What noise-space adaptation is compared with: other ways to learn from real photos, trained by the same loop."""

import difflib
import inspect
from typing import Any

from torch import nn

from ..errors import ConfigurationError
from .baseline import Baseline
from .dann import Dann
from .mean_teacher import MeanTeacher
from .neighbor2neighbor import Neighbor2Neighbor
from .pixel_adversarial import PixelAdversarial
from .recorrupted import RecorruptedToRecorrupted

BASELINES: dict[str, type[Baseline]] = {
    "dann": Dann,
    "pixel_adversarial": PixelAdversarial,
    "neighbor2neighbor": Neighbor2Neighbor,
    "recorrupted": RecorruptedToRecorrupted,
    "mean_teacher": MeanTeacher,
}
# options of a run with names of their own
SHARED = ("weight", "weight_schedule", "charbonnier_eps")


def option_names(name: str) -> list[str]:
    """The arguments of a baseline's constructor that belong to it alone."""
    parameters = inspect.signature(BASELINES[name]).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in SHARED]


def default_weight(name: str) -> float:
    """The weight that a baseline has where none is given."""
    return inspect.signature(BASELINES[name]).parameters["weight"].default


def option_problems(name: str, options: dict[str, Any]) -> list[str]:
    """A sentence for each name in `options` that the baseline does not take, with the nearest that it does."""
    known = option_names(name)
    problems = []
    for given in sorted(set(options) - set(known)):
        near = difflib.get_close_matches(given, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
        problems.append(f"`objective_options` has {given!r}, which {name} does not take ({hint})")
    return problems


def build_baseline(name: str, restorer: nn.Module, options: dict[str, Any] | None = None, **shared: Any) -> Baseline:
    """The baseline `name` over a restorer.

    Args:
        name: a key of `BASELINES`.
        options: arguments of its constructor, plain JSON.
        shared: `weight`, `weight_schedule`, `charbonnier_eps`.

    Raises:
        ConfigurationError: an unknown name or option (with the nearest one), or a value out of its range.
    """
    if name not in BASELINES:
        raise ConfigurationError(f"`objective` must be one of {', '.join(BASELINES)}, got {name!r}")
    problems = option_problems(name, options or {})
    if problems:
        raise ConfigurationError("; ".join(problems))
    return BASELINES[name](restorer, **(options or {}), **shared)


__all__ = [
    "BASELINES",
    "Baseline",
    "Dann",
    "MeanTeacher",
    "Neighbor2Neighbor",
    "PixelAdversarial",
    "RecorruptedToRecorrupted",
    "build_baseline",
    "default_weight",
    "option_names",
    "option_problems",
]
