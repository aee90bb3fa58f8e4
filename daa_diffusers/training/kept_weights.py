"""Weights that a run keeps: its moving average, blended with the initial weights, at the last or the best step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from ..adapters.updates import statistics
from .selection import BestWeights


class KeptWeights:
    """Moving average of a restorer during training, its blend with the initial weights, and the best of these weights.

    Args:
        restorer: initial restorer, before a checkpoint is loaded into it.
        decay: decay of the moving average per step.
        blend: position of the kept weights between the initial weights (0) and the average (1).
        best: folder for the files of the best weights.

    Attributes:
        ema: the moving average.
        tensors: the tensors that are kept: trained parameters of the restorer (of an adapter, or all), and the
            batch-norm statistics that belong to them.
        best: the best weights so far.
    """

    def __init__(self, restorer: nn.Module, *, decay: float, blend: float, best: Path):
        self.restorer, self.blend = restorer, blend
        self.trained = [p for p in restorer.parameters() if p.requires_grad]
        self.statistics = list(statistics(restorer).values())
        self.tensors = [*self.trained, *self.statistics]
        self.ema = EMAModel(self.trained, decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
        self.start = [tensor.detach().clone() for tensor in self.tensors] if blend < 1 else None
        self.best = BestWeights(best)

    def step(self) -> None:
        """Updates the average with the current weights."""
        self.ema.step(self.trained)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Context in which the restorer has the weights to keep: the moving average blended with the initial weights.

        Blending follows Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
        """
        statistics_before = [tensor.clone() for tensor in self.statistics]
        self.ema.store(self.trained)
        self.ema.copy_to(self.trained)
        if self.start is not None:
            with torch.no_grad():
                for tensor, start in zip(self.tensors, self.start, strict=True):
                    tensor.copy_(start.lerp(tensor, self.blend))
        self.restorer.eval()
        try:
            yield self.restorer
        finally:
            self.restorer.train()
            self.ema.restore(self.trained)
            with torch.no_grad():
                for tensor, before in zip(self.statistics, statistics_before, strict=True):
                    tensor.copy_(before)

    @contextmanager
    def chosen(self) -> Iterator[nn.Module]:
        """Context in which the restorer has the final weights: the best ones, if any, else as in `applied`."""
        with self.applied() as restorer:
            if self.best.record:
                self.best.copy_to(self.tensors)
            yield restorer
