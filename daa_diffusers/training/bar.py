"""Progress bar of a run, and its estimate of the time left."""

import time
from array import array
from typing import Any

from tqdm.auto import tqdm

from .pace import Pace

# Latest steps whose mean duration is used for the remaining ones: fraction of the steps so far, and minimum number.
RECENT_FRACTION, LEAST_RECENT = 0.25, 10


class ProgressBar(tqdm):
    """Bar over the steps of a run.

    With a time budget, the time left is the rest of the budget, to which the number of steps is corrected. Without one,
    it is estimated from the mean duration of the latest steps, and of the work between all steps so far (validation,
    checks, checkpoints).

    Args:
        pace: plan of the run's time.
        done, total: number of steps done, and of all steps.
        hidden: whether to hide the bar.
    """

    def __init__(self, pace: Pace, *, done: int, total: int, hidden: bool):
        self.pace, self.left = pace, total - done
        self._step_seconds = array("d")  # duration of each step
        self._other_seconds = 0.0  # total duration of the work between steps
        self._last = time.monotonic()
        super().__init__(total=total, initial=done, desc="training", unit="step", disable=hidden)

    def _lap(self) -> float:
        """Returns the seconds since the last call."""
        now, before = time.monotonic(), self._last
        self._last = now
        return now - before

    def begin_step(self) -> None:
        """Records the start of a step; the time since the last step was work between steps."""
        self._other_seconds += self._lap()

    def end_step(self) -> None:
        """Records the end of a step."""
        self._step_seconds.append(self._lap())

    def advance(self, done: int, total: int) -> None:
        """Shows that `done` of `total` steps are done."""
        self.total, self.left = total, total - done
        self.update()

    def seconds_left(self) -> float | None:
        """Returns the estimated seconds until the last step is done; None before the first step."""
        count = len(self._step_seconds)
        if not count:
            return None
        if (planned := self.pace.left()) is not None:
            return planned
        recent = self._step_seconds[-max(LEAST_RECENT, int(RECENT_FRACTION * count)) :]
        return self.left * (sum(recent) / len(recent) + self._other_seconds / count)

    @property
    def format_dict(self) -> dict[str, Any]:
        """Values to show, with the rate from which tqdm computes the time left."""
        values = super().format_dict
        seconds = self.seconds_left()
        return values if not seconds or not self.left else {**values, "rate": self.left / seconds}
