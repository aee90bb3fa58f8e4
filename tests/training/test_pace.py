"""The number of steps follows a time budget, and a resumed run takes the recorded ones."""

import json
import logging
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from daa_diffusers.training import bar, pace
from daa_diffusers.training.loop import Trainer
from daa_diffusers.training.progress import Correction, Progress
from daa_diffusers.training.run_state import list_checkpoints
from daa_diffusers.training.steps import Steps


def test_positions_are_the_steps_themselves_without_corrections():
    progress = Progress([Correction(0, 3000)])
    assert [progress.position(step) for step in (0, 1, 1777, 3000)] == [0, 1, 1777, 3000]
    assert progress.fraction(1500) == 0.5 and progress.fraction(4000) == 1.0


def test_a_corrected_run_goes_evenly_to_its_new_end():
    progress = Progress([Correction(0, 100), Correction(50, 75), Correction(60, 60)])
    assert progress.position(49) == 49 and progress.position(50) == 50
    assert progress.position(55) == pytest.approx(60)  # of 25 steps for the other 50
    assert progress.position(60) == 100
    assert [progress.total(step) for step in (49, 50, 59, 60)] == [100, 75, 75, 60]


def test_a_correction_of_the_future_does_not_change_the_steps_before_it():
    before, after = (Progress([Correction(0, 100), *more]) for more in ([], [Correction(40, 60)]))
    assert [before.position(step) for step in range(41)] == [after.position(step) for step in range(41)]


def record(config):
    return json.loads((Path(config.output_dir) / "run.json").read_text())


@pytest.fixture
def slower_from(monkeypatch):
    """Makes every step from one on wait, as on a machine that gets busier."""

    def slow(first, seconds):
        take = Steps.take

        def wait(self, step, *arguments):
            if step >= first:
                time.sleep(seconds)
            return take(self, step, *arguments)

        monkeypatch.setattr(Steps, "take", wait)

    return slow


def test_a_budget_is_kept_on_a_machine_that_gets_busier(tiny_config, slower_from):
    config = tiny_config(objective="supervised", real=[], minutes=0.1, checkpoint_every=0, log_every=1000)
    slower_from(first=10, seconds=0.2)
    begun = time.time()
    trainer = Trainer(config, progress_bar=False, begun=begun)
    planned = trainer.steps.progress.nominal
    result = trainer.train()
    assert time.time() - begun < 0.1 * 60 + 2
    assert planned > 2 * result.steps > 30  # the plan alone would have taken many times as long
    assert trainer.steps.progress.fraction(result.steps) == 1.0
    assert trainer.steps.optimizer.param_groups[0]["lr"] > 0
    assert record(config)["steps"] == result.steps


def test_all_of_a_command_counts(tiny_config, caplog):
    config = tiny_config(objective="supervised", real=[], minutes=0.1, checkpoint_every=0)
    with caplog.at_level(logging.WARNING):
        result = Trainer(config, progress_bar=False, begun=time.time() - 60).train()
    assert result.steps == 1 and "all of the 0.1 minutes" in caplog.text


def test_a_resumed_run_takes_the_recorded_steps(tiny_config, tmp_path, slower_from):
    config = tiny_config(
        objective="supervised", real=[], minutes=0.07, checkpoint_every=1, keep=1000, ema_decay=0.9, log_every=1000
    )
    slower_from(first=4, seconds=0.1)
    Trainer(config, progress_bar=False).train()
    checkpoints = list_checkpoints(Path(config.output_dir) / "checkpoints")
    corrections = record(config)["corrections"]
    last = max(path for path in checkpoints if int(path.name[5:]) <= corrections[-1][0])
    whole = load_file(last / "model.safetensors"), load_file(last / "ema.safetensors")
    assert len(corrections) > 2 and last != checkpoints[0]
    for path in checkpoints[1:]:  # as if it had been killed after the first
        shutil.rmtree(path)
    Trainer(config, progress_bar=False).train(stop_after=int(last.name[5:]))
    again = load_file(last / "model.safetensors"), load_file(last / "ema.safetensors")
    for one, other in zip(whole, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def clocked(tiny_config, monkeypatch, tmp_path_factory):
    """Runs training by a clock that only its steps and validations advance; returns (step, seconds left, true ones)."""

    def run(step_seconds, validation_seconds=0.0, **options):
        now, shown = [1e9], []
        clock = SimpleNamespace(time=lambda: now[0], monotonic=lambda: now[0])
        take, update, validate = Steps.take, bar.ProgressBar.update, Trainer._validate

        def taken(self, step, *arguments):
            now[0] += step_seconds(step)
            return take(self, step, *arguments)

        def updated(self, n=1):
            shown.append((self.seconds_left(), now[0]))
            return update(self, n)

        def validated(self, step):
            now[0] += validation_seconds
            return validate(self, step)

        with monkeypatch.context() as patched:
            for module in (bar, pace):
                patched.setattr(module, "time", clock)
            patched.setattr(Steps, "take", taken)
            patched.setattr(Steps, "seconds", lambda self: step_seconds(0))
            patched.setattr(bar.ProgressBar, "update", updated)
            patched.setattr(Trainer, "_validate", validated)
            options["output_dir"] = str(tmp_path_factory.mktemp("clocked") / "run")
            config = tiny_config(objective="supervised", real=[], checkpoint_every=0, log_every=1000, **options)
            steps = Trainer(config, progress_bar=False).train().steps
        assert len(shown) == steps
        end = shown[-1][1]
        return [(step, left, end - then) for step, (left, then) in enumerate(shown, start=1)]

    return run


def wrong(shown, first, last, slack=0.0):
    """The steps from `first` to `last` whose time left is wrong by more than a quarter, and by more than `slack`."""
    return [one for one in shown if first <= one[0] <= last and abs(one[1] - one[2]) > max(0.25 * one[2], slack)]


def test_the_time_left_of_a_budget_holds_through_a_change_of_speed(clocked):
    for before, after in ((1.0, 2.0), (2.0, 1.0), (1.0, 4.0)):
        shown = clocked(lambda step, before=before, after=after: before if step < 25 else after, minutes=1.2)
        assert 25 < len(shown) < 90
        assert wrong(shown, len(shown) // 10, len(shown), slack=5.0) == []  # seconds


def test_the_time_left_counts_slow_validations(clocked):
    shown = clocked(lambda step: 1.0, validation_seconds=5.0, steps=60, validate_every=5, health=False)
    assert wrong(shown, 6, 59, slack=5.0) == []
    assert shown[5][2] > 100  # half of the time is validation


def test_the_time_left_without_a_budget_follows_a_change_of_speed(clocked):
    """It cannot be known before; after a tenth of the steps at the new speed it holds."""
    shown = clocked(lambda step: 1.0 if step < 30 else 2.0, steps=60)
    assert wrong(shown, 36, 59) == []
    assert wrong(clocked(lambda step: 1.0 + step % 3, steps=60), 6, 59, slack=2.0) == []
