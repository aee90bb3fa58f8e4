"""Safeguard against final weights that are worse than the initial ones."""

import logging
import math
from typing import Any

import torch
from torch import nn

from .held_out import HeldOut
from .kept_weights import KeptWeights
from .processes import from_main, on_any
from .run_state import Snapshot
from .steps import Steps

logger = logging.getLogger(__name__)

# Maximum rise of the held-out loss relative to the initial weights, in dB: for weights to save (`TOLERATED`), and for
# weights in training (`EXPLODED`).
TOLERATED, EXPLODED = 0.05, 1.0
CHECKS = 8  # number of regular checks in a run, evenly spaced
OUTLIER_FACTORS = {"loss/pair": 10.0, "gradient/all": 30.0}  # a step above this multiple of the running mean is skipped
DECAY = 0.9  # decay per step of the running means of logarithms
LOWER = 0.25  # factor by which every return to the last good step multiplies the restorer's learning rate


class Safeguard:
    """Safeguard of a run that starts from a given restorer, based on the loss on held-out pairs.

    A step whose loss or gradient is not finite, or an outlier (`OUTLIER_FACTORS`), is skipped. The weights are checked
    after every skipped step, and `CHECKS` times in a run. If the loss of the weights in training rose by more than
    `EXPLODED`, the run returns to the last good step, with a lower learning rate. A step is good if the loss of its
    kept weights (`KeptWeights.applied`) rose by at most `TOLERATED`; only weights of good steps are saved at the end.

    Args:
        held_out: held-out pairs; only the main process evaluates them.
        steps, kept: steps and kept weights of the run, before its first step.

    Attributes:
        state: JSON-plain state for checkpoints: "factor" of the learning rate; "good", the last good step (0: the
            initial weights); "returns" so far; and running "means" of logarithms.
        good: snapshot of the last good step.
    """

    def __init__(self, held_out: HeldOut, steps: Steps, kept: KeptWeights):
        self.held_out, self.steps, self.kept = held_out, steps, kept
        self.accelerator = steps.accelerator
        self.good = self._snapshot()
        self.state: dict[str, Any] = {"factor": 1.0, "good": 0, "returns": [], "means": self._first_means()}

    def resume(self, state: dict[str, Any], good: Snapshot | None, step: int) -> None:
        """Resumes from a checkpoint at `step`; with an empty state, from a run without a safeguard, starts anew."""
        self.state |= state
        if good is not None:
            self.good = good
        elif step and self.state["good"] == step:
            self.good = self._snapshot()
        self.steps.factor *= self.state["factor"]

    def snapshot_to_save(self, step: int) -> Snapshot | None:
        """Returns the good snapshot for a checkpoint at `step`; None if it is the initial state or that of `step`."""
        return self.good if self.state["good"] not in (0, step) else None

    def is_outlier(self, scalars: dict[str, torch.Tensor]) -> bool:
        """Whether the loss or gradient of a step is an outlier, on any process; updates the running means."""
        means, outlier = self.state["means"], False
        for name, factor in OUTLIER_FACTORS.items():
            value = self.accelerator.reduce(scalars[name].detach().float(), "mean")
            value = math.log(max(float(value), 1e-30))  # a gradient may be 0
            before = means.setdefault(name, value)
            outlier |= value > before + math.log(factor)
            means[name] += (1 - DECAY) * (value - before)
        return on_any(self.accelerator, outlier)

    def is_due(self, step: int) -> bool:
        """Whether a regular check is due after `step`."""
        return self.steps.progress.completes_part(step, CHECKS)

    def check(self, step: int, *, skipped: bool) -> None:
        """Returns to the last good step if the weights in training have exploded; else keeps a snapshot of a good step.

        Args:
            step: number of steps done.
            skipped: whether the last step was skipped; a skipped step cannot be good.
        """
        rise = self._rise(self.steps.bare.restorer)
        if rise > EXPLODED:
            self._return_to_good(step, rise)
        elif not skipped:
            with self.kept.applied() as restorer:
                if self._rise(restorer) <= TOLERATED:
                    self.good, self.state["good"] = self._snapshot(), step

    def finish(self, step: int) -> dict[str, Any]:
        """Restores the last good weights if the final weights of the run are worse than the initial ones.

        Args:
            step: number of steps of the run.

        Returns:
            JSON-plain "kept_step" and "rise", as in `TrainingResult`: the good step whose weights were restored (None:
            not needed), and the rise in dB of the final weights before that (None: not finite).
        """
        with self.kept.chosen() as restorer:
            rise = self._rise(restorer)
        latest = self.state["returns"][-1] if self.state["returns"] else {}
        if latest.get("step") == step:  # the last step is already reverted
            rise = math.inf if latest["rise"] is None else latest["rise"]
        elif rise <= TOLERATED:
            return {"kept_step": None, "rise": rise}
        else:
            self.good.restore(self.steps.bare, self.kept.ema, self.steps.optimizer)
        self.kept.best.record = {}
        kept_step = self.state["good"]
        logger.warning(
            "held-out synthetic photos are %.2f dB worse than with the initial weights; %s are saved",
            rise,
            f"the weights of step {kept_step}" if kept_step else "the initial weights, unchanged,",
        )
        return {"kept_step": kept_step, "rise": rise if math.isfinite(rise) else None}

    def _first_means(self) -> dict[str, float]:
        return {"loss/pair": math.log(float(self.held_out.start.mean()))}

    def _rise(self, restorer: nn.Module) -> float:
        """Evaluates `HeldOut.rise` on the main process, and returns it on all processes."""
        return from_main(self.accelerator, self.held_out.rise(restorer) if self.accelerator.is_main_process else 0.0)

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self.steps.bare, self.kept.ema, self.steps.optimizer).copy()

    def _return_to_good(self, step: int, rise: float) -> None:
        """Restores the last good step, with a lower learning rate, and records the return."""
        self.good.restore(self.steps.bare, self.kept.ema, self.steps.optimizer)
        self.state["factor"] *= LOWER
        self.steps.factor *= LOWER
        self.state["means"] = self._first_means()
        entry = {"step": step, "to": self.state["good"], "rise": rise if math.isfinite(rise) else None}
        self.state["returns"].append(entry)
        logger.warning(
            "step %d: held-out synthetic photos are %.1f dB worse than with the initial weights; the weights of step "
            "%d are restored, the learning rate is divided by four",
            step,
            rise,
            entry["to"],
        )
