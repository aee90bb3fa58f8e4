"""Safeguard of a run that starts from a given restorer against ending with worse weights."""

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

# Rises of the held-out loss above the start's, in dB.
TOLERATED = 0.05  # of the weights that a run ends with
EXPLODED = 1.0  # of weights that are taken back at once

CHECKS = 8  # in a run, evenly
FAR = {
    "loss/pair": 10.0,
    "gradient/all": 30.0,
}  # times the running mean: a step that has nothing to do with those before
DECAY = 0.9  # of the mean, over steps and on a logarithmic scale
LOWER = 0.25  # factor of the restorer's learning rate at every return


class Safeguard:
    """Reverts exploded weights, and keeps the last ones that are no worse than the start's.

    A step whose loss or gradient is not finite or far above its running mean is not taken, and the weights are looked
    at at once; they are looked at `CHECKS` times in a run as well. Where their held-out loss has exploded, the run
    returns to the state of the last good step with a lower learning rate. Good are steps whose weights to keep are
    within `TOLERATED` of the start; only such are saved at the end.

    Args:
        held_out: what weights are judged by, on the main process.
        steps, kept: of the run, at its start.

    Attributes:
        state: JSON-plain, for checkpoints: "factor" of the restorer's learning rate, "good" step (0: the start),
            "returns" so far, running means of logarithms.
        good: what the run returns to.
    """

    def __init__(self, held_out: HeldOut, steps: Steps, kept: KeptWeights):
        self.held_out, self.steps, self.kept = held_out, steps, kept
        self.accelerator = steps.accelerator
        self.good = Snapshot.of(steps.bare, kept.ema, steps.optimizer).copy()
        self.state: dict[str, Any] = {"factor": 1.0, "good": 0, "returns": [], "means": self._first_means()}

    def resume(self, state: dict[str, Any], good: Snapshot | None, step: int) -> None:
        """Resumes from a checkpoint of `step`; an empty state is that of a run without a safeguard, and starts here."""
        self.state |= state
        if good is not None:
            self.good = good
        elif step and self.state["good"] == step:
            self.good = self._present()
        self.steps.factor *= self.state["factor"]

    def to_save(self, step: int) -> Snapshot | None:
        """The good state that a checkpoint of `step` needs beside its own."""
        return self.good if self.state["good"] not in (0, step) else None

    def is_far(self, scalars: dict[str, torch.Tensor]) -> bool:
        """Whether a step is far above those before, on any process; counts it."""
        means, far = self.state["means"], False
        for name, factor in FAR.items():
            value = self.accelerator.reduce(scalars[name].detach().float(), "mean")
            value = math.log(max(float(value), 1e-30))
            before = means.setdefault(name, value)
            far |= value > before + math.log(factor)
            means[name] += (1 - DECAY) * (value - before)
        return on_any(self.accelerator, far)

    def is_due(self, step: int) -> bool:
        """Whether weights are to be looked at after `step`."""
        progress = self.steps.progress
        return int(progress.fraction(step) * CHECKS) != int(progress.fraction(step - 1) * CHECKS)

    def look(self, step: int, *, at_once: bool) -> None:
        """Returns to the good state where the weights in training have exploded; else makes a good one the present.

        Args:
            at_once: the step was not taken.
        """
        rise = self._rise(self.steps.bare.restorer)
        if rise > EXPLODED:
            self._go_back(step, rise)
        elif not at_once:
            with self.kept.applied() as restorer:
                if self._rise(restorer) <= TOLERATED:
                    self.good, self.state["good"] = self._present(), step

    def settle(self, step: int) -> dict[str, Any]:
        """Returns to the last good weights where those that the run would end with are worse than the start's.

        Args:
            step: the last one.

        Returns:
            JSON-plain, as `TrainingResult` has them: "kept_step" and "rise".
        """
        with self.kept.chosen() as restorer:
            rise = self._rise(restorer)
        back = self.state["returns"][-1] if self.state["returns"] else {}
        if rise <= TOLERATED and back.get("step") != step:
            return {"kept_step": None, "rise": rise}
        if back.get("step") == step:  # the last weights were taken back already
            rise = math.inf if back["rise"] is None else back["rise"]
        else:
            self.good.restore(self.steps.bare, self.kept.ema, self.steps.optimizer)
        self.kept.best.record = {}
        kept_step = self.state["good"]
        logger.warning(
            "held-out synthetic photos are restored %.2f dB worse than by the start; the weights of %s are saved",
            rise,
            f"step {kept_step}" if kept_step else "the start, unchanged,",
        )
        return {"kept_step": kept_step, "rise": rise if math.isfinite(rise) else None}

    def _first_means(self) -> dict[str, float]:
        return {"loss/pair": math.log(float(self.held_out.start.mean()))}

    def _rise(self, restorer: nn.Module) -> float:
        return from_main(self.accelerator, self.held_out.rise(restorer) if self.accelerator.is_main_process else 0.0)

    def _present(self) -> Snapshot:
        return Snapshot.of(self.steps.bare, self.kept.ema, self.steps.optimizer).copy()

    def _go_back(self, step: int, rise: float) -> None:
        self.good.restore(self.steps.bare, self.kept.ema, self.steps.optimizer)
        self.state["factor"] *= LOWER
        self.steps.factor *= LOWER
        self.state["means"] = self._first_means()
        back = {"step": step, "to": self.state["good"], "rise": rise if math.isfinite(rise) else None}
        self.state["returns"].append(back)
        logger.warning(
            "step %d: held-out synthetic photos are restored %.1f dB worse than by the start; back to the weights of "
            "step %d, with a quarter of the learning rate",
            step,
            rise,
            back["to"],
        )
