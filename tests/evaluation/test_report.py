"""An evaluation as files: tables that say what was measured, every photo in the CSV, sheets of the right photos."""

import csv
import re

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation import evaluate_folder, write_report
from daa_diffusers.evaluation.report import MARK, _crops, _worst_place, markdown_report, write_sheet


class Spot(nn.Module):
    """Darkens a square of 8 pixels, the same in every photo, by `amount`."""

    def __init__(self, amount):
        super().__init__()
        self.amount = amount

    def forward(self, x):
        x = x.clone()
        x[..., 70:78, 20:28] -= self.amount
        return x.clamp(0, 1)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Four photos, one of them broken, and noise that grows: the spot harms the first most."""
    folder = tmp_path_factory.mktemp("photos")
    for kind in ("noisy", "clean"):
        (folder / kind).mkdir()
    for number in range(3):
        clean = skimage.data.astronaut()[60:156, 150 + 20 * number : 246 + 20 * number]
        drawn = np.random.default_rng(number).normal(0, 4 + 10 * number, clean.shape)
        Image.fromarray(clean).save(folder / "clean" / f"p{number}.png")
        Image.fromarray((clean + drawn).clip(0, 255).astype(np.uint8)).save(folder / "noisy" / f"p{number}.png")
    for kind in ("noisy", "clean"):
        (folder / kind / "broken.png").write_bytes(b"no photo")
    rows = {"control": DAARestorationPipeline(Spot(0.2)), "a row/x": DAARestorationPipeline(Spot(0.5))}
    return evaluate_folder(rows, folder / "noisy", folder / "clean", label_free=True)


def test_the_report_states_rows_protocol_intervals_and_what_was_left_out(evaluation):
    text = markdown_report(evaluation, baseline="control")
    assert text.startswith("# 3 photos of `noisy` against `clean`\n") and evaluation.protocol in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    difference = evaluation.difference("a row/x", "psnr", "control")
    assert f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]" in text
    low, high = evaluation.interval("identity", "psnr")
    assert f"{evaluation.mean('identity', 'psnr'):.2f} [{low:.2f}, {high:.2f}]" in text
    assert "PSNR, minus control" in text and "+0.00 | 0 of 3" in text and "3 of 3" in text
    assert f"{evaluation.gains('a row/x', evaluation.main).min():+.2f}" in text
    assert "estimated gain" in text and lines["control"]
    assert "intervals are too narrow" in text
    assert "Skipped in every row, 1 of 4 photos:" in text and "- `broken.png`: cannot read" in text
    assert str(evaluation.pairs.degraded.folder) not in text


def test_files_are_whole_and_hold_every_photo(evaluation, tmp_path):
    path = write_report(evaluation, tmp_path / "new" / "report", baseline="control")
    names = sorted(one.name for one in path.parent.iterdir())
    assert names == ["report.md", "scores.csv", "sheet-1-a-row-x.png"]
    assert "![a row/x](sheet-1-a-row-x.png)" in path.read_text()
    with open(path.parent / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and rows[1]["photo"] == "p0.png" and rows[1]["row"] == "control"
    assert list(rows[0]) == ["photo", "row", *(column.name for column in evaluation.columns)]
    assert float(rows[1]["psnr"]) == pytest.approx(evaluation.scores["control"]["psnr"][0], abs=1e-4)


def test_a_sheet_shows_best_median_and_worst_at_the_worst_place(evaluation, tmp_path):
    gains = evaluation.gains("control", evaluation.main)
    assert list(np.argsort(gains)) == [0, 1, 2]  # the spot harms the cleanest photo most
    with Image.open(write_sheet(evaluation, "control", tmp_path / "sheet.png")) as sheet:
        pixels = np.asarray(sheet)
    assert ((pixels == MARK).all(axis=-1)).sum() > 100  # the mark in the whole photo
    whole, identity, control, clean = _crops(evaluation, "p0.png", ["identity", "control"], "control", "identity")
    assert whole.size == (96, 96)
    difference = (control - identity).abs().sum(0)
    assert difference.shape == (64, 64) and int((difference > 0).sum()) == 64  # the whole spot is inside
    assert clean.shape == (3, 64, 64)


def test_the_worst_place_has_the_largest_sum():
    harm = torch.zeros(3, 100, 130)
    harm[:, 90:94, 3:9] = 1
    harm[:, 10, 100] = 5
    top, left, height, width = _worst_place(harm)
    assert (height, width) == (64, 64) and top + 64 >= 94 and top <= 90 and left <= 3
    assert _worst_place(torch.ones(1, 20, 100))[2:] == (20, 64)


def test_without_ground_truth_there_are_sheets_too(evaluation, tmp_path):
    rows = {"control": evaluation.restorers["control"]}
    result = evaluate_folder(rows, evaluation.pairs.degraded.folder)
    text = write_report(result, tmp_path).read_text()
    assert "`noisy`, no ground truth" in text and "estimated gain" in text and "PSNR" not in text
    assert re.search(r"\| identity +\| +\+0\.00 \|", text)
    assert (tmp_path / "sheet-1-control.png").exists()


def test_a_single_photo_has_no_interval(tmp_path):
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        Image.fromarray(skimage.data.chelsea()[:80, :80]).save(tmp_path / kind / "a.png")
    result = evaluate_folder({"spot": DAARestorationPipeline(Spot(0.5))}, tmp_path / "noisy", tmp_path / "clean")
    text = write_report(result, tmp_path / "report").read_text()
    assert "100.00" in text and "[" not in text.split("##")[0] and "bootstrap" not in text


def test_unknown_rows_are_named_and_nothing_is_written(evaluation, tmp_path):
    with pytest.raises(ConfigurationError, match="`baseline` must be one of identity, control, a row/x, got 'oracle'"):
        write_report(evaluation, tmp_path, baseline="oracle")
    with pytest.raises(ConfigurationError, match="`row` must be one of"):
        write_sheet(evaluation, "oracle", tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_no_gain_is_given_where_the_noise_cannot_be_measured(evaluation, tmp_path):
    ramp = np.tile(np.linspace(50, 200, 96).round().astype(np.uint8)[:, None, None], (1, 96, 3))
    noisy = evaluation.pairs.degraded.folder
    for number in range(3):
        Image.fromarray(np.rot90(ramp, number)).save(tmp_path / f"clean{number}.png")
    rows = {"spot": DAARestorationPipeline(Spot(0.1))}
    clean = evaluate_folder(rows, tmp_path)
    assert set(clean.unmeasured.values()) == {"no noise"} and clean.label_free_scores("spot") is None
    text = markdown_report(clean)
    assert "No gain is estimated" in text and "3 of 3 photos (no noise: 3)" in text
    assert "estimated gain |" not in text and "signal correlation" in text
    (tmp_path / "clean0.png").unlink()
    for number in (1, 2):  # now half of them are noisy
        (tmp_path / f"p{number}.png").write_bytes((noisy / f"p{number}.png").read_bytes())
    mixed = evaluate_folder(rows, tmp_path)
    assert set(mixed.unmeasured) == {"clean1.png", "clean2.png"}
    gain, _ = mixed.label_free_scores("spot")
    left = [mixed.scores["spot"]["noise_left"][mixed.photos.index(f"p{number}.png")] for number in (1, 2)]
    assert gain == pytest.approx(-10 * np.log10(np.mean(left)))
    assert "They exclude 2 of 4 photos" in markdown_report(mixed)
