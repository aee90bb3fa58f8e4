"""Saved rows of the adaptation benchmark are those of today's plan."""

import importlib
import json
from pathlib import Path

import pytest
import yaml

from daa_diffusers.training.config import resolve

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ROWS = sorted((BENCHMARKS / "results" / "adaptation").glob("*/*-?-*.json"))


@pytest.fixture(scope="module")
def adaptation():
    return importlib.import_module("adaptation")


def test_every_saved_row_is_found_again(adaptation):
    names = {adaptation.slug(row): row for row in adaptation.ALL_ROWS}
    orphans = []
    for path in ROWS:
        row, seed, _ = path.stem.rsplit("-", 2)
        steps = max(map(int, json.loads(path.read_text())["steps"]))
        fixed = "steps" in adaptation.DOMAINS[path.parent.name].options
        arguments = adaptation.parse([] if fixed else ["--steps", str(steps)])
        if adaptation.plan(arguments, path.parent.name, names[row], int(seed)).scores != path:
            orphans.append(f"{path.parent.name}/{path.name}")
    assert ROWS and orphans == []


def test_fitted_shake_is_trained_as_by_the_config_of_the_adapted_deblurrer(adaptation):
    domains, rows = ["levin_shake", "levin_12"], ["fitted noise", "fitted shake"]
    tasks = adaptation.tasks_of(adaptation.parse(["--domains", *domains, "--rows", *rows]))
    assert [(task.domain, task.row) for task in tasks] == [(domain, "fitted shake") for domain in domains]
    config = BENCHMARKS.parent / "examples" / "configs" / "daa-deblur-adapted.yaml"
    known, made = (resolve(given).identity() for given in (yaml.safe_load(config.read_text()), tasks[0].options))
    of_predictors = {"predictor_warmup_steps", "predictor_learning_rate"}  # there is none
    assert {name for name in known if known[name] != made[name]} == {"clean", "real", *of_predictors}


def test_only_options_that_differ_count_and_those_of_the_objective_stand_beside_the_others(adaptation):
    common = {"preset": "small", "degradation": {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 60.0}}
    assert adaptation.what_differs(common) == {}
    assert adaptation.what_differs({**common, "steps": 7, "weight": 0.3}) == {"steps": 7, "weight": 0.3}
    found = adaptation.what_differs({**common, "objective": "recorrupted", "alpha": 0.7})
    assert found == {"objective": "recorrupted", "alpha": 0.7}
