"""The alignment benchmark, on small folders and networks; and that its measures say what they claim."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.schedules import NoiseSchedule

ROOT = Path(__file__).resolve().parents[2]
TINY = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}


@pytest.fixture(scope="module")
def alignment():
    spec = importlib.util.spec_from_file_location("alignment", ROOT / "benchmarks" / "alignment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predictors = sys.modules["alignment_predictors"]
    objective = {**predictors.ADAPT["objective"], "noise_predictor_options": {**TINY, "dropout": 0.0}}
    predictors.ADAPT = {**predictors.ADAPT, "objective": objective, "batch_size": 2}
    module.TIMES, module.ERROR_TIMES = (100, 700), (450,)
    return module


@pytest.fixture
def batch():
    names = ("synthetic", "clean", "s", "real", "q", "target")
    found = {name: torch.rand(2, 3, 16, 16, generator=generator_for(0, name)) for name in names}
    return {**found, "texture": torch.full((2, 1, 1, 1), 0.15)}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return DAAUNet2DConditionModel(**TINY, dropout=0.0).eval()


def photos(folder, count=2):
    folder.mkdir(parents=True)
    for n in range(count):
        pixels = torch.rand(40, 40, 3, generator=generator_for(0, str(folder.name), n)).numpy()
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{n}.png")
    return str(folder)


def test_the_program_measures_writes_its_report_and_keeps_what_is_there(alignment, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(str(tmp_path / "plain"))
    clean = photos(tmp_path / "clean")
    for kind in ("noisy", "clean"):
        photos(tmp_path / "data" / "real_noise" / "one" / "train" / kind)
    options = ["--restorer", tmp_path / "plain", "--data", tmp_path / "data", "--clean", clean, "--sets", "one"]
    options += ["--forms", "paired", "blur negative", "distribution"]
    options += [
        "--ages",
        1,
        2,
        "--fix_steps",
        1,
        "--pool",
        3,
        "--batches",
        2,
        "--batch",
        2,
        "--patch",
        32,
        "--crop",
        16,
    ]
    options += ["--output_dir", tmp_path / "out", "--report", tmp_path / "r.md", "--plots", tmp_path / "plots"]
    monkeypatch.setattr(sys, "argv", ["alignment.py", *map(str, options)])
    alignment.main()
    text = (tmp_path / "r.md").read_text()
    assert "hybrid, projected" in text and "clean minus restored score" in text and "both unmatched" in text
    header, *rows = (tmp_path / "r.csv").read_text().splitlines()
    assert header == "form,steps,set,term,t,quantity,value,error,batches" and all(row.endswith('"2"') for row in rows)
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"by_noise_level.png", "parts.png", "conditions.png"}
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "plain" / "parts").iterdir()}
    assert len(parts) == 2 * 5  # batches x (the restorer, two ages, two other forms)
    capsys.readouterr()
    alignment.main()
    assert {p: p.stat().st_mtime_ns for p in parts} == parts and (tmp_path / "r.md").read_text() == text


def test_the_gradient_of_eq_4_is_that_of_the_joint_step(alignment, batch, unet):
    draws = NoiseSchedule().draw(batch["q"].shape, generator=generator_for(0, "draws"))
    ours = alignment.gradients(unet, "paired", batch, draws)["eq. (4)"]
    step = NoiseSpaceAdaptation(Fixed(batch), unet, weight=1.0, weight_schedule="constant")
    output = step(Batch(batch["synthetic"], batch["clean"], batch["real"]), draws=draws)
    output.loss.backward()
    torch.testing.assert_close(ours, step.restorer.q.grad, rtol=1e-4, atol=1e-8)


class Fixed(torch.nn.Module):
    """A restorer that returns given photos, whose gradients can be read."""

    def __init__(self, batch):
        super().__init__()
        self.s, self.q = torch.nn.Parameter(batch["s"].clone()), torch.nn.Parameter(batch["q"].clone())

    def forward(self, x):
        return torch.cat([self.s, self.q])


def test_the_change_along_a_step_is_that_of_a_small_step(alignment, batch):
    torch.manual_seed(0)
    restorer = RestorationUNet(width=4, depth=2).double()
    real = batch["real"].double()
    parameters = list(restorer.parameters())
    step = [torch.randn(p.shape, generator=generator_for(0, n), dtype=p.dtype) for n, p in enumerate(parameters)]
    change = alignment.supervised_change(restorer, real, step)
    with torch.no_grad():
        before = restorer(real)
        for parameter, one in zip(parameters, step, strict=True):
            parameter.add_(1e-7 * one)
        torch.testing.assert_close((restorer(real) - before) / 1e-7, change, rtol=1e-3, atol=1e-3)


def test_parts_name_what_a_direction_is_made_of(alignment, batch):
    smoothing = alignment.blur(batch["q"]) - batch["q"]
    found = alignment.composition(smoothing, batch)
    assert found["cos smoothing"].min() > 0.999 and found["rest textured"].max() < 1e-4
    smooth = alignment.composition(smoothing, {**batch, "texture": torch.ones(2, 1, 1, 1)})
    assert smooth["cos smoothing textured"].isnan().all() and smooth["cos smoothing flat"].min() > 0.999
    projected = alignment.project_out(batch["target"], smoothing)
    assert alignment.cosines(projected, smoothing).abs().max() < 1e-5
    back = alignment.composition(batch["real"] - batch["q"], batch)
    assert back["cos back to noisy flat"].min() > 0.999 > 0.9 > back["cos clean"].max()


def test_the_clean_estimate_undoes_the_noising(alignment, batch):
    draws = NoiseSchedule().draw(batch["q"].shape, generator=generator_for(0, "draws"))
    z = alignment.noised(batch["clean"], draws)
    torch.testing.assert_close(alignment.clean_estimate(z, draws.noise, draws), batch["clean"], rtol=1e-3, atol=1e-3)
