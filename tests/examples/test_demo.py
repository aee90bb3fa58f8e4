"""The demo as `make demo` runs it, shortened: self-made photos, a few seconds of adaptation, table and sheet."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, cwd, data):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DAA_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=800,
    )


@pytest.mark.slow
def test_the_demo_gains_decibels_on_photos_that_it_makes_itself(tmp_path):
    done = run("--minutes", "1", cwd=tmp_path, data=tmp_path / "nowhere")
    assert done.returncode == 0, done.stderr
    assert "scikit-image" in done.stdout and "$ daa adapt" in done.stdout and "before_after.png" in done.stdout
    table = dict(re.findall(r"^\| ([a-z][^|]*?) +\| +([\d.]+) \|", done.stdout, re.MULTILINE))
    scores = {name: float(score) for name, score in table.items()}
    assert set(scores) == {"identity (untouched input)", "white noise only", "just adapted", "daa-denoise"}
    assert scores["just adapted"] > scores["white noise only"] + 0.5 > scores["identity (untouched input)"] + 0.5
    sheet = Image.open(tmp_path / "outputs" / "demo" / "before_after.png")
    assert min(sheet.size) > 400


def test_the_network_of_the_demo_is_free_and_has_seen_white_noise_only():
    record = json.loads((ROOT / "examples" / "white-noise" / "training.json").read_text())
    assert record["license"] == "cc-by-4.0" and record["options"]["real"] == []
    assert record["options"]["degradation"]["type"] == "gaussian"
    config = yaml.safe_load((ROOT / "examples" / "configs" / "white-noise.yaml").read_text())
    assert config["degradation"] == record["options"]["degradation"] and config["steps"] == record["steps"]


def test_a_missing_folder_is_an_error_without_a_traceback(tmp_path):
    done = run("--photos", "my missing photos", "--minutes", "0.1", cwd=tmp_path, data=tmp_path / "nowhere")
    assert done.returncode == 2 and "my missing photos" in done.stderr and "Traceback" not in done.stderr
