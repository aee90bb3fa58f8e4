"""Optimizer steps: objective, gradient accumulation, learning rate, update."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler

from ..degradations.draws import generator_for
from ..objectives.base import Batch, Objective, StepOutput
from ..objectives.losses import charbonnier
from . import setup
from .batches import Batches
from .config import TrainingConfig
from .kept_weights import KeptWeights
from .log import Stopwatch, Window
from .processes import on_any
from .progress import Correction, Progress

logger = logging.getLogger(__name__)

Scalars = dict[str, torch.Tensor]


class Steps:
    """The optimizer steps of a run.

    Args:
        config: options of the run.
        model: objective of the run, on the device.
        batches: batches of the run.
        accelerator: accelerator of the run.

    Attributes:
        bare: the objective without accelerate's wrapper.
        optimizer: optimizer of all networks.
        progress: progress of the run, on which the schedules depend; set by `begin`.
        factor: factor of the restorer's learning rate, besides its schedule.
        watch: stopwatch of images and time.
    """

    def __init__(self, config: TrainingConfig, model: Objective, batches: Batches, accelerator: Accelerator):
        self.config, self.batches, self.accelerator = config, batches, accelerator
        optimizer = setup.build_optimizer(config, model, accelerator.device)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.bare: Objective = accelerator.unwrap_model(self.model)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]  # before schedule and factor
        self.factor = 1.0
        self.watch = Stopwatch(accelerator.device)
        self.begin(Progress([Correction(0, config.steps)]))

    def begin(self, progress: Progress) -> None:
        """Sets the progress, on which the learning rate and the weight of the adaptation depend."""
        self.progress = progress
        # only the curve of diffusers' scheduler is used, as a function of the position
        self.curve = get_scheduler(
            self.config.learning_rate_schedule,
            torch.optim.SGD([torch.zeros(1)], lr=1.0),
            num_warmup_steps=self.config.learning_rate_warmup_steps,
            num_training_steps=progress.nominal,
        ).lr_lambdas[0]

    def seconds(self) -> float:
        """Measures the seconds per step; returns the mean over all processes."""
        logger.info("preparing: measuring the training speed")
        times = []
        for batch in self.batches.loader(0, steps=4):  # enough for a stable mean
            start = time.perf_counter()
            self.accelerator.backward(self.joint_step(0, self.batches.in_range(batch)).loss)
            times.append(time.perf_counter() - start)
        self.optimizer.zero_grad()
        # the first batch warms up; 10 % for the optimizer step (Muon: more), the moving average and logging
        seconds = 1.1 * fmean(times[1:]) * self.batches.accumulation
        return float(self.accelerator.reduce(torch.tensor(seconds, device=self.accelerator.device), "mean"))

    def joint_step(self, step: int, batch: dict[str, torch.Tensor]) -> StepOutput:
        """Evaluates the objective on a batch from `Batches.in_range`."""
        config, numbers, progress = self.config, batch["index"].tolist(), self.progress
        torch.manual_seed(generator_for(config.seed, "dropout", numbers[0]).initial_seed())
        # during the warmup only the networks besides the restorer are trained
        warmup = min(config.predictor_warmup_steps, progress.nominal // 3) if self.bare.networks else 0
        with self.accelerator.autocast():
            return self.model(
                Batch.from_mapping(batch),
                progress=progress.fraction(step),
                generator=[generator_for(config.seed, "noise", number) for number in numbers],
                adapt=progress.position(step) >= warmup,
            )

    def take(
        self, step: int, batches: Iterator, kept: KeptWeights, is_outlier: Callable[[Scalars], bool] | None = None
    ) -> Scalars | None:
        """Takes a step on the next batches, and updates the moving average.

        Args:
            step: number of steps done before.
            batches: iterator over this process's batches.
            kept: kept weights, with the moving average.
            is_outlier: function that returns whether to skip a step with the given scalars.

        Returns:
            The scalars of the step; None if it was skipped, because a loss or gradient was not finite on any process
            or `is_outlier` returned True.
        """
        scalars, finite = self._gradients(step, batches)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        scalars["gradient/all"] = norm
        if self.accelerator.scaler is None:  # a scaler handles infinite gradients: it skips the step and adapts
            finite &= norm.isfinite()
        if on_any(self.accelerator, not finite) or (is_outlier is not None and is_outlier(scalars)):
            self.optimizer.zero_grad()
            return None
        if self.config.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.gradient_clip, norm)
        position = self.progress.position(step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.curve(position)
        self.optimizer.param_groups[0]["lr"] *= self.factor  # group 0 is the restorer
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            kept.step()
            self.bare.after_step(self.progress.total(step))
        return scalars

    def _gradients(self, step: int, batches: Iterator) -> tuple[Scalars, torch.Tensor]:
        """Accumulates the gradients of a step; returns its scalars, and whether the losses are finite."""
        count = self.batches.accumulation  # batches of the step
        scalars: Scalars = {}

        def add(name: str, value: torch.Tensor) -> None:
            scalars[name] = scalars.get(name, 0.0) + value.detach()

        finite = torch.ones((), dtype=torch.bool, device=self.accelerator.device)
        for number in range(count):
            batch = self.watch.next(batches)
            self.watch.count(len(batch["index"]) * self.accelerator.num_processes)
            with nullcontext() if number == count - 1 else self.accelerator.no_sync(self.model):
                batch = self.batches.in_range(batch)
                output = self.joint_step(step, batch)
                self.accelerator.backward(output.loss / count)
            finite &= output.loss.detach().isfinite()
            # eq. (5) for a restorer that returns its input, as a reference
            untouched = charbonnier(batch["synthetic"], batch["clean"], self.bare.charbonnier_eps)
            for name, value in {**output.losses, "untouched": untouched}.items():
                add(f"loss/{name}", value / count)
            scale = self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0
            for name, value in output.gradients.items():  # gradients of scale * loss / count, summed over the batches
                add(f"gradient/{name}", value / scale)
        self.accelerator.unscale_gradients()
        return scalars, finite


def count_step(step: int, scalars: Scalars | None, window: Window, counters: dict[str, Any], most: int) -> None:
    """Adds a step to the window and the counters.

    Args:
        step: number of steps before this one.
        scalars: scalars of the step; None: it was skipped.
        window: scalars since the last log line.
        counters: counters of the run.
        most: allowed number of skipped steps in a row.

    Raises:
        FloatingPointError: more than `most` steps in a row were skipped.
    """
    if scalars is not None:
        window.add(scalars)
        counters["skipped_in_a_row"] = 0
        return
    counters["skipped_steps"] += 1
    counters["skipped_in_a_row"] += 1
    in_a_row = counters["skipped_in_a_row"]
    logger.warning("step %d is skipped: a loss or gradient is NaN or infinite, or far above earlier ones", step + 1)
    if in_a_row > most:
        raise FloatingPointError(
            f"losses or gradients were NaN, infinite or far above earlier ones in {in_a_row} steps in a row, up to "
            f"step {step + 1} (`max_skipped_steps` is {most}); earlier checkpoints are intact. Try a lower "
            "`learning_rate`, a `gradient_clip`, or `mixed_precision` no"
        )
