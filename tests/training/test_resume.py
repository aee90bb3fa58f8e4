"""An interrupted run ends as one that was left alone, bit for bit, however and whenever it is interrupted."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training import run_folder
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.run_state import list_checkpoints
from daa_diffusers.training.steps import Steps
from daa_diffusers.training.verification import differences, verify_resume

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def quiet(config):
    return train(config, progress_bar=False)


def command(config, folder, *launcher):
    file = Path(folder) / f"{Path(config.output_dir).name}.yaml"
    file.write_text(config.to_yaml())
    return [sys.executable, *launcher, str(ROOT / "examples" / "train_daa.py"), "--config", str(file)]


def start(config, folder, *launcher):
    return subprocess.Popen(command(config, folder, *launcher), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(process, config, count=1, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(list_checkpoints(Path(config.output_dir) / "checkpoints")) >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError("no checkpoint came")


def assert_same_run(first, second):
    assert differences(Path(first.output_dir), Path(second.output_dir)) == []
    name = Path("pipeline") / "restorer" / "diffusion_pytorch_model.safetensors"
    assert (Path(first.output_dir) / name).read_bytes() == (Path(second.output_dir) / name).read_bytes()


@pytest.fixture
def long_config(tiny_config, tmp_path):
    """A run of some seconds that saves after every step, so that most kills hit a save."""

    def make(name, **changes):
        predictor = tiny_config().objective["noise_predictor_options"] | {"dropout": 0.2}
        options = {"steps": 60, "checkpoint_every": 1, "log_every": 7, "learning_rate_schedule": "cosine"}
        options |= {"noise_predictor_options": predictor, "output_dir": str(tmp_path / name), **changes}
        return tiny_config(**options)

    return make


def kill_and_resume(config, folder, kills, seed):
    """SIGKILL at `kills` random moments of the run, each time followed by the same command."""
    draw = random.Random(seed)
    for _ in range(kills):
        process = start(config, folder)
        known = len(list_checkpoints(Path(config.output_dir) / "checkpoints"))
        newest = list_checkpoints(Path(config.output_dir) / "checkpoints")[-1:] if known else []
        deadline = time.monotonic() + 120
        while list_checkpoints(Path(config.output_dir) / "checkpoints")[-1:] == newest and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command(config, folder), env=ENVIRONMENT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    assert "from_pretrained" in done.stdout


def test_three_kills_at_random_moments(long_config, tmp_path):
    whole, killed = long_config("whole"), long_config("killed")
    quiet(whole)
    kill_and_resume(killed, tmp_path, kills=3, seed=time.time_ns())
    assert_same_run(whole, killed)


@pytest.mark.slow
@pytest.mark.timeout(900)  # twenty starts and 300 checkpoints: four minutes and more
def test_twenty_kills_at_random_moments(long_config, tmp_path):
    whole, killed = long_config("whole", steps=300), long_config("killed", steps=300)
    quiet(whole)
    kill_and_resume(killed, tmp_path, kills=20, seed=time.time_ns())
    assert_same_run(whole, killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first(long_config, tmp_path, number):
    whole, stopped = (long_config(name, checkpoint_every=10) for name in ("whole", "stopped"))
    quiet(whole)
    process = start(stopped, tmp_path)
    wait_for_checkpoint(process, stopped)
    process.send_signal(number)
    process.wait(timeout=600)
    assert process.returncode == 128 + number, process.stderr.read()
    assert not (Path(stopped.output_dir) / "pipeline").exists()
    quiet(stopped)
    assert_same_run(whole, stopped)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a launcher's end is told by Linux alone")
def test_the_end_of_the_launcher_saves_and_ends_the_run(long_config, tmp_path):
    config = long_config("run", steps=100_000, checkpoint_every=10)
    process = start(config, tmp_path, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu")
    wait_for_checkpoint(process, config)
    process.terminate()
    process.wait(timeout=600)
    lock = run_folder.lock_output(config, wait=60)  # free as soon as the run has ended
    newest = list_checkpoints(Path(config.output_dir) / "checkpoints")[-1]
    lock.release()
    assert newest.name == list_checkpoints(Path(config.output_dir) / "checkpoints")[-1].name


def test_verify_resume_finds_nothing_and_then_a_difference(tiny_config, monkeypatch):
    config = tiny_config(verify_resume=4)
    assert verify_resume(config) == []

    original = Steps.joint_step

    def random_step(self, step, batch):
        batch["synthetic"] = batch["synthetic"] + 1e-3 * torch.rand(1).item() if step == 3 else batch["synthetic"]
        return original(self, step, batch)

    def unseeded(self, step, batch):
        torch.seed()
        return random_step(self, step, batch)

    monkeypatch.setattr(Steps, "joint_step", unseeded)
    found = verify_resume(config)
    assert any("model.safetensors" in text for text in found) and any("log.jsonl" in text for text in found)


def test_a_signal_in_the_middle_of_a_window_leaves_no_trace_in_the_log(tiny_config, tmp_path):
    whole, cut = (tiny_config(output_dir=str(tmp_path / name), log_every=4, checkpoint_every=5) for name in "ab")
    quiet(whole)
    result = Trainer(cut, progress_bar=False).train(stop_after=3)
    assert result.signal == signal.SIGTERM and result.pipeline is None and result.steps == 3
    quiet(cut)
    assert_same_run(whole, cut)


def test_a_log_cut_off_in_the_middle_of_a_line_is_mended(tiny_config, tmp_path):
    whole, cut = (tiny_config(output_dir=str(tmp_path / name)) for name in ("whole", "cut"))
    quiet(whole)
    Trainer(cut, progress_bar=False).train(stop_after=3)
    log = Path(cut.output_dir) / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"step": 4, "loss/pair": 1.0}) + '\n{"step": 5, "lo')
    quiet(cut)
    assert_same_run(whole, cut)


def test_resuming_with_other_options_names_them_and_can_be_insisted_on(tiny_config):
    config = tiny_config(steps=4)
    quiet(config)
    changed = replace(config, steps=6, learning_rate=5e-5)
    with pytest.raises(ConfigurationError, match=r"(?s)learning_rate: 0.0001 there, 5e-05 now.*steps: 4 there, 6 now"):
        quiet(changed)
    assert quiet(replace(changed, resume_with_changes=True)).steps == 6
    record = json.loads((Path(config.output_dir) / "run.json").read_text())
    assert record["changes"] == [{"learning_rate": [0.0001, 5e-05], "steps": [4, 6]}]
    assert quiet(changed).steps == 6  # they are this run's options now


def test_a_folder_is_trained_in_by_one_process(tiny_config):
    config = tiny_config()
    lock = run_folder.lock_output(config)
    with pytest.raises(ConfigurationError, match="in use by another training process"):
        run_folder.lock_output(config, wait=0.1)
    lock.release()
    run_folder.lock_output(config, wait=0.1).release()


def as_format_1(path):
    plain = json.loads((path / "state.json").read_text())
    del plain["loss_scale"]
    plain |= {"format_version": 1, "counters": {k: plain["counters"][k] for k in ("losses", "validation")}}
    (path / "state.json").write_text(json.dumps(plain))


def test_a_checkpoint_of_format_1_is_migrated(tiny_config, tmp_path):
    whole, old = (tiny_config(output_dir=str(tmp_path / name)) for name in ("whole", "old"))
    quiet(whole)
    Trainer(old, progress_bar=False).train(stop_after=2)
    as_format_1(list_checkpoints(Path(old.output_dir) / "checkpoints")[-1])
    record = Path(old.output_dir) / "run.json"
    known = json.loads(record.read_text())
    for newer in ("dtype", "compile", "select_by", "samples_per_step"):
        del known["options"][newer]
    record.write_text(json.dumps(known))
    quiet(old)
    assert differences(Path(whole.output_dir), Path(old.output_dir)) == []


def test_a_checkpoint_of_a_later_format_is_told_from_a_damaged_one(tiny_config, caplog):
    config = tiny_config()
    quiet(config)
    newest = list_checkpoints(Path(config.output_dir) / "checkpoints")[-1]
    plain = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps({**plain, "format_version": 99}))
    with caplog.at_level(logging.WARNING):
        quiet(config)
    assert "format version 99" in caplog.text


def test_left_overs_of_a_killed_save_are_removed(tiny_config):
    config = tiny_config(steps=2)
    folder = Path(config.output_dir) / "checkpoints"
    Trainer(config, progress_bar=False).train(stop_after=1)
    shutil.copytree(list_checkpoints(folder)[-1], folder / ".step-00000002.tmp")
    (folder / ".step-00000002.tmp" / "model.safetensors").write_bytes(b"cut")
    quiet(config)
    assert not list(folder.glob(".*")) and load_file(list_checkpoints(folder)[-1] / "model.safetensors")


def photos_of_its_own(tiny_config, photo_folders, tmp_path, **changes):
    for name in ("clean", "real", "degraded"):
        shutil.copytree(photo_folders / name, tmp_path / "photos" / name)
    own = {name: [str(tmp_path / "photos" / name)] for name in ("clean", "real")}
    return tiny_config(**own, steps=4, **changes)


def test_other_photos_than_before_are_named_and_recorded_when_they_are_insisted_on(
    tiny_config, photo_folders, tmp_path
):
    degraded = str(tmp_path / "photos" / "degraded")
    config = photos_of_its_own(tiny_config, photo_folders, tmp_path, validation_degraded=degraded)
    Trainer(config, progress_bar=False).train(stop_after=2)
    real = tmp_path / "photos" / "real"
    (real / "cat_0.jpg").rename(real / "dog.jpg")
    content = bytearray((real / "cat_1.jpg").read_bytes())
    content[-1] ^= 1  # of the same size
    (real / "cat_1.jpg").write_bytes(content)
    (tmp_path / "photos" / "degraded" / "photo 3.png").unlink()
    with pytest.raises(ConfigurationError) as caught:
        quiet(config)
    assert "photos of `real`: 'real': 1 new (dog.jpg), 1 gone (cat_0.jpg), 1 changed (cat_1.jpg)" in str(caught.value)
    assert "photos of `validation_degraded`: 'degraded': 1 gone (photo 3.png)" in str(caught.value)
    assert quiet(replace(config, resume_with_changes=True)).steps == 4
    record = json.loads((Path(config.output_dir) / "run.json").read_text())
    assert set(record["changes"][0]["photos"]) == {"real", "validation_degraded"}
    assert quiet(config).steps == 4  # they are this run's photos now


def test_the_same_photos_by_another_path_are_the_same(tiny_config, photo_folders, tmp_path, monkeypatch):
    config = photos_of_its_own(tiny_config, photo_folders, tmp_path)
    Trainer(config, progress_bar=False).train(stop_after=1)
    monkeypatch.chdir(tmp_path / "photos")
    (tmp_path / "link").symlink_to(tmp_path / "photos" / "clean")
    shutil.move(tmp_path / "photos" / "real", tmp_path / "moved")
    for step, (clean, real) in enumerate(
        (("clean/", "../moved"), ("./clean", "../moved/"), (tmp_path / "link", "../moved"))
    ):
        other = replace(config, clean=[str(clean)], real=[real])
        Trainer(other, progress_bar=False).train(stop_after=step + 2)
    assert not json.loads((Path(config.output_dir) / "run.json").read_text()).get("changes")


def test_a_run_refused_before_its_first_step_leaves_no_claim(tiny_config, photo_folders, tmp_path, monkeypatch):
    few = tmp_path / "few"
    few.mkdir()
    (few / "broken.png").write_bytes(b"no photo")
    shutil.copy(photo_folders / "real" / "cat_0.jpg", few)
    refused = tiny_config(real=[str(few)], fit_noise=0.5)  # too few photos to fit
    with pytest.raises(ConfigurationError):
        quiet(refused)
    assert not Path(refused.output_dir).exists()
    Path(refused.output_dir).mkdir()
    with pytest.raises(ValueError, match="zigzag"):
        quiet(tiny_config(learning_rate_schedule="zigzag"))
    assert list(Path(refused.output_dir).iterdir()) == []
    assert quiet(tiny_config(steps=1, seed=3)).steps == 1


def test_a_run_killed_before_its_first_checkpoint_does_not_block_other_options(tiny_config):
    Trainer(tiny_config(), progress_bar=False).folder.release()  # as if it had been killed
    assert quiet(tiny_config(steps=1, seed=3)).steps == 1
    with pytest.raises(ConfigurationError, match="seed: 3 there, 4 now"):
        quiet(tiny_config(steps=1, seed=4))
