"""The weights that a run ends with, early stopping, and what the log tells."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from skimage import data

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.selection import BestWeights
from daa_diffusers.training.summary import print_summary
from daa_diffusers.training.validation import Validation
from daa_diffusers.training.verification import differences


def quiet(config):
    return train(config, progress_bar=False)


@pytest.fixture
def scored(monkeypatch):
    """Validation whose PSNR is given for each validation in turn."""

    original = Validation.run

    def give(scores):
        calls = []

        def run(self, restorer):
            true, grid = original(self, restorer)
            calls.append([p.clone() for p in restorer.parameters()])
            return {**true, "psnr": scores[len(calls) - 1]}, grid

        monkeypatch.setattr(Validation, "run", run)
        return calls

    return give


@pytest.fixture
def selecting_config(tiny_config, photo_folders):
    def make(**changes):
        folders = {
            "validation_degraded": str(photo_folders / "degraded"),
            "validation_clean": str(photo_folders / "clean"),
        }
        return tiny_config(**{"validate_every": 1, "select_by": "psnr", "learning_rate": 1e-2, **folders, **changes})

    return make


def saved(result):
    weights = load_file(result.pipeline / "restorer" / "diffusion_pytorch_model.safetensors")
    return list(weights.values())


def test_the_best_weights_are_kept(selecting_config, scored):
    calls = scored([20.0, 23.0, 22.0, math.nan, 22.9, 21.0])
    result = quiet(selecting_config())
    assert result.best["step"] == 2 and result.best["score"] == 23.0
    best = {tuple(p.shape): p for p in calls[1]}
    assert all(torch.equal(best[tuple(p.shape)], p) for p in saved(result) if p.ndim == 4 and p.shape[1] == 3)
    files = sorted(p.name for p in (Path(result.pipeline).parent / "best").iterdir())
    assert files == ["step-00000002.safetensors"]


def test_early_stopping_ends_a_run_for_good(selecting_config, scored):
    scored([20.0, 23.0, 22.0, 22.5, 30.0, 30.0])
    config = selecting_config(early_stopping=2)
    result = quiet(config)
    assert result.steps == 4 and result.best["step"] == 2 and result.pipeline is not None
    again = quiet(config)
    assert again.steps == 4 and again.best == result.best


def test_selection_resumes_exactly(selecting_config, scored, tmp_path):
    whole, cut = (selecting_config(output_dir=str(tmp_path / name), keep=3) for name in ("whole", "cut"))
    scored([20.0, 23.0, 22.0, 25.0, 24.0, 21.0])
    quiet(whole)
    scored([20.0, 23.0, 22.0, 25.0])
    Trainer(cut, progress_bar=False).train(stop_after=4)
    # the newest checkpoint is damaged: the run goes back to an earlier record, whose weights must still be there
    (Path(cut.output_dir) / "checkpoints" / "step-00000004" / "state.json").write_text("{")
    scored([22.0, 25.0, 24.0, 21.0])
    quiet(cut)
    assert differences(Path(whole.output_dir), Path(cut.output_dir)) == []


def test_a_resumed_run_may_fall_back_on_any_kept_checkpoint(tmp_path):
    best = BestWeights(tmp_path)
    for step, score in ((1, 1.0), (2, 2.0), (3, 3.0)):
        best.offer(step, score, [torch.full((2,), float(step))], write=True)
    best.prune([2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002.safetensors", "step-00000003.safetensors"]
    best.record = {"step": 2, "score": 2.0, "since": 0}
    target = torch.zeros(2)
    best.copy_to([target])
    assert target.tolist() == [2.0, 2.0]


def test_health_is_logged_and_its_score_selects_without_labels(tiny_config, tmp_path, caplog):
    options = {"health": True, "select_by": "label_free", "validate_every": 2}
    whole, cut = (tiny_config(output_dir=str(tmp_path / name), **options) for name in ("whole", "cut"))
    with caplog.at_level(logging.WARNING):
        result = quiet(whole)
    log = [json.loads(line) for line in (Path(whole.output_dir) / "log.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["health/score"] for line in log if "health/score" in line}
    assert set(scores) == {2, 4, 6}
    assert result.best["score"] == max(scores.values()) and scores[result.best["step"]] == result.best["score"]
    assert {"loss_as_is", "loss_real_zeroed", "clean_fidelity", "colour_drift"} <= set(result.health)
    assert any("only 4 real photos" in alarm for alarm in result.alarms) and "only 4 real photos" in caplog.text
    # looking at a run does not change it, and it resumes exactly
    unwatched = tiny_config(output_dir=str(tmp_path / "unwatched"))
    quiet(unwatched)
    assert any("log.jsonl" in text for text in differences(Path(whole.output_dir), Path(unwatched.output_dir)))
    assert not any("safetensors" in text for text in differences(Path(whole.output_dir), Path(unwatched.output_dir)))
    Trainer(cut, progress_bar=False).train(stop_after=3)
    quiet(cut)
    assert differences(Path(whole.output_dir), Path(cut.output_dir)) == []


@pytest.fixture
def bursts(tmp_path):
    """A folder with one burst, of two frames."""
    scene = data.astronaut()[100:228, 100:228]
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 15, scene.shape)
        path = tmp_path / "bursts" / "cup" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scene + noise).clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "bursts"


def test_bursts_select_without_labels_and_belong_to_the_run(tiny_config, tmp_path, bursts):
    options = {"select_by": "bursts", "validation_bursts": str(bursts), "validate_every": 2, "learning_rate": 1e-2}
    whole, cut = (tiny_config(output_dir=str(tmp_path / name), **options) for name in ("whole", "cut"))
    result = quiet(whole)
    log = [json.loads(line) for line in (Path(whole.output_dir) / "log.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["validation/psnr_bursts"] for line in log if "validation/psnr_bursts" in line}
    assert set(scores) == {2, 4, 6} and len(set(scores.values())) == 3
    assert result.best["score"] == max(scores.values()) and scores[result.best["step"]] == result.best["score"]
    Trainer(cut, progress_bar=False).train(stop_after=3)
    frame = bursts / "cup" / "0.png"
    content = frame.read_bytes()
    Image.open(frame).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(frame)
    Image.open(bursts / "cup" / "1.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(bursts / "cup" / "1.png")
    with pytest.raises(ConfigurationError, match="validation_bursts"):
        quiet(cut)
    frame.write_bytes(content)
    Image.open(bursts / "cup" / "1.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(bursts / "cup" / "1.png")
    quiet(cut)
    assert differences(Path(whole.output_dir), Path(cut.output_dir)) == []


def test_bursts_that_cannot_be_scored_are_refused_before_the_run(tiny_config, tmp_path, bursts):
    (bursts / "cup" / "1.png").unlink()
    with pytest.raises(ConfigurationError, match="`validation_bursts`: none of the 1 bursts can be scored"):
        quiet(tiny_config(select_by="bursts", validation_bursts=str(bursts)))
    with pytest.raises(ConfigurationError, match="`select_by` bursts needs `validation_bursts`"):
        tiny_config(select_by="bursts").check()
    assert not Path(tiny_config().output_dir).exists()


def test_a_log_line_tells_losses_gradients_speed_and_memory(tiny_config):
    config = tiny_config(log_every=3)
    quiet(config)
    lines = [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss/pair" in line]
    assert [line["step"] for line in lines] == [3, 6]
    assert {
        "loss/pair",
        "loss/noise",
        "loss/weight",
        "gradient/all",
        "gradient/pair",
        "gradient/noise",
        "learning_rate",
        "skipped_steps",
    } <= set(lines[0])
    timing = lines[1]["time"]
    assert timing["images_per_second"] > 0 and 0 <= timing["data_wait"] <= 1 and timing["memory_gb"] > 0.05


def test_the_table_at_the_end(tiny_config, capsys):
    result = quiet(tiny_config(steps=2))
    result.alarms = ["the predictor tells the slots apart"]
    skipped = {"cut.jpg": "it is truncated", "text[/b].jpg": "it is text", "x:smile:\udcff\n.jpg": "it is empty"}
    result.skipped_photos = {"real": skipped, "clean": dict.fromkeys(map(str, range(9)), "no noise")}
    print_summary(result, Console(width=160))
    text = capsys.readouterr().out
    reasons = "cut.jpg: it is truncated", "text[/b].jpg: it is text", r"x:smile:\xff\n.jpg: it is empty", "and 4 more"
    for part in ("steps", "last losses", "pair", "tells the slots apart", *reasons, str(result.pipeline)):
        assert part in text
    print_summary(result, Console(width=60))  # a path is one word, longer than a column
    assert "…" not in capsys.readouterr().out


def test_no_weights_that_score_lower_than_the_start_are_kept_without_labels(tiny_config, tmp_path):
    torch.manual_seed(0)
    restorer = RestorationUNet(width=4, depth=2)
    for parameter in restorer.conv_out.parameters():  # leaves photos as they are: an estimated gain of 0 dB
        torch.nn.init.zeros_(parameter)
    DAARestorationPipeline(restorer).save_pretrained(str(tmp_path / "start"))
    options = {"init_from": str(tmp_path / "start"), "hold_to_start": False, "learning_rate": 1.0, "steps": 3}
    config = tiny_config(health=True, select_by="label_free", **options)
    result = quiet(config)
    assert result.best["step"] == 0
    log = [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "health/score" in line] == [0, 1, 2, 3]  # unasked
    kept = DAARestorationPipeline.from_pretrained(str(result.pipeline)).restorer
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), restorer.parameters(), strict=True))
