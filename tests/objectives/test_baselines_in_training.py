"""Runs of the baselines: resume, selection, processes, options."""

import json
import math
from pathlib import Path

import pytest
import torch

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.dann import Dann
from daa_diffusers.objectives.registry import OBJECTIVES
from daa_diffusers.training.config import parse_arguments, resolve
from daa_diffusers.training.config.objective import nest_objective
from daa_diffusers.training.loop import train
from daa_diffusers.training.planning import describe
from daa_diffusers.training.setup import build_model

from ..training.test_loop import interrupt_at, state
from ..training.test_processes import exact_config, launch, parameters  # noqa: F401 (a fixture)
from .conftest import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_ends_bit_identical(tiny_config, tmp_path, monkeypatch, name):
    options = {"objective": name, "patch": 32, "steps": 4, "learning_rate_schedule": "cosine", "weight": 1.0}
    options["predictor_warmup_steps"] = 1
    whole = train(tiny_config(output_dir=str(tmp_path / "whole"), **options), progress_bar=False)
    config = tiny_config(output_dir=str(tmp_path / "cut"), **options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(config, progress_bar=False)
    cut = train(config, progress_bar=False)
    expected, found = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in expected)
    assert whole.losses == cut.losses
    log = [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]
    losses = [{k: v for k, v in entry.items() if k.startswith("loss/")} for entry in log]
    assert all(math.isfinite(value) for entry in losses for value in entry.values())
    weights = [entry["loss/weight"] for entry in losses if entry]
    # the paper's ramp; or the constant weight at once, as there are no further networks to warm up
    assert (
        weights[0] == (1.0 if name in ("renoised", "score") else 0) and weights == sorted(weights) and weights[-1] > 0.5
    )
    further = {
        "dann": {"classifier"},
        "pixel_adversarial": {"discriminator"},
        "mean_teacher": {"teacher"},
        "renoised": {"teacher", "steps_taken"},
        "score": {"teacher", "steps_taken", "unet"},
    }.get(name, set())
    parts = {key.split(".")[1] for key in found if key.startswith("model.")}
    assert parts == {"restorer", *further}
    start = build_model(config).state_dict()  # the teacher is moved by the loop, not by the optimizer
    moved = {key.split(".")[0] for key, value in start.items() if not torch.equal(value, found[f"model.{key}"])}
    assert moved == parts - ({"unet"} if name == "score" else set())  # its noise predictor is not trained


def test_a_run_is_selected_by_its_label_free_score(tiny_config):
    config = tiny_config(objective="mean_teacher", patch=32, steps=2, select_by="label_free", health=True)
    result = train(config, progress_bar=False)
    assert math.isfinite(result.best["score"]) and "estimated_gain" in result.health


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one_with_twice_the_batch(exact_config, tmp_path, name):  # noqa: F811
    options = {"objective": name, "patch": 32, "steps": 6, "checkpoint_every": 0}
    one = exact_config("one", batch_size=4, **options)
    two = exact_config("two", batch_size=2, **options)
    train(one, progress_bar=False)
    launch(two, tmp_path)
    found = parameters(two)
    for key, value in parameters(one).items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)


def test_a_dry_run_counts_the_further_networks(tiny_config):
    text = {name: describe(tiny_config(objective=name, patch=32)) for name in ("neighbor2neighbor", "dann")}
    assert "# restorer: " in text["dann"] and "# classifier: 12,481 parameters" in text["dann"]
    assert "# classifier" not in text["neighbor2neighbor"] and "noise predictor:" not in text["dann"]


@pytest.mark.parametrize("name", [name for name in NAMES if not OBJECTIVES[name].uses_preparation])
def test_a_preset_prepares_real_photos_for_noise_space_adaptation_alone(name):
    config = resolve({"preset": "adapt", "objective": name, "clean": ["c"], "real": ["r"]}).check()
    assert config.objective == {"type": name, **OBJECTIVES[name].defaults()}
    assert (config.patch, config.fit_noise, config.pseudo_clean, config.blend) == (48, 0.0, False, 1.0)
    assert resolve({"preset": "adapt", "objective": name, "weight": 7.0}).objective["weight"] == 7.0


def test_the_command_line_takes_an_objective_with_its_options():
    photos = ["--clean", "c", "--real", "r"]
    for given in (["--objective", "dann", "--hidden", "8"], ["--objective", '{"type": "dann", "hidden": 8}']):
        objective = parse_arguments([*given, *photos]).objective
        assert objective["type"] == "dann" and objective["hidden"] == 8 and objective["weight"] == 0.05


def test_options_of_earlier_versions_are_read():
    flat = resolve({"objective": "dann", "objective_options": {"hidden": 8}, "weight": 2.0}).objective
    assert flat == {"type": "dann", **Dann.defaults(), "hidden": 8, "weight": 2.0}
    assert resolve({"variant": "vanilla", "weight": 0.3}).objective == {"type": "supervised", "charbonnier_eps": 1e-3}
    record = {"objective": "dann", "variant": "paired", "weight": 0.05, "objective_options": {}, "patch": 32}
    assert nest_objective(record, record=True) == {"objective": {"type": "dann", "weight": 0.05}, "patch": 32}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": "dan"}, "`objective` must be one of noise_space, renoised"),
        ({"variant": "hybrid"}, "`objective` dann has no option 'variant'"),
        ({"save_noise_predictor": True}, "`save_noise_predictor` needs an `objective` with a noise predictor"),
        ({"weight_schedule": "balanced"}, "`weight_schedule` must be one of paper, constant"),
        ({"objective": {"type": "dann", "hiden": 8}}, "no option 'hiden' .did you mean 'hidden'"),
        ({"objective": {"type": "noise_space", "hidden": 8}}, "`objective` noise_space has no option 'hidden'"),
        ({"objective": {"type": "noise_space", "variant": "pared"}}, "`variant` must be one of paired, extended"),
        ({"real": []}, "`objective` dann learns from real photos"),
        ({"compile": True}, "`compile` does not work with `objective` dann"),
    ],
)
def test_contradictory_options_are_refused(tiny_config, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_config(**{"objective": "dann", **changes}).check()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": "neighbor2neighbor", "patch": 24}, "`patch` must be a multiple of"),
        ({"objective": "recorrupted", "patch": 16}, "`patch` must be at least 32 for recorrupted, got 16"),
        ({"objective": {"type": "dann", "hidden": -1}}, "`hidden` must be at least 1"),
    ],
)
def test_what_does_not_fit_fails_before_anything_is_written(tiny_config, tmp_path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        train(tiny_config(**changes), progress_bar=False)
    assert not (tmp_path / "run").exists()
