"""The benchmarks and the bundling script run, on small folders and networks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.data.demo_photos import demo_photos

ROOT = Path(__file__).resolve().parents[2]


def run(script, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_joint_step_benchmark_prints_time_and_memory(tmp_path):
    options = ("--preset", "tiny", "--batch", "1", "--patch", "16", "--threads", "1", "--repeats", "1")
    printed = run("benchmarks/joint_step.py", *options, cwd=tmp_path)
    assert "joint step:" in printed and "GB" in printed


def test_bundling_stores_half_precision_and_no_paths_of_the_machine(tmp_path):
    folder = tmp_path / "run"
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(folder / "pipeline")
    record = {"options": {"clean": ["/home/somebody/photos/clean/bsds"], "real": []}, "steps": 3, "photos": {}}
    (folder / "run.json").write_text(json.dumps({**record, "versions": {}}))
    run("examples/bundle_checkpoint.py", folder, "mine", "--folder", tmp_path / "bundled", cwd=tmp_path)
    assert "somebody" not in (tmp_path / "bundled" / "mine" / "training.json").read_text()
    loaded = DAARestorationPipeline.from_pretrained(tmp_path / "bundled" / "mine")
    assert loaded.dtype == torch.float32
    weights = next((tmp_path / "bundled" / "mine").rglob("*.safetensors"))
    assert weights.stat().st_size < 2.5 * sum(p.numel() for p in loaded.restorer.parameters()) + 8192


@pytest.mark.slow
def test_the_real_photo_benchmark_resumes_and_reports_every_row(tmp_path):
    made = demo_photos(tmp_path / "made")
    data = tmp_path / "data"
    for kind in ("bsds", "highres"):
        shutil.copytree(made.clean, data / "clean" / kind)
    real = data / "real_noise" / "renoir"
    shutil.copytree(made.real_train_noisy, real / "train" / "noisy")
    shutil.copytree(made.real_train_noisy, real / "train" / "clean")
    shutil.copytree(made.real_val_noisy, real / "val" / "noisy")
    shutil.copytree(made.real_val_clean, real / "val" / "clean")
    arguments = ("--data", data, "--sets", "renoir", "--steps", "3", "--output_dir", "out", "--report", "report.md")
    first = run("benchmarks/real_photos.py", *arguments, "--rows", "control", cwd=tmp_path)
    assert "identity" in first and "control" in first and "hybrid" not in first
    second = run("benchmarks/real_photos.py", *arguments, "--rows", "control", "hybrid", "oracle", cwd=tmp_path)
    assert "gap closed" in second and "hybrid" in second
    assert (tmp_path / "report.csv").read_text().count("renoir,control") == 10
