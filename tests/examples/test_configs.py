"""Configs of examples/configs."""

from pathlib import Path

import pytest

from daa_diffusers.training.config import read_yaml, resolve

from ..conftest import PROJECT_ROOT

CONFIGS = sorted((PROJECT_ROOT / "examples" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_hold_options_that_fit(path: Path, monkeypatch):
    monkeypatch.setenv("DAA_DATA", "photos")
    assert resolve(read_yaml(path)).check().output_dir == f"outputs/{path.stem}"


@pytest.mark.parametrize("task", ["denoise", "derain", "deblur"])
def test_the_official_recipes_have_the_paper_s_form(task):
    config = resolve(read_yaml(PROJECT_ROOT / "examples" / "configs" / f"official-{task}.yaml"))
    assert (config.objective["type"], config.objective["variant"], config.steps) == ("noise_space", "paired", 300_000)
    assert config.objective["noise_predictor"] == config.restorer == "paper" and config.real
