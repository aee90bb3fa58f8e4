"""Real tiny runs: they learn, they resume bit for bit, and they refuse what cannot work before the first step."""

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from daa_diffusers import DAARestorationPipeline, FastRestorationUNet, RestorationUNet
from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.planning import describe
from daa_diffusers.training.run_state import list_checkpoints, load_checkpoint
from daa_diffusers.training.steps import Steps

ROOT = Path(__file__).resolve().parents[2]


def quiet(config):
    return train(config, progress_bar=False)


def state(folder) -> dict[str, torch.Tensor]:
    newest = list_checkpoints(Path(folder) / "checkpoints")[-1]
    tensors = {}
    for name in ("model", "ema", "optimizer"):
        tensors |= {f"{name}.{k}": v.clone() for k, v in load_file(newest / f"{name}.safetensors").items()}
    return tensors


def interrupt_at(monkeypatch, step):
    """Makes the run die in the middle of optimizer step `step`, after the forward pass."""
    original = Steps.joint_step

    def dying(self, at, batch):
        if at == step:
            raise KeyboardInterrupt
        return original(self, at, batch)

    monkeypatch.setattr(Steps, "joint_step", dying)


@pytest.mark.parametrize("variant", ["paired", "hybrid", "vanilla"])
def test_an_interrupted_run_ends_bit_identical(tiny_config, tmp_path, monkeypatch, variant):
    options = {
        "variant": variant,
        "noise_predictor_options": tiny_config().objective["noise_predictor_options"] | {"dropout": 0.2},
    }
    options |= {"learning_rate_schedule": "cosine", "predictor_warmup_steps": 1}
    whole = quiet(tiny_config(output_dir=str(tmp_path / "whole"), **options))
    config = tiny_config(output_dir=str(tmp_path / "cut"), **options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            quiet(config)
    cut = quiet(config)
    expected, found = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in expected)
    assert whole.losses == cut.losses
    weights = [load_file(r.pipeline / "restorer" / "diffusion_pytorch_model.safetensors") for r in (whole, cut)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_run_learns_and_its_pipeline_restores(tiny_config, photo_folders):
    options = {"steps": 60, "variant": "vanilla", "learning_rate": 2e-3, "checkpoint_every": 0, "ema_decay": 0.9}
    options["degradation"] = {"type": "gaussian", "sigma_min": 25.0, "sigma_max": 25.0}
    config = tiny_config(**options, validation_degraded=str(photo_folders / "degraded"),
                         validation_clean=str(photo_folders / "clean"))  # fmt: skip
    result = quiet(config)
    log = [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss/pair"] for entry in log if "loss/pair" in entry]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert set(result.validation) == {"psnr", "ssim", "psnr_identity"}
    pipeline = DAARestorationPipeline.from_pretrained(result.pipeline)
    photo = Image.open(photo_folders / "degraded" / "photo 0.png")
    assert pipeline(photo).images[0].size == photo.size


@pytest.mark.parametrize(("offset", "rings"), [(0.5, True), (0.0, False)])
def test_a_restorer_that_is_worse_than_none_rings_an_alarm(tiny_config, tmp_path, caplog, offset, rings):
    restorer = RestorationUNet(width=4, depth=2)
    torch.nn.init.zeros_(restorer.conv_out.weight)
    torch.nn.init.constant_(restorer.conv_out.bias, offset)  # added to every pixel
    restorer.save_pretrained(tmp_path / "start")
    noisy = {"type": "gaussian", "sigma_min": 25.0, "sigma_max": 25.0}
    options = {"init_from": str(tmp_path / "start"), "variant": "vanilla", "learning_rate": 1e-6, "degradation": noisy}
    result = quiet(tiny_config(**options))
    assert result.losses["untouched"] == pytest.approx(25 / 255 * (2 / math.pi) ** 0.5, rel=0.1)
    assert [("than untouched" in alarm) for alarm in result.alarms] == [True] * rings
    assert ("than untouched" in caplog.text) == rings


def test_the_saved_weights_are_the_moving_average(tiny_config):
    config = tiny_config(ema_decay=0.9)
    result = quiet(config)
    newest = list_checkpoints(Path(config.output_dir) / "checkpoints")[-1]
    average = load_file(newest / "ema.safetensors")
    raw = load_file(newest / "model.safetensors")
    saved = DAARestorationPipeline.from_pretrained(result.pipeline).restorer
    for index, (name, parameter) in enumerate(saved.named_parameters()):
        assert torch.equal(parameter, average[str(index)])
        assert not torch.equal(parameter, raw[f"restorer.{name}"])


def test_the_same_command_after_the_end_changes_nothing(tiny_config):
    config = tiny_config()
    first = quiet(config)
    before = state(config.output_dir)
    second = quiet(config)
    assert first.losses == second.losses and first.pipeline == second.pipeline
    assert all(torch.equal(before[k], v) for k, v in state(config.output_dir).items())


def test_a_damaged_checkpoint_is_passed_over(tiny_config, monkeypatch, caplog):
    config = tiny_config()
    quiet(config)
    expected = state(config.output_dir)
    newest, before = list_checkpoints(Path(config.output_dir) / "checkpoints")[::-1][:2]
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        quiet(config)
    assert newest.name in caplog.text and before.exists()
    assert all(torch.equal(expected[k], v) for k, v in state(config.output_dir).items())


def test_old_checkpoints_are_removed(tiny_config):
    config = tiny_config(keep=1)
    quiet(config)
    assert [p.name for p in list_checkpoints(Path(config.output_dir) / "checkpoints")] == ["step-00000006"]


def test_an_output_folder_belongs_to_one_run(tiny_config, tmp_path):
    quiet(tiny_config(steps=1))
    with pytest.raises(ConfigurationError, match="weight: 0.2 there, 0.3 now"):
        quiet(tiny_config(steps=1, weight=0.3))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="`output_dir` must be a new or empty folder"):
        quiet(tiny_config(output_dir=str(foreign)))
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_wrong_folders_fail_before_anything_is_written(tiny_config, tmp_path):
    (tmp_path / "empty").mkdir()
    for changes, message in (
        ({"clean": [str(tmp_path / "missing")]}, "`clean`"),
        ({"real": [str(tmp_path / "empty")]}, "`real`"),
        ({"patch": 20}, "`patch` must be a multiple of 8"),
        ({"degradation": {"type": "gausian"}}, "gaussian"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            quiet(tiny_config(**changes))
    assert not (tmp_path / "run").exists()


def test_odd_and_broken_photos_in_a_folder(tiny_config, photo_folders, tmp_path, caplog):
    """16 bit, gray, alpha, palette, smaller than a patch, a name with spaces: used. Broken: reported and skipped."""
    folder = tmp_path / "my real photos"
    shutil.copytree(photo_folders / "real", folder)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 65535, (40, 40), dtype=np.uint16)).save(folder / "deep gray.png")
    Image.fromarray(rng.integers(0, 255, (30, 30, 4), dtype=np.uint8), "RGBA").save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8)).save(folder / "tiny photo.png")
    Image.fromarray(rng.integers(0, 255, (30, 30, 3), dtype=np.uint8)).quantize(8).save(folder / "palette.png")
    (folder / "text.jpg").write_text("no photo")
    whole = (folder / "cat_0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    config = tiny_config(real=[str(folder)], steps=12)
    with caplog.at_level(logging.WARNING):
        quiet(config)
    assert "text.jpg" in caplog.text and "cut.jpg" in caplog.text
    assert all(name not in caplog.text for name in ("deep gray", "alpha", "tiny photo", "palette"))
    record = json.loads((Path(config.output_dir) / "run.json").read_text())
    assert sorted(record["photos"]["real"][0]["skipped"]) == ["cut.jpg", "text.jpg"]


def test_supervised_training_on_pairs(tiny_config, photo_folders):
    config = tiny_config(
        clean=[],
        variant="vanilla",
        paired_degraded=[str(photo_folders / "degraded")],
        paired_clean=[str(photo_folders / "clean")],
    )
    assert quiet(config).losses["pair"] > 0


def test_accumulated_batches_equal_one_large_batch(tiny_config, tmp_path):
    results = {}
    predictor = tiny_config().objective["noise_predictor_options"] | {"dropout": 0.0}
    for name, changes in {"large": {"batch_size": 4}, "two": {"gradient_accumulation_steps": 2}}.items():
        # no residual swap: the hinge of eq. (4) is a function of the whole batch
        changes |= {"output_dir": str(tmp_path / name), "noise_predictor_options": predictor}
        config = tiny_config(residual_swap=False, **changes)
        quiet(config)
        results[name] = state(tmp_path / name)
    for key, value in results["large"].items():
        if key.startswith("model."):
            torch.testing.assert_close(results["two"][key], value, rtol=1e-4, atol=2e-5)


def test_curves_and_grids_reach_tensorboard(tiny_config, photo_folders):
    config = tiny_config(report_to="tensorboard", steps=2, validate_every=1)
    quiet(config)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = Path(config.output_dir) / "logs"
    events = EventAccumulator(str(logs)).Reload()
    assert "loss/pair" in events.Tags()["scalars"] and events.Tags()["images"]
    (options,) = logs.rglob("hparams.yml")
    assert yaml.safe_load(options.read_text())["learning_rate"] == config.learning_rate


def test_dry_run_tells_what_a_run_needs(tiny_config):
    text = describe(tiny_config())
    assert "parameters" in text and "GiB" in text and "4 photos" in text
    assert yaml.safe_load(text)["steps"] == 6
    assert not Path(tiny_config().output_dir).exists()


@pytest.mark.parametrize("begin", [describe, Trainer])
def test_a_dry_run_refuses_what_a_run_would(tiny_config, photo_folders, begin):
    with pytest.raises(ConfigurationError, match="`output_dir` must be a new or empty folder"):
        begin(tiny_config(output_dir=str(photo_folders / "clean")))
    with pytest.raises(CheckpointError, match="`init_from` 'nope' is not a bundled checkpoint"):
        begin(tiny_config(init_from="nope"))


def test_a_fast_restorer_trains_resumes_and_is_saved(tiny_config, tmp_path):
    options = {"restorer": "fast-tiny", "variant": "vanilla", "steps": 3, "value_range": [-1.0, 1.0]}
    config = tiny_config(output_dir=str(tmp_path / "run"), **options)
    Trainer(config, progress_bar=False).train(stop_after=2)
    restorer = DAARestorationPipeline.from_pretrained(quiet(config).pipeline).restorer
    whole = quiet(tiny_config(output_dir=str(tmp_path / "whole"), **options))
    expected = DAARestorationPipeline.from_pretrained(whole.pipeline).restorer
    assert type(restorer) is FastRestorationUNet and restorer.config.value_range == [-1.0, 1.0]
    assert all(map(torch.equal, restorer.parameters(), expected.parameters()))


def test_a_checkpoint_of_another_network_is_refused(tiny_config, tmp_path):
    quiet(tiny_config(steps=2))
    other = Trainer(tiny_config(output_dir=str(tmp_path / "other"), restorer="small", steps=2), progress_bar=False)
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, model=other.bare, ema=other.kept.ema, optimizer=other.steps.optimizer)


def command(config, tmp_path, *launcher):
    file = tmp_path / "options.yaml"
    file.write_text(config.to_yaml())
    return [sys.executable, *launcher, str(ROOT / "examples" / "train_daa.py"), "--config", str(file)]


def test_the_example_survives_a_kill(tiny_config, tmp_path):
    """SIGKILL in the middle, the same command again, against a run that was left alone."""
    quiet(tiny_config(steps=40, output_dir=str(tmp_path / "whole")))
    config = tiny_config(steps=40, output_dir=str(tmp_path / "killed"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(config, tmp_path), env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list_checkpoints(Path(config.output_dir) / "checkpoints") and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command(config, tmp_path), env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    assert "from_pretrained" in done.stdout
    expected, found = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_the_example_tells_mistakes_without_a_traceback(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "train_daa.py"),
            "--clean",
            str(tmp_path / "no"),
            "--variant",
            "vanilla",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 2 and "`clean`" in done.stderr and "Traceback" not in done.stderr


def test_trackio_gets_numbers_and_pictures(tiny_config, photo_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    quiet(tiny_config(report_to="trackio", validation_degraded=str(photo_folders / "degraded")))
    (database,) = (tmp_path / "trackio").glob("*.db")
    assert database.stem == "daa-diffusers"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        logged = [json.loads(row[0]) for row in connection.execute("select metrics from metrics")]
        (name, options), *_ = connection.execute("select run_name, config from configs")
    assert name == "run" and json.loads(options)["patch"] == 16
    assert any("loss/pair" in line for line in logged)
    assert any("input, restored, difference" in line for line in logged)
    assert list((tmp_path / "trackio").rglob("*.png"))
