"""What the baselines share: the supervised loss on synthetic pairs, a weight that rises, and one way to report."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ConfigurationError
from ..models.restorer import RestorerContract
from .joint_step import AdaptationOutput, JointStep, check_photos
from .losses import charbonnier
from .schedules import Generators, NoiseDraws, adaptation_weight

SCHEDULES = ("paper", "constant")


@dataclass
class Photos:
    """A batch, each (B, C, H, W) in the restorer's value range; `unpaired_clean` where there are any."""

    synthetic: torch.Tensor
    clean: torch.Tensor
    real: torch.Tensor
    unpaired_clean: torch.Tensor | None = None


class Baseline(JointStep):
    """`L = L_pair + w(p) L_real`, with L_pair of eq. (5) on synthetic pairs and a term on unlabelled real photos.

    The default weights, once risen, give the term on real photos a gradient of 0.1 to 0.8 times the norm of that of
    L_pair at the parameters of a trained restorer of width 32, by the photos; no test set was asked.

    Args:
        restorer: maps (B, C, H, W) to restored (B, C, H, W).
        weight: w at the end of the ramp.
        weight_schedule: "paper", `w(p) = weight (2 / (1 + exp(-steepness p)) - 1)` as in eq. (6), or "constant".
        charbonnier_eps: of eq. (5).

    Raises:
        ConfigurationError: an argument out of its range; named.
    """

    steepness = 5.0

    def __init__(
        self, restorer: nn.Module, *, weight: float, weight_schedule: str = "paper", charbonnier_eps: float = 1e-3
    ):
        super().__init__()
        if weight_schedule not in SCHEDULES:
            raise ConfigurationError(
                f"`weight_schedule` must be one of {', '.join(SCHEDULES)} with this objective, got {weight_schedule!r}"
            )
        check_option("weight", weight, 0.0)
        check_option("charbonnier_eps", charbonnier_eps, 0.0, above=True)
        self.restorer = restorer
        self.weight = weight
        self.weight_schedule = weight_schedule
        self.charbonnier_eps = charbonnier_eps

    @abstractmethod
    def step(self, photos: Photos, weight: float, generator: Generators) -> AdaptationOutput:
        """The step on checked photos with w(p), 0 while the restorer is not to adapt."""

    def forward(
        self,
        synthetic: torch.Tensor,
        clean: torch.Tensor,
        real: torch.Tensor | None = None,
        unpaired_clean: torch.Tensor | None = None,
        *,
        progress: float = 1.0,
        draws: NoiseDraws | None = None,
        generator: Generators = None,
        adapt: bool = True,
    ) -> AdaptationOutput:
        """See `JointStep.forward`; `draws` must be None.

        Raises:
            ValueError: on photos that are missing, differ in shape or are not finite.
        """
        if draws is not None:
            raise ValueError("`draws` belong to noise-space adaptation; give a `generator`")
        photos = {"synthetic": synthetic, "clean": clean, "real": real}
        check_photos(photos | ({} if unpaired_clean is None else {"unpaired_clean": unpaired_clean}), clean)
        assert real is not None  # check_photos has seen to it
        weight = self.weight_at(progress) if adapt else 0.0
        return self.step(Photos(synthetic, clean, real, unpaired_clean), weight, generator)

    def weight_at(self, progress: float) -> float:
        """w(p)."""
        return adaptation_weight(self.weight_schedule, self.weight, progress, self.steepness)

    def output(
        self,
        restored: torch.Tensor,
        clean: torch.Tensor,
        weight: float,
        *,
        adaptation: torch.Tensor | None = None,
        beside: Mapping[str, torch.Tensor] | None = None,
        restored_real: torch.Tensor | None = None,
    ) -> AdaptationOutput:
        """`L_pair + weight * adaptation + sum(beside)`, and all of them by name.

        Args:
            restored, clean: restored synthetic photos and their targets.
            weight: w(p).
            adaptation: L_real, a scalar.
            beside: scalars that the further networks learn from.
            restored_real: for the caller to look at.
        """
        pair = charbonnier(restored, clean, self.charbonnier_eps)
        parts = dict(beside or {})
        loss = pair + sum(parts.values())
        if adaptation is not None:
            loss = loss + weight * adaptation
            parts["adaptation"] = adaptation
        losses = {"pair": pair.detach(), **{name: value.detach() for name, value in parts.items()}}
        losses |= {"weight": pair.new_tensor(weight), "total": loss.detach()}
        return AdaptationOutput(
            loss,
            losses,
            restored_synthetic=restored.detach(),
            restored_real=None if restored_real is None else restored_real.detach(),
        )


def check_option(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises ConfigurationError unless `low <= value <= high` (`low < value` where `above`)."""
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


def span(restorer: nn.Module) -> tuple[float, float]:
    """The restorer's value range (low, high): that of its config, else (0, 1)."""
    return RestorerContract.of(restorer).value_range
