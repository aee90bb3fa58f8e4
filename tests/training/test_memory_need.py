"""The memory of a run: estimated from small steps, and refused where there is less, before anything is written."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.pipelines.tiling import LiveBytes
from daa_diffusers.training import setup
from daa_diffusers.training.loop import train
from daa_diffusers.training.memory_need import check_memory, memory_need, random_photos, state_restored, step_bytes
from daa_diffusers.training.planning import describe

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes", [{}, {"gradient_checkpointing": True}, {"separate_passes": True}, {"mixed_precision": "bf16"}], ids=str
)
def test_a_large_step_is_foretold_by_small_ones(tiny_config, changes):
    config = tiny_config(patch=128, batch_size=3, **changes)
    model = setup.prepare_networks(config, setup.build_model(config))
    photos = random_photos(config, model, config.batch_size, config.patch)
    precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.mixed_precision != "no")
    with LiveBytes() as live:
        with precision:
            output = model(Batch(*photos), generator=torch.Generator().manual_seed(0))
        output.loss.backward()
    del output
    model.zero_grad()
    assert step_bytes(config, model) == pytest.approx(live.peak, rel=0.1)


def test_what_saves_memory_is_counted(tiny_config):
    def activations(**changes):
        config = tiny_config(patch=128, **changes)
        return memory_need(config, setup.prepare_networks(config, setup.build_model(config)), []).activations

    whole = activations()
    assert activations(batch_size=4) > 1.8 * whole
    for changes in ({"gradient_checkpointing": True}, {"separate_passes": True}, {"mixed_precision": "bf16"}):
        assert activations(**changes) < whole, changes


def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(tiny_config):
    config = tiny_config(patch=128, batch_size=10**6)
    with pytest.raises(
        ConfigurationError, match=r"`batch_size` 1000000 of `patch` 128 needs about \d+\.\d\d GiB .* free"
    ):
        train(config, progress_bar=False)
    assert not Path(config.output_dir).exists()
    model = setup.build_model(config)
    check_memory(replace(config, check_memory=False), model, [], CPU)
    with pytest.raises(ConfigurationError, match=r"`batch_size` \d+ with `gradient_accumulation_steps` would fit"):
        check_memory(config, model, [], CPU)


def test_the_estimate_leaves_the_model_and_the_random_numbers_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with state_restored(model):
        model(torch.rand(2, 3, 4, 4)).sum().backward()
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and torch.equal(torch.rand(3), expected)


def test_a_dry_run_takes_seconds_whatever_the_step(tiny_config):
    describe(tiny_config())  # imports
    started = time.process_time()
    text = describe(tiny_config(patch=128, batch_size=4000))
    assert time.process_time() - started < 10 and "interpreter and libraries" in text
