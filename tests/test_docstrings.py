"""Examples in docstrings, run as doctests."""

import doctest
import importlib

import pytest

MODULES = (
    "degradations.camera_noise",
    "degradations.fitting.noise",
    "evaluation.folders",
    "models.restorer",
    "objectives.noise_space",
    "pipelines.adapter_mixin",
    "sources.specs",
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    result = doctest.testmod(importlib.import_module(f"daa_diffusers.{name}"))
    assert result.attempted > 0 and result.failed == 0
