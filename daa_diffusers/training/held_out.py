"""Supervised loss on held-out synthetic pairs, relative to the initial restorer."""

import copy
import math
import time

import torch
from torch import nn

from ..models.restorer import in_eval_mode
from ..sources.sampling import TrainingPatches, generator_for
from .batches import Batches
from .config import TrainingConfig

PAIRS = 32  # number of held-out pairs
AT_ONCE = 8  # pairs per batch

Pairs = list[dict[str, torch.Tensor]]


def pairs_apart(dataset: TrainingPatches, draws: str, count: int, at_once: int = AT_ONCE) -> Pairs:
    """Returns batches of "synthetic" and "clean" patches in [0, 1], sampled like those of `dataset` with other draws.

    Args:
        dataset: training samples; not changed.
        draws: name of the random draws; every name gives different pairs.
        count: number of pairs.
        at_once: pairs per batch.
    """
    other = copy.copy(dataset)
    other.real = other.unpaired_clean = None
    other.seed, other.length = generator_for(dataset.seed, draws).initial_seed(), count
    samples = [other[number] for number in range(count)]
    return [
        {
            role: torch.stack([torch.as_tensor(sample[role]) for sample in samples[first : first + at_once]])
            for role in ("synthetic", "clean")
        }
        for first in range(0, count, at_once)
    ]


class HeldOut:
    """Supervised loss of a restorer in training relative to the initial restorer, on fixed synthetic pairs.

    The pairs are a function of the run's seed and have the run's own degradation. Every evaluation uses the same pairs,
    so that their random noise levels do not add to the error of the difference.

    Args:
        batches: batches of the run, after `preparation.use_files`.
        restorer: the initial restorer.
        eps: constant of the Charbonnier loss, eq. (5).

    Attributes:
        start: L_pair of the initial restorer for every pair (N,).
        seconds: duration of one evaluation.
    """

    def __init__(self, batches: Batches, restorer: nn.Module, eps: float):
        self.eps = eps
        self.pairs = [batches.in_range(batch) for batch in pairs_apart(batches.dataset, "held out", PAIRS)]
        began = time.perf_counter()
        self.start = self._losses(restorer)
        self.seconds = time.perf_counter() - began

    @classmethod
    def from_config(cls, config: TrainingConfig, batches: Batches, restorer: nn.Module) -> "HeldOut | None":
        """Builds the held-out loss of a run; None without `init_from` or `hold_to_start`, or with a frozen restorer."""
        is_trained = any(p.requires_grad for p in restorer.parameters())
        if not (config.init_from and config.hold_to_start and is_trained):
            return None
        return cls(batches, restorer, config.objective["charbonnier_eps"])

    @torch.no_grad()
    def _losses(self, restorer: nn.Module) -> torch.Tensor:
        """Returns L_pair, eq. (5), of every pair: (N,), float64, on the CPU."""
        with in_eval_mode(restorer):
            differences = [restorer(pair["synthetic"]).double() - pair["clean"].double() for pair in self.pairs]
        return torch.cat([(d.square() + self.eps**2).sqrt().mean((1, 2, 3)).cpu() for d in differences])

    def rise(self, restorer: nn.Module) -> float:
        """Returns the rise of the mean loss relative to the initial restorer in dB; infinity if it is not finite."""
        ratio = float(self._losses(restorer).mean() / self.start.mean())
        return 20 * math.log10(ratio) if math.isfinite(ratio) and ratio > 0 else math.inf
