"""The benchmarks of restoring run: of time and memory, and of the guard. At these sizes their numbers mean nothing."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parents[2]


def flat(text):
    """Tables without the spaces that align them."""
    return re.sub(r" +", " ", text)


def run(monkeypatch, capsys, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    return flat(capsys.readouterr().out)


def test_inference_is_measured_once_and_reported(tmp_path, monkeypatch, capsys):
    options = ["--checkpoint", "tiny", "--side", 72, "--repeats", 1, "--tiles", 40, "--megapixels", 0.01]
    options += ["--depths", "uint16", "--output_dir", tmp_path / "out", "--report", tmp_path / "report.md"]
    shown = run(monkeypatch, capsys, "inference.py", *options)
    assert "| pipeline / bare network, channels last |" in shown and "| tiles of 40 px / whole |" in shown
    assert "| 0.01 | uint16 |" in shown
    assert flat((tmp_path / "report.md").read_text()) in shown
    (cache,) = (tmp_path / "out").glob("*.json")
    rows = json.loads(cache.read_text())
    assert rows["0.01 uint16"]["peak MiB"] >= rows["0.01 uint16"]["of which imports and weights MiB"] > 50
    rows["0.01 uint16"]["peak MiB"] = 123456
    cache.write_text(json.dumps(rows))
    assert "123456" in run(monkeypatch, capsys, "inference.py", *options)  # taken up, not measured again


def test_a_card_is_measured_by_precision_and_size_and_from_folder_to_folder(tmp_path, monkeypatch, capsys):
    options = [
        "--device",
        "cpu",
        "--megapixels",
        0.002,
        "--photos",
        2,
        "--repeats",
        1,
        "--output_dir",
        tmp_path / "out",
    ]
    options += ["--dtypes", "float32", "--folder_dtype", "float32", "--seconds", 1e9]
    run(monkeypatch, capsys, "inference_cuda.py", *options)
    report = flat((tmp_path / "out" / "report.md").read_text())
    assert "| float32 | 0.002 |" in report and "| float32 | 0.002 | 2 | yes |" in report and "## transfers" in report
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert rows["pipeline"][0]["pipeline / bare"] > 0 and rows["folder"][0]["photos/s"] > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["profile.txt", "report.md", "rows.json"]


@pytest.mark.slow  # exports and quantizes a network
def test_libraries_and_precisions_take_turns_on_the_same_photos(tmp_path, monkeypatch, capsys):
    for name in ("renoir", "polyu"):
        for part, kind in (("train", "noisy"), ("val", "noisy"), ("val", "clean")):
            folder = tmp_path / "real_noise" / name / part / kind
            folder.mkdir(parents=True)
            Image.fromarray(data.astronaut()[:80, 150:240]).save(folder / "one.png")
    options = ["--data", tmp_path, "--checkpoints", "daa-denoise", "--threads", 1, "--side", 64, "--repeats", 1]
    shown = run(monkeypatch, capsys, "backends.py", *options, "--no_compile", "--report", tmp_path / "report.md")
    assert flat((tmp_path / "report.md").read_text()) in shown and "`auto` is " in shown
    for way in ("torch float32", "torch bfloat16", "ONNX Runtime float32", "ONNX Runtime int8"):
        assert f"| {way} |" in shown


@pytest.mark.slow  # starts processes
def test_growth_is_measured_once_and_reported_with_plots(tmp_path, monkeypatch, capsys):
    options = ["--checkpoint", "tiny", "--megapixels", 0.01, "--counts", 50, "--repeats", 1]
    options += ["--output_dir", tmp_path, "--report", tmp_path / "report.md"]
    run(monkeypatch, capsys, "growth.py", *options, "--parts", "restoring", "files")
    rows = json.loads((tmp_path / "rows.json").read_text())
    sizes = [{"preset": preset, "patch": 64, "batch": 4} for preset in ("tiny", "small", "paper")]
    sizes += [{"preset": "tiny", "patch": patch, "batch": 4} for patch in (32, 96, 128, 192)]
    sizes += [{"preset": "tiny", "patch": 64, "batch": batch} for batch in (1, 2, 8, 16)]
    rows["training"] = {json.dumps(size): {"s": 1.0, "least": 0.5, "most": 2.0} for size in sizes}
    rows["restoring"]["0.01"]["s / MP"] = 123.0
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run(monkeypatch, capsys, "growth.py", *options)  # taken up, not measured again
    report = flat((tmp_path / "report.md").read_text())
    assert "| 0.01 | 123.000 |" in report and "| 50 |" in report and "| 1.00 (0.50 to 2.00) |" in report
    assert len(list(tmp_path.glob("growth_*.png"))) == 3


@pytest.mark.slow  # starts the command
def test_a_folder_is_measured_against_the_bare_network(tmp_path, monkeypatch, capsys):
    options = ["--megapixels", 0.01, "--photos", 2, "--side", 64, "--repeats", 1, "--report", tmp_path / "report.md"]
    shown = run(monkeypatch, capsys, "folder.py", *options)
    report = flat((tmp_path / "report.md").read_text())
    assert report in shown and "folder / bare network, wall clock" in report and "| 0.01 MP |" in report


def test_the_guard_is_measured_on_noisy_and_on_clean_photos(tmp_path, monkeypatch, capsys):
    photos = tmp_path / "real_noise" / "renoir" / "val"
    for kind in ("noisy", "clean"):
        (photos / kind).mkdir(parents=True)
        Image.fromarray(data.astronaut()[:80, 150:240]).save(photos / kind / "one.png")
    (tmp_path / "clean").mkdir()
    shutil.copytree(photos / "clean", tmp_path / "clean" / "bsds")
    Image.fromarray(data.astronaut()[100:180, 150:240]).save(tmp_path / "clean" / "bsds" / "two.png")
    options = ["--data", tmp_path, "--checkpoints", "daa-denoise", "--sets", "renoir", "bsds"]
    run(monkeypatch, capsys, "guard.py", *options, "--report", tmp_path / "guard.md")
    report = flat((tmp_path / "guard.md").read_text())
    assert "| renoir | 1 |" in report and "| bsds | 1 |" in report and "cost, dB" in report
    rows = (tmp_path / "guard.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == ["one.png", "two.png"]
