"""Number of the last step of a run, fitted to a time budget while the run goes."""

import logging
import math
import time

from .config import TrainingConfig
from .held_out import HeldOut
from .processes import from_main
from .progress import Correction, Progress
from .run_folder import RunFolder
from .steps import Steps

logger = logging.getLogger(__name__)

SHARE = 0.05  # of the steps that are left: after so many the number of the last one is looked at again
NEW = 0.5  # weight of the latest seconds a step in their running mean
CHANGE = 0.01  # relative change of the steps that are left below which they stay as planned
AFTER = 2.0  # seconds for what follows the last step: a last look at health, saving; at most
AFTER_SHARE = 0.1  # of the budget
AFTER_EVALUATIONS = 3  # of the held-out pairs


class Pace:
    """Plans the number of steps of a run, and corrects it such that a time budget is kept.

    Without a budget (`config.minutes` None) it is `config.steps`, and never corrected.

    Args:
        config: of the run.
        begun: `time.time()` from which the budget counts; None: now.
        after: seconds of it that are needed after the last step.
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
        """Seconds of the budget that are spent, in all calls; 0 without one."""
        return time.time() - self.begun if self.is_timed else 0.0

    def _affordable(self) -> int:
        """Steps that fit into what is left of the budget."""
        assert self.seconds is not None
        return max(0, int((self.seconds - self.after - self.spent()) / self.per_step))

    def plan(self, steps: Steps, folder: RunFolder, held_out: HeldOut | None) -> None:
        """Sets the progress of `steps`: as recorded in `folder`, or planned now and recorded."""
        self.steps, self.folder, self.accelerator = steps, folder, steps.accelerator
        if self.seconds is not None:
            self.after += min(AFTER, AFTER_SHARE * self.seconds) + AFTER_EVALUATIONS * (
                held_out.seconds if held_out else 0.0
            )
            self.per_step = steps.seconds()
        record = folder.record
        if record["steps"]:
            corrections = record.get("corrections") or [(0, record["steps"])]
        elif self.is_timed:
            planned = round(from_main(self.accelerator, self._affordable()))
            if not planned and self.accelerator.is_main_process:
                logger.warning("preparing took all of the %g minutes; a single step follows", self.config.minutes)
            corrections = [(0, max(1, planned))]
        else:
            corrections = [(0, self.config.steps)]
        steps.begin(Progress([Correction(*one) for one in corrections]))
        self._record()

    def _record(self) -> None:
        corrections = self.steps.progress.corrections
        self.folder.update(steps=corrections[-1].total, corrections=corrections)

    def start(self, done: int, spent: float) -> None:
        """Begins to measure.

        Args:
            done: steps that are done.
            spent: seconds of the budget that earlier calls have spent.
        """
        self.begun -= spent
        # steps that a killed run had taken, and this one takes again, end as recorded
        self._watch(max(done, self.steps.progress.corrections[-1].step))

    def _watch(self, step: int) -> None:
        self.last, self.at = step, time.time()
        left = self.steps.progress.total(step) - step
        self.due = step + max(1, int(left * SHARE))

    def correct(self, step: int) -> None:
        """Corrects the number of the last step after `step`, where it is time and the machine is faster or slower."""
        if not self.is_timed:
            return
        if step <= self.last:
            self.at = time.time()
        if step < self.due:
            return
        left = self.steps.progress.total(step) - step
        self.per_step += NEW * ((time.time() - self.at) / (step - self.last) - self.per_step)
        affordable = round(from_main(self.accelerator, self._affordable()))
        if abs(affordable - left) > CHANGE * left:
            self.steps.progress.corrections.append(Correction(step, step + affordable))
            self._record()
        self._watch(step)

    def ema_decay(self, step: int) -> float:
        """`config.ema_decay`; fitted to a time budget, the average spans a tenth of the steps at most."""
        if not self.is_timed:
            return self.config.ema_decay
        return min(self.config.ema_decay, max(0.0, 1 - 10 / self.steps.progress.total(step)))
