"""Progress of a run whose number of steps may be corrected during the run."""

from collections.abc import Sequence
from typing import NamedTuple


class Correction(NamedTuple):
    """Plan that applies from `step` on: the run ends after `total` steps."""

    step: int
    total: int


class Progress:
    """Position of a run on the scale of its first plan, for the schedules of learning rate and adaptation weight.

    Between two corrections the position is linear in the step, such that it reaches `nominal` at the last step. It
    depends on the corrections alone, so that a run that resumes with the recorded corrections takes the same steps.

    Args:
        corrections: plans in the order of their steps; the first is the plan at step 0.

    Attributes:
        nominal: number of steps of the first plan.
    """

    def __init__(self, corrections: Sequence[Correction]):
        self.corrections = list(corrections)
        self.nominal = self.corrections[0].total

    def total(self, step: int) -> int:
        """Returns the number of steps of the run as planned after `step` steps."""
        return [correction.total for correction in self.corrections if correction.step <= step][-1]

    def position(self, step: int) -> float:
        """Returns the position after `step` steps, in [0, `nominal`]; without corrections it equals `step`."""
        position, (begin, end) = 0.0, self.corrections[0]
        for correction in self.corrections[1:]:
            if correction.step > step:
                break
            position = self._interpolated(position, begin, end, correction.step)
            begin, end = correction
        return self._interpolated(position, begin, end, step)

    def _interpolated(self, position: float, begin: int, end: int, step: int) -> float:
        """Returns the position at `step` on the line from `position` at step `begin` to `nominal` at step `end`."""
        if step >= end:
            return float(self.nominal)
        return position + (self.nominal - position) * (step - begin) / (end - begin)

    def fraction(self, step: int) -> float:
        """Returns the fraction of the run that is done after `step` steps, in [0, 1]."""
        return self.position(step) / self.nominal

    def completes_part(self, step: int, parts: int) -> bool:
        """Whether `step` completes one of `parts` equal parts of the run."""
        return int(self.fraction(step) * parts) != int(self.fraction(step - 1) * parts)
