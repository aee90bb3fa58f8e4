"""The training loop: steps, kept weights, reports and checkpoints. The objective computes the loss."""

import logging
import time
from pathlib import Path
from signal import SIGTERM

import torch

from ..models.restorer import RestorerContract
from ..objectives.base import Objective
from . import setup
from .bar import ProgressBar
from .batches import Batches
from .config import TrainingConfig
from .final_pipeline import save_pipeline
from .health import Health
from .held_out import HeldOut
from .interruption import Interruption
from .kept_weights import KeptWeights
from .log import RunLog, Window
from .memory_need import check_memory
from .pace import Pace
from .preparation import prepare_files, use_files
from .processes import from_main, on_any, prepare_memory, start_accelerator
from .rate_probe import learning_rate_factor
from .real_photos import measure_for
from .reports import Reports
from .result import TrainingResult
from .run_folder import RunFolder
from .run_state import check_space, load_latest, new_counters, recorded_steps, save_checkpoint
from .safeguard import Safeguard
from .steps import Steps, count_step
from .trackers import start_trackers
from .validation import Validation

logger = logging.getLogger(__name__)

VALIDATIONS = 12  # number of validations, equally spaced, of a run that selects weights without `validate_every`
SHOWN = ("pair", "noise", "adaptation", "domain", "weight")  # losses shown in the progress bar


class Trainer:
    """One run of `config`, from the newest checkpoint in its folder (if any) to its last step.

    The output folder is locked for this process until `train` ends.

    Args:
        config: options of the run.
        progress_bar: whether the main process shows a progress bar.
        begun: `time.time()` at which `config.minutes` begin to count; None: now.
        after: seconds of `config.minutes` to reserve for the caller's work after `train`.
        inputs: initial restorer and sources, if already loaded. The restorer is trained in place.

    Raises:
        ConfigurationError: options, sources or the output folder are invalid; raised before the first step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        progress_bar: bool = True,
        begun: float | None = None,
        after: float = 0.0,
        inputs: setup.Inputs | None = None,
    ):
        self.pace = Pace(config, begun=begun, after=after)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config = config.check()
        self.progress_bar = progress_bar
        # 1. networks and photos: invalid ones are reported before anything is written
        model = setup.prepare_networks(config, setup.build_model(config, inputs.restorer if inputs else None))
        contract = RestorerContract.of(model.restorer)
        sources = inputs.sources if inputs else setup.open_all_sources(config, contract.channels)
        self.real, self.inspections = sources.get("real", []), inputs.inspections if inputs else None
        self.dataset = setup.build_dataset(config, sources)
        validation = Validation.from_config(config, self.real)
        health = Health.from_config(config, sources) if config.health else None
        # 2. processes and their device
        self.accelerator = start_accelerator(config)
        self.main = self.accelerator.is_main_process
        check_memory(config, model, [source for each in sources.values() for source in each], self.accelerator.device)
        check_space(Path(config.output_dir), model, is_held=bool(config.init_from and config.hold_to_start))
        model.to(self.accelerator.device)  # before the real photos are restored, for speed
        if health is not None and self.main:
            health.measure_start(model.restorer)
        self.batches = Batches(self.dataset, self.accelerator, config, contract.value_range, self.real)
        # 3. the run's folder, and files prepared from the real photos
        self.folder = RunFolder(config, writes=self.main)
        self.folder.take(self.batches.samples_per_step, {**sources, **(validation.sources if validation else {})})
        try:
            self._prepare(model, validation, health)
        except BaseException:
            self.folder.withdraw()
            raise

    def _prepare(self, model: Objective, validation: Validation | None, health: Health | None) -> None:
        """Prepares the run in its folder, before the first step."""
        config = self.config
        self.accelerator.wait_for_everyone()
        if self.main:
            prepared = prepare_files(
                config,
                model.restorer,
                self.folder.path,
                self.real,
                seconds_of=self.pace.share,
                inspections=self.inspections,
                prepared=self.folder.record.get("prepared"),
            )
            if prepared:
                self.folder.update(prepared=prepared)
            if config.init_from and model.measures and "measured" not in self.folder.record:
                self.folder.update(measured=measure_for(model, self.real, self.dataset))
        self.accelerator.wait_for_everyone()
        model.use_measured(self.folder.record.get("measured", {}))
        use_files(config, self.dataset, self.folder.path)
        # 4. the steps, the plan of their number, and the weights to keep
        prepare_memory(self.accelerator.device)
        self.steps = Steps(config, model, self.batches, self.accelerator)
        self.bare = self.steps.bare
        held_out = HeldOut.from_config(config, self.batches, self.bare.restorer)
        if held_out is not None:
            self.steps.factor = learning_rate_factor(config, self.folder, self.steps, held_out)
        self.pace.plan(self.steps, self.folder, held_out)
        self.folder.update(photos=setup.training_photos(self.dataset, self.real), **self.pace.record())
        self.kept = KeptWeights(
            self.bare.restorer, decay=self.pace.ema_decay(0), blend=config.blend, best=self.folder.best
        )
        self.safeguard = Safeguard(held_out, self.steps, self.kept) if held_out is not None else None
        # 5. log and reports
        self.log = RunLog(self.accelerator, self.folder.log)
        self.reports = Reports(config, self.log, validation=validation, health=health)
        self.window, self.counters = Window(), new_counters()

    def train(self, *, stop_after: int | None = None) -> TrainingResult:
        """Runs to the last step and saves the pipeline; the same call on the same folder resumes.

        SIGTERM and Ctrl-C end the run after the current step, with a checkpoint.

        Args:
            stop_after: number of steps after which to end as on a SIGTERM.

        Raises:
            FloatingPointError: more than `max_skipped_steps` steps in a row were skipped.
            CheckpointError: not enough disk space for a checkpoint or for the final pipeline.
        """
        try:
            return self._train(stop_after)
        except BaseException:
            self.folder.withdraw()  # unless a step was done
            raise
        finally:
            self.folder.release()

    def _train(self, stop_after: int | None) -> TrainingResult:
        config, progress, started = self.config, self.steps.progress, time.perf_counter()
        done = self._resume()
        signal: int | None = None
        if done == 0 and config.init_from and config.select_by in ("label_free", "bursts"):
            self._offer(0)  # weights that score lower than the initial ones are not kept
        is_outlier = self.safeguard.is_outlier if self.safeguard else None
        total = progress.total(done)
        end = done >= total or self.counters["stopped_early"]
        left = None if self.pace.is_timed else total - done  # a time budget may still change the number
        batches = iter(() if end else self.batches.loader(done, left))
        bar = ProgressBar(self.pace, done=done, total=total, hidden=not (self.main and self.progress_bar))
        with bar, Interruption() as interruption:
            while not end:
                # 1. the step
                step = done
                bar.begin_step()
                scalars = self.steps.take(step, batches, self.kept, is_outlier)
                self.folder.begun()
                bar.end_step()
                done = step + 1
                if self.safeguard is not None and (scalars is None or self.safeguard.is_due(done)):
                    self.safeguard.check(done, skipped=scalars is None)
                count_step(step, scalars, self.window, self.counters, config.max_skipped_steps)
                self.pace.correct(done)
                self.kept.ema.decay = self.pace.ema_decay(done)
                total = progress.total(done)
                bar.advance(done, total)
                # 2. its reports
                if done % config.log_every == 0 or done == total:
                    losses = self.reports.losses(done, self.window, self.steps, self.counters)
                    bar.set_postfix({name: f"{losses[name]:.4f}" for name in SHOWN if name in losses})
                if done == total or self._is_validated(done):
                    self._validate(done)
                # 3. a checkpoint, and the end
                is_asked = done == stop_after or interruption.signal is not None
                stop = on_any(self.accelerator, is_asked) and done < total
                end = done == total or self.counters["stopped_early"]
                if stop or end or (config.checkpoint_every and done % config.checkpoint_every == 0):
                    self._save(done)
                if stop:
                    signal = interruption.signal or SIGTERM
                    break
        photos = self.batches.photos()
        self.folder.update(photos=photos)  # again: the photos that could not be read are known now
        if self.safeguard is not None and signal is None:
            self.counters["kept"] = self.safeguard.finish(done)
            self.counters["best"] = dict(self.kept.best.record)
            self.folder.update(held_to_start={"returns": self.safeguard.state["returns"], **self.counters["kept"]})
        pipeline = None
        if signal is None:
            if self.main:
                save_pipeline(config, self.folder, self.bare, self.kept, self.real)
            self.accelerator.wait_for_everyone()
            pipeline = self.folder.pipeline
        if config.report_to != "none":
            self.accelerator.end_training()
        seconds = time.perf_counter() - started
        return TrainingResult.of(self.counters, photos, pipeline=pipeline, steps=done, seconds=seconds, signal=signal)

    def _resume(self) -> int:
        """Restores the state of the newest checkpoint; returns the number of steps done."""
        resumed = load_latest(
            self.folder.checkpoints, model=self.bare, ema=self.kept.ema, optimizer=self.steps.optimizer
        )
        done = resumed["step"] if resumed else 0
        self.counters = {**new_counters(), **(resumed["counters"] if resumed else {})}
        self.kept.best.record = dict(self.counters["best"])
        if self.safeguard is not None and resumed:
            self.safeguard.resume(self.counters["safeguard"], resumed["good"], done)
        self.window = Window(self.counters["window"])
        if resumed and resumed["loss_scale"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(resumed["loss_scale"])
        self.log.truncate(done)
        start_trackers(self.accelerator, self.config, self.steps.progress.total(done))
        if resumed and self.main:
            logger.info("resuming %s at step %d of %d", self.folder.path, done, self.steps.progress.total(done))
        self.steps.watch.lap()
        self.pace.start(done, self.counters["spent"])
        self.kept.ema.decay = self.pace.ema_decay(done)
        return done

    def _is_validated(self, step: int) -> bool:
        """Whether a validation is due after `step`; the last step is always validated."""
        every = self.config.validate_every
        if every or self.config.select_by == "last":
            return bool(every) and step % every == 0
        return self.steps.progress.completes_part(step, VALIDATIONS)

    def _validate(self, step: int) -> None:
        """Scores the weights to keep; the run stops if `early_stopping` validations in a row have no better score."""
        self._offer(step)
        patience = self.config.early_stopping
        self.counters["stopped_early"] = patience is not None and self.kept.best.record.get("since", 0) >= patience

    def _offer(self, step: int) -> None:
        """Scores the weights to keep on the main process; all processes compare the score with the best one."""
        with self.kept.applied() as restorer:
            score = self.reports.evaluate(step, restorer, self.bare, self.counters) if self.main else 0.0
            if self.config.select_by == "last":
                return
            score = from_main(self.accelerator, score)
            self.kept.best.offer(step, score, self.kept.tensors, write=self.main)
        self.counters["best"] = dict(self.kept.best.record)

    def _save(self, step: int) -> None:
        """Saves a checkpoint."""
        self.counters["window"] = self.window.state(self.accelerator)
        self.counters["spent"] = self.pace.spent()
        if self.safeguard is not None:
            self.counters["safeguard"] = self.safeguard.state
        if self.main:
            scaler = self.accelerator.scaler
            save_checkpoint(
                self.folder.checkpoints,
                step=step,
                model=self.bare,
                ema=self.kept.ema,
                optimizer=self.steps.optimizer,
                counters=self.counters,
                keep=self.config.keep,
                loss_scale=scaler.state_dict() if scaler is not None else None,
                good=self.safeguard.snapshot_to_save(step) if self.safeguard is not None else None,
            )
            self.kept.best.prune(recorded_steps(self.folder.checkpoints))
        self.accelerator.wait_for_everyone()


def train(
    config: TrainingConfig, *, progress_bar: bool = True, begun: float | None = None, after: float = 0.0
) -> TrainingResult:
    """Trains or resumes; see `Trainer`."""
    return Trainer(config, progress_bar=progress_bar, begun=begun, after=after).train()


__all__ = ["Trainer", "TrainingResult", "train"]
