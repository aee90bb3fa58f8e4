"""Kept weights of a run: the moving average, blended with the initial weights; the last ones, or the best."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from ..adapters.updates import statistics
from .selection import BestWeights


class KeptWeights:
    """The moving average of a restorer in training, its blend with the start, and the best weights.

    Args:
        restorer: as it starts: before a checkpoint is loaded into it.
        decay: of the moving average.
        blend: how far the weights kept lie from the start (0) to the average (1).
        best: folder of the best weights so far.

    Attributes:
        ema: the moving average.
        tensors: the tensors of the restorer that are averaged, blended and selected: the trained parameters (an
            adapter's, or all), and the statistics of batch norms, which belong to them.
        best: the best weights so far.
    """

    def __init__(self, restorer: nn.Module, *, decay: float, blend: float, best: Path):
        self.restorer, self.blend = restorer, blend
        self.trained = [p for p in restorer.parameters() if p.requires_grad]
        self.statistics = list(statistics(restorer).values())
        self.tensors = [*self.trained, *self.statistics]
        self.ema = EMAModel(self.trained, decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
        self.start = [tensor.detach().clone() for tensor in self.tensors] if blend < 1 else []
        self.best = BestWeights(best)

    def step(self) -> None:
        """Takes the weights of a step into the average."""
        self.ema.step(self.trained)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The restorer with the weights that would be kept now: the moving average, blended with the start.

        Between two fine-tuned or one fine-tuned and its start, networks average well: Wortsman et al. 2022, "Robust
        fine-tuning of zero-shot models".
        """
        kept = [tensor.clone() for tensor in self.statistics]
        self.ema.store(self.trained)
        self.ema.copy_to(self.trained)
        with torch.no_grad():
            for tensor, start in zip(self.tensors, self.start, strict=bool(self.start)):
                tensor.copy_(start.lerp(tensor, self.blend))
        self.restorer.eval()
        try:
            yield self.restorer
        finally:
            self.restorer.train()
            self.ema.restore(self.trained)
            with torch.no_grad():
                for tensor, before in zip(self.statistics, kept, strict=True):
                    tensor.copy_(before)

    @contextmanager
    def chosen(self) -> Iterator[nn.Module]:
        """The restorer with the weights that the run ends with: the best ones, if any, else `applied`."""
        with self.applied() as restorer:
            if self.best.record:
                self.best.copy_to(self.tensors)
            yield restorer
