"""`daa adapt` from the page: started, followed, stopped, gone on with."""

import io
import json
import re
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from tqdm import tqdm

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.demo.adapt_job import BAR, NOTHING_GAINED, STAGE, Adaptation, Progress, _losses
from daa_diffusers.demo.adapt_tab import progress_text
from daa_diffusers.demo.offered import Offered
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.sources.specs import open_source
from daa_diffusers.training.config import TrainingConfig
from daa_diffusers.training.preparation import prepare_files
from daa_diffusers.training.result import START_KEPT


def until(adaptation, condition, seconds=240.0):
    """The first progress that fulfils `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        progress = adaptation.progress()
        if condition(progress):
            return progress
        time.sleep(0.1)
    raise AssertionError(f"still {adaptation.progress()}")


@pytest.fixture
def adaptation(tmp_path):
    made = Adaptation(tmp_path / "runs", tmp_path / "work")
    yield made
    made.close()


@pytest.fixture
def start(tmp_path):
    restorer = RestorationUNet(width=4, depth=2)
    torch.nn.init.zeros_(restorer.conv_out.weight)  # removes nothing yet, so that the estimate of noise does not use it
    torch.nn.init.zeros_(restorer.conv_out.bias)
    DAARestorationPipeline(restorer).save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


@pytest.fixture
def noisy(tmp_path):
    draws = np.random.default_rng(0)
    files = []
    for number in range(4):
        photo = data.coffee()[40 * number : 40 * number + 160, 100:300] + draws.normal(0, 15, (160, 200, 3))
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(photo.clip(0, 255).round().astype(np.uint8)).save(files[-1])
    return files


def test_the_progress_bar_is_understood():
    output = io.StringIO()
    bar = tqdm(total=480, desc="training", unit="step", file=output, ncols=100, mininterval=0)
    bar.update()
    bar.update(56)
    bar.set_postfix({"pair": "0.0123"})
    first, *_, last = [found.groups() for found in BAR.finditer(output.getvalue())]
    assert first == ("0", "480", "?") and last[:2] == ("57", "480") and ":" in last[2]


def test_a_run_that_kept_its_start_is_told_as_that(adaptation, tmp_path):
    adaptation._output.parent.mkdir(parents=True)
    adaptation._command = [sys.executable, "-c", f"raise SystemExit({START_KEPT})"]
    adaptation._launch()
    progress = until(adaptation, lambda progress: not progress.running)
    assert progress.state == "failed" and progress.message == NOTHING_GAINED and progress.checkpoint is None


def test_what_is_done_before_the_first_step_is_told(adaptation, tmp_path, caplog):
    """The training's own log lines, which its process writes."""
    (tmp_path / "real").mkdir()
    Image.fromarray(data.coffee()[:32, :32]).save(tmp_path / "real" / "0.png")
    real = [open_source(str(tmp_path / "real"))]
    with caplog.at_level("INFO", logger="daa_diffusers"):
        prepare_files(TrainingConfig(pseudo_clean=True), RestorationUNet(width=4, depth=2), tmp_path, real)
    said = "\n".join(["clean photos: scikit-image's", *caplog.messages, "noise: 0.1"])
    assert STAGE.findall(said)[-1] == "restoring the real photos (pseudo_clean)"
    message = adaptation._preparing(said)
    assert message.startswith("Before the first step: restoring the real photos (pseudo_clean) (")


def test_losses_are_read_while_they_are_written(tmp_path):
    log = tmp_path / "log.jsonl"
    line = json.dumps({"step": 20, "loss/pair": 0.5, "loss/noise": 1.5, "gradient/all": 3.0, "time": {}})
    log.write_text(line + "\n" + line[:30])
    assert _losses(log) == ((20, "pair", 0.5), (20, "noise", 1.5)) and _losses(tmp_path / "none") == ()


def test_progress_is_told_in_words():
    assert progress_text(Progress()) == "No adaptation is running."
    said = progress_text(Progress("training", 30, 120, "01:30", (), "Training."))
    assert said == "Training.\n█████░░░░░░░░░░░░░░░ step 30 of 120, 01:30 left"


def test_cancelled_at_once_nothing_is_learned_and_another_can_begin(adaptation, noisy, checkpoint):
    assert adaptation.progress().state == "idle"
    adaptation.start(noisy, noisy[:1], checkpoint=checkpoint, minutes=1)
    with pytest.raises(ConfigurationError, match="already running"):
        adaptation.start(noisy, noisy[:1], checkpoint=checkpoint, minutes=1)
    adaptation.cancel()
    stopped = until(adaptation, lambda progress: not progress.running)
    assert stopped.state == "stopped" and stopped.checkpoint is None and "before the first step" in stopped.message
    adaptation.start(noisy, noisy[:1], checkpoint=checkpoint, minutes=1)
    assert adaptation.progress().running


def test_without_photos_or_a_stopped_run_there_is_nothing_to_do(adaptation, checkpoint):
    with pytest.raises(ConfigurationError, match="choose photos"):
        adaptation.start([], [], checkpoint=checkpoint, minutes=1)
    with pytest.raises(ConfigurationError, match="no stopped adaptation"):
        adaptation.resume()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_why_it_failed_is_told_without_folders(adaptation, noisy, checkpoint, tmp_path):
    bad = [tmp_path / f"bad_{number}.png" for number in range(3)]
    for path in bad:
        path.write_bytes(b"no photo")
    adaptation.start([str(path) for path in bad], noisy, checkpoint=checkpoint, minutes=0.02)
    failed = until(adaptation, lambda progress: not progress.running)
    assert failed.state == "failed" and "bad_0.png" in failed.message, failed
    assert str(tmp_path) not in failed.message and "Traceback" not in failed.message


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_stopped_it_keeps_what_it_learned_and_goes_on_to_the_end(adaptation, noisy, start):
    adaptation.start(noisy, noisy[:1], checkpoint=start, minutes=1)
    stages = set()

    def begun(progress):
        stages.update(re.findall(r"step: (.+) \(\d+ s", progress.message))
        return progress.step > 0 or not progress.running

    seen = until(adaptation, begun)
    assert {"loading", "measuring the training speed"} <= stages, stages
    assert seen.state == "training" and seen.steps > seen.step, seen
    adaptation.cancel()
    stopped = until(adaptation, lambda progress: not progress.running)
    assert stopped.state == "stopped" and stopped.checkpoint.endswith(f"stopped-at-{stopped.step}"), stopped

    kept = list(DAARestorationPipeline.from_pretrained(stopped.checkpoint).restorer.parameters())
    began = list(DAARestorationPipeline.from_pretrained(start).restorer.parameters())
    (saved,) = (adaptation.runs).glob("*/checkpoints/*")
    average = load_file(saved / "ema.safetensors")
    for number, (now, before) in enumerate(zip(kept, began, strict=True)):
        torch.testing.assert_close(now, (before + average[str(number)]) / 2)  # the preset's blend
    assert any(not torch.equal(now, before) for now, before in zip(kept, began, strict=True))

    said = Offered([stopped.checkpoint]).purpose(stopped.checkpoint)
    limits = "Removes the noise of cameras. It does not remove blur or rain."
    assert said == f"{limits} Adapted to photos without ground truth."

    adaptation.resume()
    done = until(adaptation, lambda progress: not progress.running, seconds=600.0)
    assert done.state == "done" and done.step == done.steps >= stopped.step and done.losses
    assert DAARestorationPipeline.from_pretrained(done.checkpoint).channels == 3
