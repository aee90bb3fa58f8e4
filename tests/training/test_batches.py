"""The batches of a run: which samples are in them, and degradation on the device."""

import itertools
from dataclasses import replace

import pytest
import torch

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training import batches as module
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.verification import differences


@pytest.fixture
def config(tiny_config, monkeypatch):
    monkeypatch.setattr(module, "DEGRADED_AT_ONCE", 6)
    parts = [
        {"weight": 1, "degradation": {"type": "camera", "jpeg_probability": 0.9}},
        {"weight": 1, "degradation": {"type": "motion_blur", "varying_probability": 0.5, "length": [2, 6]}},
    ]
    return tiny_config(
        objective={"type": "supervised"},
        degradation={"type": "mixture", "parts": parts},
        degrade_on_device=True,
        steps=5,
        checkpoint_every=2,
    )


@pytest.fixture
def batches(config):
    trainer = Trainer(config, progress_bar=False)
    yield trainer.batches
    trainer.folder.withdraw()
    trainer.folder.release()


def test_photos_degraded_on_the_device_are_cut_as_the_loader_cuts_them(batches):
    ours = list(batches.loader(0, 5))
    batches.config = replace(batches.config, degrade_on_device=False)
    for one, other in zip(ours, batches.loader(0, 5), strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["clean"], other["clean"])
        assert not torch.equal(one["synthetic"], one["clean"])
        assert one["synthetic"].shape == other["synthetic"].shape


def test_a_batch_does_not_depend_on_where_the_run_begins(batches):
    whole = list(itertools.islice(batches.loader(0, None), 5))
    for first_step in range(1, 5):
        for one, other in zip(batches.loader(first_step, 5 - first_step), whole[first_step:], strict=True):
            assert torch.equal(one["index"], other["index"])
            assert torch.equal(one["synthetic"], other["synthetic"])


def test_a_run_that_degrades_on_the_device_resumes_exactly(config, tmp_path):
    first = replace(config, output_dir=str(tmp_path / "whole"))
    second = replace(config, output_dir=str(tmp_path / "interrupted"))
    train(first, progress_bar=False)
    Trainer(second, progress_bar=False).train(stop_after=3)
    train(second, progress_bar=False)
    assert differences(tmp_path / "whole", tmp_path / "interrupted") == []


def test_degradation_on_the_device_needs_photos_to_degrade(config):
    with pytest.raises(ConfigurationError, match="`degrade_on_device` needs `clean` photos"):
        replace(config, clean=[], paired_degraded=["a"], paired_clean=["b"]).check()
