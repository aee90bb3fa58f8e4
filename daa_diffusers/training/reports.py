"""Reports of a run: mean losses, validation, health and alarms."""

import logging
import math
from typing import Any

from torch import nn

from ..objectives.base import Objective
from ..objectives.noise_space import NoiseSpaceAdaptation
from .config import TrainingConfig
from .health import Health
from .log import RunLog, Window
from .steps import Steps
from .validation import Validation

logger = logging.getLogger(__name__)

# Alarm if the loss of restored synthetic photos exceeds that of the untouched ones by the factor `HARMED`, once the
# fraction `HARM_AFTER` of the run is done.
HARMED, HARM_AFTER = 1.01, 1 / 4


class Reports:
    """Writes the reports of a run to its log, and the latest values to the run's counters.

    Args:
        config: options of the run.
        log: log of the run.
        validation, health: evaluations to run; None: skipped.
    """

    def __init__(
        self, config: TrainingConfig, log: RunLog, *, validation: Validation | None = None, health: Health | None = None
    ):
        self.config, self.log, self.validation, self.health = config, log, validation, health

    def losses(self, step: int, window: Window, steps: Steps, counters: dict[str, Any]) -> dict[str, float]:
        """Logs the means of the scalars since the last log line, and returns the mean losses."""
        accelerator = steps.accelerator
        means = window.means(accelerator)
        rate = steps.optimizer.param_groups[0]["lr"]
        values = {**means, "learning_rate": rate, "skipped_steps": counters["skipped_steps"]}
        if accelerator.scaler is not None:
            values["loss_scale"] = accelerator.scaler.get_scale()
        self.log.write(step, values, steps.watch.lap())
        losses = {name.removeprefix("loss/"): v for name, v in means.items() if name.startswith("loss/")}
        harm = _harm(losses) if steps.progress.fraction(step) >= HARM_AFTER else []
        if harm and not counters["harm"]:  # new since the last log line
            logger.warning("step %d: %s", step, *harm)
        counters["losses"], counters["harm"] = losses, harm
        return losses

    def evaluate(self, step: int, restorer: nn.Module, model: Objective, counters: dict[str, Any]) -> float:
        """Validates `restorer` and checks its health; returns the score to select weights by, NaN if there is none.

        Only the main process may call it.
        """
        score = math.nan
        if self.validation is not None:
            scores, grid = self.validation.run(restorer)
            if scores:
                self.log.write(step, {f"validation/{k}": v for k, v in scores.items()})
                counters["validation"] = scores
                score = scores.get("psnr_bursts" if self.config.select_by == "bursts" else "psnr", math.nan)
            if grid is not None:
                self.log.images(step, "input, restored, difference", grid)
        if self.health is not None:
            report = self.health.run(restorer, model if isinstance(model, NoiseSpaceAdaptation) else None)
            self.log.write(step, {f"health/{k}": v for k, v in report.values.items()})
            for alarm in report.alarms:
                if alarm not in counters["alarms"]:
                    logger.warning("step %d: %s", step, alarm)
            counters["health"], counters["alarms"] = report.values, report.alarms
            score = report.score if self.config.select_by == "label_free" else score
        return score


def _harm(losses: dict[str, float]) -> list[str]:
    """Returns an alarm in a list if restored synthetic photos are worse than the untouched ones, else an empty list."""
    if not losses or losses["pair"] <= HARMED * losses["untouched"]:  # empty if every step of the window was skipped
        return []
    return [
        f"restored synthetic photos are farther from the clean ones than untouched: loss {losses['pair']:.4f} against "
        f"{losses['untouched']:.4f}. Most often a step was too large: start over with `gradient_clip` 0.5 or a lower "
        "`learning_rate` (`gradient/all` in the log shows where); or train longer"
    ]
