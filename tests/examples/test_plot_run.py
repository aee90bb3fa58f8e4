"""Curves of a run as a picture."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def plot(*arguments):
    script = ROOT / "examples" / "plot_run.py"
    return subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True)


def test_runs_become_panels(tmp_path):
    for run in ("one run", "other"):
        (tmp_path / run).mkdir()
        lines = [{"step": s, "loss/pair": 1 / s, "gradient/all": 2.0, "time": {"memory_gb": 1.0}} for s in range(1, 50)]
        lines.append({"step": 49, "validation/psnr": 30.0})
        (tmp_path / run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    done = plot(tmp_path / "one run", tmp_path / "other", "--output", tmp_path / "curves.png")
    assert done.returncode == 0, done.stderr
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert picture.shape[1] > 3 * picture.shape[0] * 0.9  # three panels side by side
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_a_folder_without_a_log_is_named(tmp_path):
    done = plot(tmp_path)
    assert done.returncode == 2 and str(tmp_path) in done.stderr and "Traceback" not in done.stderr
