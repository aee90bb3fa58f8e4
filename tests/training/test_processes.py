"""Several processes take the step that one process would take on the whole batch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from daa_diffusers.training.loop import train
from daa_diffusers.training.run_state import list_checkpoints
from daa_diffusers.training.verification import read_log

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

FAILING = """
import sys
from daa_diffusers.training.config import resolve, read_yaml
from daa_diffusers.training.loop import train
from daa_diffusers.training.steps import Steps

original = Steps.joint_step

def failing(self, step, batch):
    if step == 2 and self.accelerator.process_index == 1:
        raise RuntimeError("the second process has had enough")
    return original(self, step, batch)

Steps.joint_step = failing
train(resolve(read_yaml(sys.argv[1])), progress_bar=False)
"""


def launch(config, folder, script=None, processes=2, check=True):
    options = Path(folder) / f"{Path(config.output_dir).name}.yaml"
    options.write_text(config.to_yaml())
    arguments = (
        [str(script), str(options)] if script else [str(ROOT / "examples/train_daa.py"), "--config", str(options)]
    )
    port = 20000 + os.getpid() % 20000
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--main_process_port", str(port), "--num_machines", "1", "--mixed_precision", "no"]
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=800
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def parameters(config):
    return load_file(list_checkpoints(Path(config.output_dir) / "checkpoints")[-1] / "model.safetensors")


@pytest.fixture
def exact_config(tiny_config, tmp_path):
    """float64, no dropout, the hinge of eq. (4) in use."""

    def make(name, **changes):
        options = {"dtype": "float64", "steps": 20, "checkpoint_every": 10}
        if "objective" not in changes:
            predictor = tiny_config().objective["noise_predictor_options"] | {"dropout": 0.0}
            options["noise_predictor_options"] = predictor
        options |= {"output_dir": str(tmp_path / name), "learning_rate": 1e-3, "log_every": 5, **changes}
        return tiny_config(**options)

    return make


def test_two_processes_equal_one_with_twice_the_batch(exact_config, tmp_path, photo_folders):
    real = shutil.copytree(photo_folders / "real", tmp_path / "real")
    (real / "broken.png").write_bytes(b"no photo")
    # hybrid: all that paired does, and its unpaired clean photos must not depend on how the batch is cut
    options = {"variant": "hybrid", "real": [str(real)]}
    one, two = exact_config("one", batch_size=4, **options), exact_config("two", batch_size=2, **options)
    train(one, progress_bar=False)
    done = launch(two, tmp_path)
    expected, found = parameters(one), parameters(two)
    assert expected.keys() == found.keys() and all(v.dtype == torch.float64 for v in found.values())
    moved = {k: v for k, v in parameters_at_start(one).items() if not torch.equal(v, expected[k])}
    assert len(moved) > 0.9 * len(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    # one log and one table, by the main process; its losses are those of the whole batch
    assert done.stdout.count("the pipeline:") == 1
    for ours, theirs in zip(read_log(Path(one.output_dir)), read_log(Path(two.output_dir)), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():  # of a root of means only the mean over processes is known
            rel = 0.3 if name in ("gradient/pair", "gradient/noise") else 1e-5
            assert theirs[name] == pytest.approx(value, rel=rel, abs=1e-6), name
    record = json.loads((Path(two.output_dir) / "run.json").read_text())
    assert record["options"]["samples_per_step"] == 4
    assert record["photos"]["real"][0]["skipped"].keys() == {"broken.png"}


def parameters_at_start(config):
    from daa_diffusers.training.setup import build_model

    return build_model(config).double().state_dict()


def test_accumulation_equals_a_large_batch_up_to_the_hinge(exact_config):
    """Without residual swapping nothing depends on how the batch is cut."""
    large = exact_config("large", batch_size=4, residual_swap=False)
    small = exact_config("small", batch_size=1, total_batch_size=4, residual_swap=False)
    for config in (large, small):
        train(config, progress_bar=False)
    for name, value in parameters(large).items():
        torch.testing.assert_close(parameters(small)[name], value, rtol=0, atol=1e-6)


def test_a_failing_process_stops_all_with_its_error_shown(exact_config, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = launch(exact_config("run"), tmp_path, script, check=False)  # launch has a time limit
    assert done.returncode != 0 and "the second process has had enough" in done.stderr
    assert not (tmp_path / "run" / "pipeline").exists()


def test_a_total_batch_that_does_not_divide_among_processes(exact_config, tmp_path):
    config = exact_config("run", batch_size=1, total_batch_size=3)
    done = launch(config, tmp_path, check=False)
    assert done.returncode != 0 and "`total_batch_size` must be a multiple of" in done.stderr and "1 x 2" in done.stderr
    assert not Path(config.output_dir).exists()
