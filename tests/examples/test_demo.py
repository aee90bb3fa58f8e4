"""The demo as `make demo` runs it, shortened: self-made photos, a few seconds of adaptation, table and sheet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
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
def test_the_demo_makes_its_own_photos_where_there_are_none(tmp_path):
    done = run("--minutes", "0.1", cwd=tmp_path, data=tmp_path / "nowhere")
    assert done.returncode == 0, done.stderr
    for text in ("scikit-image", "identity", "daa-denoise", "just adapted", "before_after.png"):
        assert text in done.stdout
    sheet = Image.open(tmp_path / "outputs" / "demo" / "before_after.png")
    assert min(sheet.size) > 400


def test_a_missing_folder_is_an_error_without_a_traceback(tmp_path):
    done = run("--photos", "my missing photos", "--minutes", "0.1", cwd=tmp_path, data=tmp_path / "nowhere")
    assert done.returncode == 2 and "my missing photos" in done.stderr and "Traceback" not in done.stderr
