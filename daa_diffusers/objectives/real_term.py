"""Base class of objectives with a supervised loss on synthetic pairs and one weighted term on real photos."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ConfigurationError
from .base import Batch, Objective, StepOutput
from .losses import charbonnier
from .schedules import Generators, adaptation_weight

SCHEDULES = ("paper", "constant")


class RealTermObjective(Objective):
    """Objective `L = L_pair + w(p) L_real`, with L_pair of eq. (5) on synthetic pairs and L_real on real photos.

    The default weights of the subclasses were chosen without a test set: at the end of the ramp, the norm of the
    gradient of w L_real is 0.1 to 0.8 times that of L_pair at the parameters of a trained restorer of width 32,
    depending on the photos.

    Args:
        restorer: network that maps (B, C, H, W) to restored (B, C, H, W).
        weight: w(1), the weight at the end of the ramp.
        weight_schedule: "paper", `w(p) = weight (2 / (1 + exp(-steepness p)) - 1)` as in eq. (6) of docs/method.md, or
            "constant".
        charbonnier_eps: constant of the Charbonnier loss, eq. (5).

    Raises:
        ConfigurationError: an argument is out of range; the message names it.
    """

    steepness = 5.0

    def __init__(
        self, restorer: nn.Module, *, weight: float, weight_schedule: str = "paper", charbonnier_eps: float = 1e-3
    ):
        super().__init__()
        check_choice("weight_schedule", weight_schedule, SCHEDULES)
        check_option("weight", weight, 0.0)
        check_option("charbonnier_eps", charbonnier_eps, 0.0, above=True)
        self.restorer = restorer
        self.weight = weight
        self.weight_schedule = weight_schedule
        self.charbonnier_eps = charbonnier_eps

    @classmethod
    def problems(cls, options: Mapping[str, Any], run: Any) -> Iterator[str]:
        """See `Objective.problems`."""
        yield from choice_problems("weight_schedule", options["weight_schedule"], SCHEDULES)

    @abstractmethod
    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """Computes the losses of a checked batch with real photos; `weight` is w(p), or 0 without `adapt`."""

    def forward(
        self, batch: Batch, *, progress: float = 1.0, generator: Generators = None, adapt: bool = True
    ) -> StepOutput:
        """See `Objective.forward`."""
        batch.check("real")
        assert batch.real is not None
        return self.step(batch, batch.real, self.weight_at(progress) if adapt else 0.0, generator)

    def weight_at(self, progress: float) -> float:
        """Returns w(p)."""
        return adaptation_weight(self.weight_schedule, self.weight, progress, self.steepness)

    def output(
        self,
        restored: torch.Tensor,
        clean: torch.Tensor,
        weight: float,
        *,
        adaptation: torch.Tensor | None = None,
        further: Mapping[str, torch.Tensor] | None = None,
        restored_real: torch.Tensor | None = None,
    ) -> StepOutput:
        """Computes the loss `L_pair + weight * adaptation + sum(further)`; all terms are logged by name.

        Args:
            restored, clean: restored synthetic photos and their targets.
            weight: w(p).
            adaptation: L_real, a scalar.
            further: losses of the objective's other networks, scalars by name.
            restored_real: restored real photos, for logs and tests.
        """
        terms = {"pair": charbonnier(restored, clean, self.charbonnier_eps), **(further or {})}
        loss = torch.as_tensor(sum(terms.values()))
        if adaptation is not None:
            loss = loss + weight * adaptation
            terms["adaptation"] = adaptation
        terms |= {"weight": loss.new_tensor(weight), "total": loss}
        return StepOutput(
            loss,
            {name: term.detach() for name, term in terms.items()},
            restored_synthetic=restored.detach(),
            restored_real=None if restored_real is None else restored_real.detach(),
        )


def check_option(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises ConfigurationError unless `low <= value <= high` (with `above`, `low < value`)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (above and value == low):
        bounds = f"above {low:g}" if above else f"at least {low:g}"
        bounds += f" and at most {high:g}" if high < math.inf else ""
        raise ConfigurationError(f"`{name}` must be {bounds}, got {value!r}")


def check_whole(name: str, value: int, low: int, high: float = math.inf) -> None:
    """Raises ConfigurationError unless `value` is a whole number in `[low, high]`."""
    if not isinstance(value, int):
        raise ConfigurationError(f"`{name}` must be a whole number, got {value!r}")
    check_option(name, value, low, high)


def choice_problems(name: str, value: str, choices: Sequence[str]) -> Iterator[str]:
    """Yields a sentence if `value` is not one of `choices`."""
    if value not in choices:
        yield f"`{name}` must be one of {', '.join(choices)}, got {value!r}"


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ConfigurationError unless `value` is one of `choices`."""
    for problem in choice_problems(name, value, choices):
        raise ConfigurationError(problem)


@torch.no_grad()
def follow_average(average: nn.Module, model: nn.Module, decay: float | torch.Tensor) -> None:
    """Sets the weights of `average` to `decay * average + (1 - decay) * model`, and copies buffers."""
    for averaged, current in zip(average.parameters(), model.parameters(), strict=True):
        averaged.lerp_(current, 1 - decay)
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
