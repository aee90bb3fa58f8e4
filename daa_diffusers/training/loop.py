"""The training loop: steps, moving average, validation, checkpoints, logs. It knows nothing of the loss inside."""

import json
import logging
import math
import os
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, gather_object
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..adapters.updates import statistics
from ..degradations.draws import generator_for
from ..errors import ConfigurationError
from ..files import write_text
from ..models.daa_unet import DAAUNet2DConditionModel
from ..models.restorer import RestorerContract
from ..objectives.joint_step import AdaptationOutput, JointStep
from ..objectives.losses import charbonnier
from ..objectives.noise_space import NoiseSpaceAdaptation
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from . import setup
from .adapter_training import ADAPTER_FOLDER, save_trained_adapter
from .config import TrainingConfig
from .health import Health
from .interruption import Interruption
from .log import RunLog, Stopwatch, Window
from .memory import keep_freed_memory
from .preparation import prepare_files, use_files
from .run_state import load_latest, recorded_steps, save_checkpoint
from .selection import BestWeights
from .validation import Validation

logger = logging.getLogger(__name__)

PIPELINE_FOLDER = "pipeline"
PHOTOS = ("synthetic", "clean", "real", "unpaired_clean")  # of a sample, as the joint step names them


@dataclass
class TrainingResult:
    """Where a run's results are and what it ended on.

    Attributes:
        pipeline: folder to pass to `DAARestorationPipeline.from_pretrained`; None where the run was interrupted.
        steps: optimizer steps taken so far, in all calls.
        seconds: time of this call (a resumed run's earlier calls are not counted).
        losses: the last logged losses.
        validation: the last validation scores; empty without validation photos.
        skipped_steps: steps that were not taken because a loss or gradient was not finite.
        signal: number of the signal that interrupted the run, whose checkpoint is saved; None where it ended.
        best: "step" and "score" of the weights kept, where `select_by` chose; else empty.
        health: the last label-free values (`training.health`).
        alarms: what they warn of, a sentence each.
        skipped_photos: names of unreadable photos by role.
    """

    pipeline: Path | None
    steps: int
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    skipped_steps: int = 0
    signal: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    health: dict[str, float] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    skipped_photos: dict[str, list[str]] = field(default_factory=dict)


def _counters() -> dict[str, Any]:
    """What a run counts besides its steps; saved in its checkpoints."""
    return {
        "losses": {},
        "validation": {},
        "window": {},
        "skipped_steps": 0,
        "skipped_in_a_row": 0,
        "best": {},
        "health": {},
        "alarms": [],
        "harm": [],
        "stopped_early": False,
    }


class Trainer:
    """One run of `config`, from its folder's newest checkpoint (if any) to its last step.

    The output folder is held for this process until `train` ends.

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
        model = setup.prepare_networks(config, setup.build_model(config))
        contract = RestorerContract.of(model.restorer)
        self.channels, self.value_range = contract.channels, contract.value_range
        # reads the folders: fails before anything is written
        self.dataset = setup.build_dataset(config, self.channels, length=1)
        self.validation = Validation.from_config(config)
        self.health = Health.from_config(config, self.channels) if config.health else None
        self.folder = Path(config.output_dir)
        if config.report_to not in ("none", *(tracker.value for tracker in get_available_trackers())):
            raise ConfigurationError(f"`report_to` {config.report_to} needs a package: pip install {config.report_to}")
        AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else several processes on CPUs would not find each other
            mixed_precision=config.mixed_precision,
            log_with=None if config.report_to == "none" else config.report_to,
            project_config=ProjectConfiguration(project_dir=config.output_dir, logging_dir=config.output_dir),
        )
        if config.mixed_precision != "no" and not self.accelerator.native_amp:
            raise ConfigurationError(
                f"`mixed_precision` {config.mixed_precision} cannot be had on {self.accelerator.device.type}; "
                "try bf16, or no"
            )
        if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and self.accelerator.num_processes == 1:
            logger.warning(
                "`accelerate launch --cpu --num_processes N` starts one process; `accelerate launch --multi_gpu "
                "--num_processes N` starts N, on CPUs as well"
            )
        model.to(self.accelerator.device)  # before the real photos are restored, for speed
        self.accumulation = self._accumulation_steps()
        if self.accelerator.is_main_process:
            self.lock = setup.lock_output(config)
            record = setup.claim_output(config, self.samples_per_step)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            prepare_files(config, model.restorer, self.folder, self.dataset.real)
        self.accelerator.wait_for_everyone()
        use_files(config, self.dataset, self.folder)
        if not self.accelerator.is_main_process:
            record = json.loads((self.folder / "run.json").read_text())
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        elif self.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # of restoring real photos; the log tells that of training
        optimizer = setup.build_optimizer(config, model, self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.bare: JointStep = self.accelerator.unwrap_model(self.model)
        self.trained = [p for p in self.bare.restorer.parameters() if p.requires_grad]  # an adapter's, or all
        self.steps = config.steps
        self.steps = record["steps"] or self._plan_steps()
        self._record(steps=self.steps, photos=setup.training_photos(self.dataset))
        self.ema = EMAModel(self.trained, decay=self._ema_decay(), use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
        # of batch norms: they belong to the weights, blended and selected with them
        self.statistics = list(statistics(self.bare.restorer).values())
        # before a checkpoint is loaded: the restorer as it starts
        self.start = [p.detach().clone() for p in (*self.trained, *self.statistics)] if config.blend < 1 else []
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        # of diffusers' scheduler only the curve is used: the learning rate is a function of the step
        self.rate_curve = get_scheduler(
            config.learning_rate_schedule,
            torch.optim.SGD([torch.zeros(1)], lr=1.0),
            num_warmup_steps=config.learning_rate_warmup_steps,
            num_training_steps=self.steps,
        ).lr_lambdas[0]
        self.log = RunLog(self.accelerator, self.folder / "log.jsonl")
        self.best = BestWeights(self.folder / "best")

    # -- planning -----------------------------------------------------------------------------------------------

    def _plan_steps(self) -> int:
        """`config.steps`, or as many as fit into `config.minutes` at the speed measured here and now."""
        if self.config.minutes is None:
            return self.config.steps
        logger.info("preparing: measuring the speed of training here")
        trial = self._loader(0, steps=4)
        times = []
        for batch in trial:
            start = time.perf_counter()
            self.accelerator.backward(self._joint_step(0, self._in_range(batch)).loss)
            times.append(time.perf_counter() - start)
        self.optimizer.zero_grad()
        # the first step warms up allocators; an optimizer step, the average and logging cost a little on top
        seconds = 1.1 * sum(times[1:]) / len(times[1:]) * self.accumulation
        planned = torch.tensor(max(1, int(self.config.minutes * 60 / seconds)), device=self.accelerator.device)
        return int(self.accelerator.reduce(planned.float(), "mean"))

    def _accumulation_steps(self) -> int:
        config, processes = self.config, self.accelerator.num_processes
        if config.total_batch_size is None:
            return config.gradient_accumulation_steps
        together = config.batch_size * processes
        if config.total_batch_size % together:
            raise ConfigurationError(
                f"`total_batch_size` must be a multiple of `batch_size` times the processes, {config.batch_size} x "
                f"{processes}, got {config.total_batch_size}"
            )
        return config.total_batch_size // together

    def _ema_decay(self) -> float:
        """`ema_decay`; fitted to a time budget, the average spans a tenth of the steps at most."""
        if self.config.minutes is None:
            return self.config.ema_decay
        return min(self.config.ema_decay, max(0.0, 1 - 10 / self.steps))

    def _record(self, **values: Any) -> None:
        if self.accelerator.is_main_process:
            path = self.folder / "run.json"
            write_text(path, json.dumps({**json.loads(path.read_text()), **values}, indent=2))
            write_text(self.folder / "options.yaml", replace(self.config, steps=self.steps).to_yaml())

    # -- data ---------------------------------------------------------------------------------------------------

    @property
    def samples_per_step(self) -> int:
        """Synthetic samples that one optimizer step takes, over all processes."""
        return self.config.batch_size * self.accumulation * self.accelerator.num_processes

    def _loader(self, first_step: int, steps: int) -> DataLoader:
        """This process's batches from `first_step` on; sample numbers alone decide what is in them."""
        config, rank = self.config, self.accelerator.process_index
        batches = []
        for step in range(first_step, first_step + steps):
            for micro in range(self.accumulation):
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

    def _in_range(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch with its photos on the device, in the restorer's value range."""
        low, high = self.value_range
        moved = dict(batch)
        for name in PHOTOS:
            if name in batch:
                photo = batch[name].to(self.accelerator.device, getattr(torch, self.config.dtype), non_blocking=True)
                moved[name] = photo if (low, high) == (0.0, 1.0) else photo * (high - low) + low
        return moved

    def _photos(self) -> dict[str, list[dict[str, Any]]]:
        """`setup.training_photos` with what any process found unreadable; all processes must call it together."""
        everyones = gather_object([setup.training_photos(self.dataset)])
        photos = everyones[0]
        for role, sources in photos.items():
            for number, source in enumerate(sources):
                names = [name for each in everyones for name in each[role][number]["skipped"]]
                source["skipped"] = list(dict.fromkeys(names))
        return photos

    # -- steps --------------------------------------------------------------------------------------------------

    def _joint_step(self, step: int, batch: dict[str, torch.Tensor]) -> AdaptationOutput:
        """Of a batch `_in_range`."""
        config, numbers = self.config, batch["index"].tolist()
        torch.manual_seed(generator_for(config.seed, "dropout", numbers[0]).initial_seed())
        with self.accelerator.autocast():
            return self.model(
                **{name: batch[name] for name in PHOTOS if name in batch},
                progress=step / self.steps,
                generator=[generator_for(config.seed, "noise", number) for number in numbers],
                adapt=step >= min(config.predictor_warmup_steps, self.steps // 3),
            )

    def _optimizer_step(self, step: int, batches, watch: Stopwatch) -> tuple[dict[str, torch.Tensor], bool]:
        """The scalars of the step, and whether all of it was finite, on every process; if not, nothing is learnt."""
        parts = self.accumulation
        scalars: dict[str, torch.Tensor] = {}
        finite = torch.ones((), dtype=torch.bool, device=self.accelerator.device)
        for part in range(parts):
            last = part == parts - 1
            batch = watch.next(batches)
            watch.count(len(batch["index"]) * self.accelerator.num_processes)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                batch = self._in_range(batch)
                output = self._joint_step(step, batch)
                self.accelerator.backward(output.loss / parts)
            finite &= output.loss.detach().isfinite()
            for name, value in output.losses.items():
                scalars[f"loss/{name}"] = scalars.get(f"loss/{name}", 0.0) + value.detach() / parts
            # (5) of a restorer that changes nothing: what any restorer must be better than
            untouched = charbonnier(batch["synthetic"], batch["clean"], self.config.charbonnier_eps)
            scalars["loss/untouched"] = scalars.get("loss/untouched", 0.0) + untouched / parts
            for name, value in output.gradients.items():  # of loss * scale / parts, averaged over parts
                scale = self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0
                scalars[f"gradient/{name}"] = scalars.get(f"gradient/{name}", 0.0) + value.detach() / scale
        self.accelerator.unscale_gradients()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        scalars["gradient/all"] = norm
        if self.accelerator.scaler is None:  # a scaler steps over infinite gradients by itself, and learns from them
            finite &= norm.isfinite()
        if self._on_any_process(not finite):
            self.optimizer.zero_grad()
            return {}, False
        if self.config.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.gradient_clip, norm)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.rate_curve(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.ema.step(self.trained)
            self.bare.after_step()
        return scalars, True

    def _on_any_process(self, condition: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return bool(condition)
        return bool(self.accelerator.reduce(torch.tensor(float(condition), device=self.accelerator.device), "sum") > 0)

    def _count_skipped(self, step: int, counters: dict[str, Any]) -> None:
        counters["skipped_steps"] += 1
        counters["skipped_in_a_row"] += 1
        in_a_row, most = counters["skipped_in_a_row"], self.config.max_skipped_steps
        logger.warning("step %d: a loss or gradient is NaN or infinite; nothing is learnt from it", step + 1)
        if in_a_row > most:
            raise FloatingPointError(
                f"losses or gradients were NaN or infinite in {in_a_row} steps in a row, up to step {step + 1} "
                f"(`max_skipped_steps` is {most}); the checkpoints before are whole. Try a lower `learning_rate`, a "
                "`gradient_clip`, or `mixed_precision` no"
            )

    def train(self, *, stop_after: int | None = None) -> TrainingResult:
        """Runs to the last step and saves the pipeline; the same call on the same folder resumes.

        SIGTERM and Ctrl-C end it after the current step, with a checkpoint.

        Args:
            stop_after: end after this step as if a SIGTERM had come.

        Raises:
            FloatingPointError: too many steps in a row were not finite.
            CheckpointError: no space to save.
        """
        try:
            return self._train(stop_after)
        finally:
            if self.accelerator.is_main_process:
                self.lock.release()

    def _train(self, stop_after: int | None) -> TrainingResult:
        config, main = self.config, self.accelerator.is_main_process
        started = time.perf_counter()
        resumed = load_latest(self._checkpoints, model=self.bare, ema=self.ema, optimizer=self.optimizer)
        first = resumed["step"] if resumed else 0
        counters = {**_counters(), **(resumed["counters"] if resumed else {})}
        self.best.record = dict(counters["best"])
        if resumed and resumed["loss_scale"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(resumed["loss_scale"])
        self.log.truncate(first)
        if config.report_to != "none":
            self.accelerator.init_trackers("logs")
        if resumed and main:
            logger.info("resuming %s at step %d of %d", self.folder, first, self.steps)
        bar = tqdm(
            total=self.steps, initial=first, desc="training", unit="step", disable=not (main and self.progress_bar)
        )
        last = first if counters["stopped_early"] else self.steps
        batches = iter(self._loader(first, self.steps - first)) if last > first else iter(())
        window, watch = Window(counters["window"]), Stopwatch(self.accelerator.device)
        done, signal = first, None
        with Interruption() as interruption:
            for step in range(first, last):
                scalars, learnt = self._optimizer_step(step, batches, watch)
                if learnt:
                    window.add(scalars)
                    counters["skipped_in_a_row"] = 0
                else:
                    self._count_skipped(step, counters)
                done = step + 1
                bar.update()
                if done % config.log_every == 0 or done == self.steps:
                    counters["losses"] = self._log_window(done, window, watch, counters)
                    harm = _harm(counters["losses"]) if done >= self.steps / 4 else []
                    for alarm in harm if not counters["harm"] else ():
                        logger.warning("step %d: %s", done, alarm)
                    counters["harm"] = harm
                    shown = {k: counters["losses"].get(k) for k in ("pair", "noise", "adaptation", "domain", "weight")}
                    bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items() if v is not None})
                if done == self.steps or (config.validate_every and done % config.validate_every == 0):
                    self._validate(done, counters)
                stop = done == stop_after or interruption.signal is not None
                stop = self._on_any_process(stop) and done < self.steps
                at_checkpoint = bool(config.checkpoint_every) and done % config.checkpoint_every == 0
                if stop or at_checkpoint or done == self.steps or counters["stopped_early"]:
                    self._save(done, counters, window)
                if stop:
                    signal = interruption.signal or 15
                    break
                if counters["stopped_early"]:
                    break
        bar.close()
        photos = self._photos()
        self._record(photos=photos)  # now it is known which could not be read
        pipeline = self._save_pipeline() if signal is None else None
        if config.report_to != "none":
            self.accelerator.end_training()
        return TrainingResult(
            pipeline,
            done,
            time.perf_counter() - started,
            counters["losses"],
            counters["validation"],
            counters["skipped_steps"],
            signal,
            best=counters["best"],
            health=counters["health"],
            alarms=[*counters["harm"], *counters["alarms"]],
            skipped_photos={
                role: names for role, sources in photos.items() if (names := [n for s in sources for n in s["skipped"]])
            },
        )

    # -- reporting ----------------------------------------------------------------------------------------------

    def _log_window(self, step: int, window: Window, watch: Stopwatch, counters: dict[str, Any]) -> dict[str, float]:
        means = window.means(self.accelerator)
        rate = self.optimizer.param_groups[0]["lr"]
        values = {**means, "learning_rate": rate, "skipped_steps": counters["skipped_steps"]}
        if self.accelerator.scaler is not None:
            values["loss_scale"] = self.accelerator.scaler.get_scale()
        self.log.write(step, values, watch.lap())
        return {name.removeprefix("loss/"): v for name, v in means.items() if name.startswith("loss/")}

    @contextmanager
    def _averaged_weights(self):
        """The restorer with the weights that would be kept now: the moving average, blended with those of the start.

        Between two fine-tuned or one fine-tuned and its start, networks average well: Wortsman et al. 2022, "Robust
        fine-tuning of zero-shot models".
        """
        parameters = self.trained
        kept = [tensor.clone() for tensor in self.statistics]
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        with torch.no_grad():
            for tensor, start in zip((*parameters, *self.statistics), self.start, strict=bool(self.start)):
                tensor.copy_(start.lerp(tensor, self.config.blend))
        self.bare.restorer.eval()
        try:
            yield self.bare.restorer
        finally:
            self.bare.restorer.train()
            self.ema.restore(parameters)
            with torch.no_grad():
                for tensor, before in zip(self.statistics, kept, strict=True):
                    tensor.copy_(before)

    def _validate(self, step: int, counters: dict[str, Any]) -> None:
        """Scores the averaged weights, on the main process; every process learns the score to select by."""
        score = math.nan
        with self._averaged_weights() as restorer:
            if self.validation is not None and self.accelerator.is_main_process:
                scores, grid = self.validation.run(restorer)
                if scores:
                    self.log.write(step, {f"validation/{k}": v for k, v in scores.items()})
                    counters["validation"] = scores
                    score = scores["psnr"]
                self.log.images(step, "input, restored, difference", grid)
            if self.health is not None and self.accelerator.is_main_process:
                adaptation = self.bare if isinstance(self.bare, NoiseSpaceAdaptation) else None
                report = self.health.run(restorer, adaptation)
                self.log.write(step, {f"health/{k}": v for k, v in report.values.items()})
                for alarm in report.alarms:
                    if alarm not in counters["alarms"]:
                        logger.warning("step %d: %s", step, alarm)
                counters["health"], counters["alarms"] = report.values, report.alarms
                score = report.score if self.config.select_by == "label_free" else score
            if self.config.select_by == "last":
                return
            if self.accelerator.num_processes > 1:
                scored = torch.tensor(score if self.accelerator.is_main_process else 0.0, dtype=torch.float32)
                score = float(self.accelerator.reduce(scored.to(self.accelerator.device), "sum"))
            self.best.offer(step, score, (*self.trained, *self.statistics), write=self.accelerator.is_main_process)
        counters["best"] = dict(self.best.record)
        patience = self.config.early_stopping
        counters["stopped_early"] = patience is not None and self.best.record.get("since", 0) >= patience

    # -- saving -------------------------------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _save(self, step: int, counters: dict[str, Any], window: Window) -> None:
        counters["window"] = window.state(self.accelerator)
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            save_checkpoint(
                self._checkpoints,
                step=step,
                model=self.bare,
                ema=self.ema,
                optimizer=self.optimizer,
                counters=counters,
                keep=self.config.keep,
                loss_scale=scaler.state_dict() if scaler is not None else None,
            )
            self.best.prune(recorded_steps(self._checkpoints))
        self.accelerator.wait_for_everyone()

    def _save_pipeline(self) -> Path:
        path = self.folder / PIPELINE_FOLDER
        if self.accelerator.is_main_process:
            with self._averaged_weights() as restorer:
                if self.best.record:
                    self.best.copy_to((*self.trained, *self.statistics))
                unet = self.bare.networks.get("noise_predictor") if self.config.save_noise_predictor else None
                restorer.float()
                if self.config.adapter:
                    restorer = save_trained_adapter(
                        self.config, restorer, self.folder / ADAPTER_FOLDER, self.dataset.real or []
                    )
                DAARestorationPipeline(restorer, cast(DAAUNet2DConditionModel | None, unet)).save_pretrained(str(path))
        self.accelerator.wait_for_everyone()
        return path


def _harm(losses: dict[str, float]) -> list[str]:
    """An alarm where restoring synthetic photos is worse than leaving them as they are."""
    if not losses or losses["pair"] <= losses["untouched"]:  # none: every step of the window was skipped
        return []
    return [
        f"restored synthetic photos are farther from the clean ones than untouched: loss {losses['pair']:.4f} against "
        f"{losses['untouched']:.4f}. Most often a step was too large: begin anew with `gradient_clip` 0.5 or a lower "
        "`learning_rate` (`gradient/all` in the log shows where); or train longer"
    ]


def train(config: TrainingConfig, *, progress_bar: bool = True) -> TrainingResult:
    """Trains or resumes; see `Trainer`."""
    return Trainer(config, progress_bar=progress_bar).train()


__all__ = ["Trainer", "TrainingResult", "train"]
