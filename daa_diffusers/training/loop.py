"""The training loop: steps, moving average, validation, checkpoints, logs. It knows nothing of the loss inside."""

import json
import logging
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.sampling import generator_for
from ..models.daa_unet import DAAUNet2DConditionModel
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from . import setup
from .adaptation import AdaptationOutput, NoiseSpaceAdaptation
from .checkpoint import load_latest, save_checkpoint
from .config import TrainingConfig
from .memory import keep_freed_memory
from .validation import Validation

logger = logging.getLogger(__name__)

PIPELINE_FOLDER = "pipeline"


@dataclass
class TrainingResult:
    """Where a run's results are and what it ended on.

    Attributes:
        pipeline: folder to pass to `DAARestorationPipeline.from_pretrained`.
        steps: optimizer steps in total.
        seconds: time of this call (a resumed run's earlier calls are not counted).
        losses: the last logged losses.
        validation: the last validation scores; empty without validation photos.
    """

    pipeline: Path
    steps: int
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)


class Trainer:
    """One run of `config`, from its folder's newest checkpoint (if any) to its last step.

    Args:
        config: checked options.
        progress_bar: show one on the main process.

    Raises:
        ConfigurationError: before the first step, on options, folders or an output folder that do not fit.
    """

    def __init__(self, config: TrainingConfig, *, progress_bar: bool = True):
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config = config.check()
        self.progress_bar = progress_bar
        model = setup.build_model(config)
        reader = DAARestorationPipeline(model.restorer)  # knows what a restorer takes
        self.channels, self.value_range = reader.channels, reader.value_range
        dataset = setup.build_dataset(
            config, self.channels, length=1
        )  # reads the folders: fails before anything is written
        self.validation = Validation.from_config(config)
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=None if config.report_to == "none" else config.report_to,
            project_config=ProjectConfiguration(project_dir=config.output_dir, logging_dir=config.output_dir),
        )
        self.folder = Path(config.output_dir)
        if self.accelerator.is_main_process:
            record = setup.claim_output(config)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            record = json.loads((self.folder / "run.json").read_text())
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        optimizer = setup.build_optimizer(config, model)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.bare: NoiseSpaceAdaptation = self.accelerator.unwrap_model(self.model)
        self.ema = EMAModel(
            self.bare.restorer.parameters(), decay=config.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
        )
        self.dataset = dataset
        self.steps = config.steps
        self.steps = record["steps"] or self._plan_steps()
        self._record(steps=self.steps, photos=setup.training_photos(dataset))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        # of diffusers' scheduler only the curve is used: the learning rate is a function of the step
        self.rate_curve = get_scheduler(
            config.learning_rate_schedule,
            torch.optim.SGD([torch.zeros(1)], lr=1.0),
            num_warmup_steps=config.learning_rate_warmup_steps,
            num_training_steps=self.steps,
        ).lr_lambdas[0]

    # -- planning -----------------------------------------------------------------------------------------------

    def _plan_steps(self) -> int:
        """`config.steps`, or as many as fit into `config.minutes` at the speed measured here and now."""
        if self.config.minutes is None:
            return self.config.steps
        trial = self._loader(0, steps=4)
        times = []
        for batch in trial:
            start = time.perf_counter()
            self._joint_step(0, batch).loss.backward()
            times.append(time.perf_counter() - start)
        self.optimizer.zero_grad()
        # the first step warms up allocators; an optimizer step, the average and logging cost a little on top
        seconds = 1.1 * sum(times[1:]) / len(times[1:]) * self.config.gradient_accumulation_steps
        planned = torch.tensor(max(1, int(self.config.minutes * 60 / seconds)), device=self.accelerator.device)
        return int(self.accelerator.reduce(planned.float(), "mean"))

    def _record(self, **values: Any) -> None:
        if self.accelerator.is_main_process:
            path = self.folder / "run.json"
            setup.write_atomically(path, json.dumps({**json.loads(path.read_text()), **values}, indent=2))
            setup.write_atomically(self.folder / "options.yaml", replace(self.config, steps=self.steps).to_yaml())

    # -- data ---------------------------------------------------------------------------------------------------

    @property
    def samples_per_step(self) -> int:
        """Synthetic samples that one optimizer step takes, over all processes."""
        config = self.config
        return config.batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes

    def _loader(self, first_step: int, steps: int) -> DataLoader:
        """This process's batches from `first_step` on; sample numbers alone decide what is in them."""
        config, rank = self.config, self.accelerator.process_index
        batches = []
        for step in range(first_step, first_step + steps):
            for micro in range(config.gradient_accumulation_steps):
                start = step * self.samples_per_step
                start += (micro * self.accelerator.num_processes + rank) * config.batch_size
                batches.append(list(range(start, start + config.batch_size)))
        self.dataset.length = (first_step + steps) * self.samples_per_step
        return DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _to_range(self, image: torch.Tensor | None) -> torch.Tensor | None:
        if image is None:
            return None
        low, high = self.value_range
        image = image.to(self.accelerator.device)
        return image if (low, high) == (0.0, 1.0) else image * (high - low) + low

    # -- steps --------------------------------------------------------------------------------------------------

    def _joint_step(self, step: int, batch: dict[str, torch.Tensor]) -> AdaptationOutput:
        config, numbers = self.config, batch["index"].tolist()
        torch.manual_seed(generator_for(config.seed, "dropout", numbers[0]).initial_seed())
        draws = None
        if config.variant != "vanilla":
            generators = [generator_for(config.seed, "noise", number) for number in numbers]
            draws = self.bare.schedule.draw(
                batch["clean"].shape, generator=generators, channel_shuffle=config.channel_shuffle
            )
        with self.accelerator.autocast():
            return self.model(
                self._to_range(batch["synthetic"]),
                self._to_range(batch["clean"]),
                self._to_range(batch.get("real")),
                self._to_range(batch.get("unpaired_clean")),
                progress=step / (config.ramp_steps or self.steps),
                draws=draws,
                adapt=step >= min(config.predictor_warmup_steps, self.steps // 3),
            )

    def _optimizer_step(self, step: int, batches) -> dict[str, torch.Tensor]:
        parts = self.config.gradient_accumulation_steps
        losses: dict[str, torch.Tensor] = {}
        for part in range(parts):
            last = part == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                output = self._joint_step(step, next(batches))
                self.accelerator.backward(output.loss / parts)
            for name, value in output.losses.items():
                losses[name] = losses.get(name, 0.0) + value.detach() / parts
        if self.config.gradient_clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.rate_curve(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.bare.restorer.parameters())
        return losses

    def train(self) -> TrainingResult:
        """Runs to the last step and saves the pipeline; the same call on the same folder resumes."""
        config, main = self.config, self.accelerator.is_main_process
        started = time.perf_counter()
        resumed = load_latest(self._checkpoints, model=self.bare, ema=self.ema, optimizer=self.optimizer)
        first = resumed["step"] if resumed else 0
        counters: dict[str, Any] = resumed["counters"] if resumed else {"losses": {}, "validation": {}}
        if config.report_to != "none":
            self.accelerator.init_trackers("logs")
        if resumed and main:
            logger.info("resuming %s at step %d of %d", self.folder, first, self.steps)
        bar = tqdm(
            total=self.steps, initial=first, desc="training", unit="step", disable=not (main and self.progress_bar)
        )
        batches = iter(self._loader(first, self.steps - first))
        window: dict[str, list[torch.Tensor]] = {}
        for step in range(first, self.steps):
            for name, value in self._optimizer_step(step, batches).items():
                window.setdefault(name, []).append(value)
            done = step + 1
            bar.update()
            if done % config.log_every == 0 or done == self.steps:
                counters["losses"] = self._log_losses(done, window)
                bar.set_postfix(
                    {k: f"{v:.4f}" for k, v in counters["losses"].items() if k in ("pair", "noise", "weight")}
                )
                window = {}
            if done == self.steps or (config.validate_every and done % config.validate_every == 0):
                counters["validation"] = self._validate(done) or counters["validation"]
            if done == self.steps or (config.checkpoint_every and done % config.checkpoint_every == 0):
                self._save(done, counters)
        bar.close()
        self._record(photos=setup.training_photos(self.dataset))  # now it is known which could not be read
        pipeline = self._save_pipeline()
        self.accelerator.end_training()
        return TrainingResult(
            pipeline, self.steps, time.perf_counter() - started, counters["losses"], counters["validation"]
        )

    # -- reporting ----------------------------------------------------------------------------------------------

    def _log(self, values: dict[str, float], step: int) -> None:
        if self.config.report_to != "none":
            self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            with open(self.folder / "log.jsonl", "a") as log:
                log.write(json.dumps({"step": step, **values}) + "\n")

    def _log_losses(self, step: int, window: dict[str, list[torch.Tensor]]) -> dict[str, float]:
        names = sorted(window)
        means = torch.stack([torch.stack([v.float() for v in window[name]]).mean() for name in names])
        means = self.accelerator.reduce(means, "mean").tolist()
        losses = dict(zip(names, means, strict=True))
        bad = [name for name, value in losses.items() if value != value or abs(value) == float("inf")]
        if bad:
            raise FloatingPointError(
                f"the losses {bad} are not finite at step {step}; the checkpoints before are whole. Try a lower "
                "`learning_rate`, `gradient_clip`, or `mixed_precision` no"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        self._log({**{f"loss/{k}": v for k, v in losses.items()}, "learning_rate": rate}, step)
        return losses

    @contextmanager
    def _averaged_weights(self):
        parameters = list(self.bare.restorer.parameters())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        self.bare.restorer.eval()
        try:
            yield self.bare.restorer
        finally:
            self.bare.restorer.train()
            self.ema.restore(parameters)

    def _validate(self, step: int) -> dict[str, float]:
        if self.validation is None or not self.accelerator.is_main_process:
            return {}
        with self._averaged_weights() as restorer:
            scores, grid = self.validation.run(restorer)
        if scores:
            self._log({f"validation/{k}": v for k, v in scores.items()}, step)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.writer.add_image("input, restored, difference", grid, step)
        return scores

    # -- saving -------------------------------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _save(self, step: int, counters: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self._checkpoints,
                step=step,
                model=self.bare,
                ema=self.ema,
                optimizer=self.optimizer,
                counters=counters,
                keep=self.config.keep,
            )
        self.accelerator.wait_for_everyone()

    def _save_pipeline(self) -> Path:
        path = self.folder / PIPELINE_FOLDER
        if self.accelerator.is_main_process:
            with self._averaged_weights() as restorer:
                unet = self.bare.unet if self.config.save_noise_predictor else None
                DAARestorationPipeline(restorer, cast(DAAUNet2DConditionModel | None, unet)).save_pretrained(str(path))
        self.accelerator.wait_for_everyone()
        return path


def train(config: TrainingConfig, *, progress_bar: bool = True) -> TrainingResult:
    """Trains or resumes; see `Trainer`."""
    return Trainer(config, progress_bar=progress_bar).train()


__all__ = ["Trainer", "TrainingResult", "train"]
