"""The benchmark of noise predictors of more and more training, on small folders and networks."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.hub.record_files import WeightsRecord
from daa_diffusers.hub.records import keep_record

from ..photo_folders import write_photos

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}


@pytest.fixture
def maturity(monkeypatch):
    module = importlib.import_module("maturity")
    monkeypatch.setattr(module, "TIMES", (100, 700))
    monkeypatch.setattr(module, "DRAWS", 1)
    return module


class Stub(torch.nn.Module):
    """A noise predictor that says what `answer` makes of z, the noise level and both conditions."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, z, noise_level, *, conditions, swap=None):
        return SimpleNamespace(sample=self.answer(z, noise_level, *conditions))


def test_one_that_knows_the_photo_beneath_estimates_it(maturity):
    x = {name: torch.rand(2, 3, 16, 16) for name in ("s", "q", "target", "real", "clean", "synthetic")}

    def noise_of(z, g, a, b):  # of (1), for the second condition
        g = g[:, None, None, None]
        return (z - g.sqrt() * b) / (1 - g).sqrt()

    found = maturity.estimates(argparse.Namespace(seed=0), Stub(noise_of), [x])
    for kind in ("q, q", "s, q"):
        assert found[kind] == {"t = 100": pytest.approx(0, abs=1e-3), "t = 700": pytest.approx(0, abs=1e-3)}
    assert found["dropped"]["t = 700"] < -1  # it takes black photos for it


def test_each_loss_is_of_the_pair_of_conditions_that_it_is_named_by(maturity):
    x = {name: torch.rand(2, 3, 16, 16) for name in ("s", "q", "target", "real", "clean", "synthetic")}
    found = maturity.condition_losses(argparse.Namespace(seed=0), Stub(lambda z, g, a, b: torch.zeros_like(z)), [x])
    assert set(found) == set(maturity.RANGES) and len(found["t in 1..100"]) == 7
    assert set(found["t in 1..100"].values()) == {found["t in 1..100"]["s, q"]}  # the same draws for all
    sees = maturity.condition_losses(argparse.Namespace(seed=0), Stub(lambda z, g, a, b: b - x["target"]), [x])
    losses = sees["t in 1..999"]
    assert losses["s, clean"] == pytest.approx(1, abs=0.1) and losses["s, q"] > losses["s, clean"]


def test_the_program_measures_and_reports_each_predictor_by_its_steps(maturity, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(str(tmp_path / "start"))
    monkeypatch.setattr(maturity, "make_photos", lambda kind, data: None)
    monkeypatch.setitem(maturity.adaptation.STARTS, "weak-tiny", str(tmp_path / "start"))
    monkeypatch.setattr(sys.modules["alignment_predictors"], "OWN_PHOTOS", tmp_path)
    monkeypatch.setattr(maturity, "_new_predictor", lambda: DAAUNet2DConditionModel(**TINY))
    for folder in ("clean", "phone_photos/train/noisy", "phone_photos/train/clean"):
        write_photos(tmp_path / folder, 2)
    for steps in (9, 10):
        unet = DAAUNet2DConditionModel(**TINY)
        keep_record(unet, WeightsRecord({"steps": steps}))
        unet.save_pretrained(tmp_path / "plain" / str(steps))
    options = ["--predictors", tmp_path / "plain", "--clean", tmp_path / "clean", "--data", tmp_path, "--rows"]
    options += ["--patches", 2, "--patch", 16, "--scores", tmp_path / "scores", "--report", tmp_path / "report.md"]
    maturity.main([str(option) for option in options])
    lines = (tmp_path / "report.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    first = names.index("fresh")
    assert names[first : first + 3] == ["fresh", "plain 9", "plain 10"]
    measured = json.loads((tmp_path / "scores" / "measured" / "plain-9.json").read_text())
    assert set(measured["directions"]["low t"]) == set(maturity.TERMS)
    capsys.readouterr()
    maturity.main([str(option) for option in options])
    assert "measured" not in capsys.readouterr().out.splitlines()[0]  # what is there is not measured again
