"""Number of steps of a run, planned for a time budget and corrected during the run."""

import logging
import math
import time
from typing import Any

from .config import TrainingConfig
from .held_out import HeldOut
from .processes import from_main
from .progress import Correction, Progress
from .run_folder import RunFolder
from .steps import Steps

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 0.05  # distance between two checks of the plan, as a fraction of the remaining steps
MEAN_WEIGHT = 0.5  # weight of the latest measurement in the running mean of the seconds per step
MIN_CHANGE = 0.01  # smallest relative change of the remaining steps for which the plan is corrected
# Time reserved after the last step (health checks, saving): the smaller of a number of seconds and a fraction of the
# budget, plus the time of a number of evaluations of the held-out pairs.
RESERVED_SECONDS, RESERVED_FRACTION, RESERVED_EVALUATIONS = 2.0, 0.1, 3
PREPARATION = 0.5  # fraction of the budget after which stages of the preparation use only their minimum of photos


class Pace:
    """Planner of the number of steps of a run, which corrects the number to keep within a time budget.

    Without a budget (`config.minutes` is None) the number is always `config.steps`.

    Args:
        config: options of the run.
        begun: `time.time()` at which the budget begins to count; None: now.
        after: seconds of the budget to reserve for the caller's work after the last step.
    """

    def __init__(self, config: TrainingConfig, *, begun: float | None = None, after: float = 0.0):
        self.config, self.after = config, after
        self.seconds = None if config.minutes is None else config.minutes * 60
        self.begun = time.time() if begun is None else begun
        self.per_step = math.nan  # seconds, a running mean

    @property
    def is_timed(self) -> bool:
        """Whether there is a budget."""
        return self.seconds is not None

    def spent(self) -> float:
        """Returns the spent seconds of the budget, including earlier calls of a resumed run; 0 without a budget."""
        return time.time() - self.begun if self.is_timed else 0.0

    def share(self, fraction: float) -> float | None:
        """Returns the seconds that a stage of the preparation may take from now on; None without a budget.

        At most `fraction` of the budget, within its first half (`PREPARATION`): the rest is for training.
        """
        if self.seconds is None:
            return None
        return max(0.0, min(fraction * self.seconds, PREPARATION * self.seconds - self.spent()))

    def left(self) -> float | None:
        """Returns the seconds of the budget that are left for steps; None without a budget."""
        return None if self.seconds is None else max(0.0, self.seconds - self.after - self.spent())

    def _affordable(self) -> int:
        """Returns the number of steps that fit into the rest of the budget."""
        return int((self.left() or 0) / self.per_step)

    def plan(self, steps: Steps, folder: RunFolder, held_out: HeldOut | None) -> None:
        """Sets `steps.progress` from the record in `folder`, or from a new plan that the caller has to record."""
        self.steps, self.folder, self.accelerator = steps, folder, steps.accelerator
        if self.seconds is not None:
            self.after += min(RESERVED_SECONDS, RESERVED_FRACTION * self.seconds) + RESERVED_EVALUATIONS * (
                held_out.seconds if held_out else 0.0
            )
            self.per_step = steps.seconds()
        record = folder.record
        if record["steps"]:
            corrections = record.get("corrections") or [(0, record["steps"])]
        elif self.is_timed:
            planned = round(from_main(self.accelerator, self._affordable()))
            if not planned and self.accelerator.is_main_process:
                logger.warning(
                    "the preparation took all of the %g minutes, so that the run takes one step; with `minutes` %g, "
                    "half of the time is for training",
                    self.config.minutes,
                    math.ceil(20 * self.spent() / 60) / 10,
                )
            corrections = [(0, max(1, planned))]
        else:
            corrections = [(0, self.config.steps)]
        steps.begin(Progress([Correction(step, total) for step, total in corrections]))

    def record(self) -> dict[str, Any]:
        """Returns entries of the run's record: the planned number of steps, and its corrections."""
        corrections = self.steps.progress.corrections
        return {"steps": corrections[-1].total, "corrections": corrections}

    def start(self, done: int, spent: float) -> None:
        """Starts the measurement of the seconds per step.

        Args:
            done: number of steps done.
            spent: seconds of the budget that earlier calls spent.
        """
        self.begun -= spent
        # the recorded corrections also apply to steps that a killed run took and this one repeats
        self._measure_from(max(done, self.steps.progress.corrections[-1].step))

    def _measure_from(self, step: int) -> None:
        """Starts a measurement after `step`, and sets the step after which it is evaluated."""
        self.measured_from, self.measured_since = step, time.time()
        left = self.steps.progress.total(step) - step
        self.due = step + max(1, int(left * CHECK_INTERVAL))

    def correct(self, step: int) -> None:
        """Corrects the number of steps after `step`, if a check is due and the measured speed requires it."""
        if not self.is_timed:
            return
        if step <= self.measured_from:  # a repeated step is not measured
            self.measured_since = time.time()
        if step < self.due:
            return
        left = self.steps.progress.total(step) - step
        latest = (time.time() - self.measured_since) / (step - self.measured_from)
        self.per_step += MEAN_WEIGHT * (latest - self.per_step)
        affordable = round(from_main(self.accelerator, self._affordable()))
        if abs(affordable - left) > MIN_CHANGE * left:
            self.steps.progress.corrections.append(Correction(step, step + affordable))
            self.folder.update(**self.record())
        self._measure_from(step)

    def ema_decay(self, step: int) -> float:
        """Returns the decay per step of the moving average; with a budget, at most 1 - 10 / (number of steps).

        The average then spans at most about a tenth of the steps.
        """
        if not self.is_timed:
            return self.config.ema_decay
        return min(self.config.ema_decay, max(0.0, 1 - 10 / self.steps.progress.total(step)))
