"""Progress of a run whose number of steps may be corrected while it goes."""

from collections.abc import Sequence
from typing import NamedTuple


class Correction(NamedTuple):
    """From `step` on, the run is planned to end at `total`."""

    step: int
    total: int


class Progress:
    """How far a run has come: learning rate, weight of the adaptation and moving average are functions of it.

    Between two corrections the position of a step grows evenly, such that it reaches `nominal` at the last step. It is
    a function of the corrections alone, so that a run that is resumed with the recorded ones takes the same steps.

    Args:
        corrections: by step; the first is the plan at step 0.
    """

    def __init__(self, corrections: Sequence[Correction]):
        self.corrections = list(corrections)
        self.nominal = self.corrections[0].total

    def total(self, step: int) -> int:
        """Number of the last step, as planned after `step` steps."""
        return [one.total for one in self.corrections if one.step <= step][-1]

    def position(self, step: int) -> float:
        """Of a step among the `nominal` ones of the first plan; `step` itself where nothing was corrected."""
        at, (begin, end) = 0.0, self.corrections[0]
        for correction in self.corrections[1:]:
            if correction.step > step:
                break
            at = self._along(at, begin, end, correction.step)
            begin, end = correction
        return self._along(at, begin, end, step)

    def _along(self, at: float, begin: int, end: int, step: int) -> float:
        if step >= end:
            return float(self.nominal)
        return at + (self.nominal - at) * (step - begin) / (end - begin)

    def fraction(self, step: int) -> float:
        """Of the run that is done after `step` steps, in [0, 1]."""
        return self.position(step) / self.nominal
