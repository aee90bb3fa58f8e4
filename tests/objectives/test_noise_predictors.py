"""Noise predictors other than the U-Net: any map (z, noise level, first, second) -> noise, shuffled by a wrapper."""

import logging

import pytest
import torch
from torch import nn

from daa_diffusers import DAAUNet2DConditionModel, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.noise_predictors import (
    NOISE_PREDICTORS,
    ShuffledPredictor,
    build_noise_predictor,
    register_noise_predictor,
)
from daa_diffusers.training.config import resolve
from daa_diffusers.training.loop import train


class PlainPredictor(nn.Module):
    """Three convolutions over z, both conditions and a plane of the noise level."""

    def __init__(self, channels: int, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3 * channels + 1, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, z, noise_level, first, second):
        level = noise_level[:, None, None, None].expand_as(z[:, :1])
        return self.layers(torch.cat([z, first, second, level], dim=1))


@pytest.fixture
def plain():
    register_noise_predictor("plain")(PlainPredictor)
    yield "plain"
    del NOISE_PREDICTORS["plain"]


def test_a_plain_network_is_trained_as_the_noise_predictor(plain, tiny_config):
    objective = {"type": "noise_space", "noise_predictor": plain, "noise_predictor_options": {"width": 4}}
    config = tiny_config(objective=objective, steps=2).check()
    result = train(config, progress_bar=False)
    assert result.losses["noise"] > 0 and result.pipeline is not None


def test_the_wrapper_exchanges_the_conditions_of_the_samples_that_are_told_to():
    first, second, z = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    seen = []
    shuffled = ShuffledPredictor(nn.Identity())
    shuffled.network.forward = lambda z, level, a, b: seen.append((a, b)) or z
    shuffled(z, torch.full((2,), 0.5), conditions=(first, second), swap=torch.tensor([True, False]))
    a, b = seen[0]
    assert torch.equal(a[0], second[0]) and torch.equal(b[0], first[0])
    assert torch.equal(a[1], first[1]) and torch.equal(b[1], second[1])


def test_both_conditions_get_gradients_through_the_wrapper():
    torch.manual_seed(0)
    step = NoiseSpaceAdaptation(RestorationUNet(width=4, depth=2), PlainPredictor(3), weight_schedule="constant")
    output = step(Batch(*(torch.rand(2, 3, 16, 16) for _ in range(3))), generator=torch.Generator().manual_seed(0))
    output.loss.backward()
    assert output.gradients["noise"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in step.parameters())


def test_one_that_a_pipeline_cannot_hold_is_refused_before_the_run(plain, tiny_config):
    config = tiny_config(objective={"type": "noise_space", "noise_predictor": plain}, save_noise_predictor=True)
    with pytest.raises(ConfigurationError, match="`save_noise_predictor` needs a `noise_predictor` of tiny, .*'plain'"):
        config.check()


def test_unknown_names_and_options_are_named():
    with pytest.raises(ConfigurationError, match="`noise_predictor` must be one of tiny, small, paper"):
        build_noise_predictor("large", 3, {})
    with pytest.raises(ConfigurationError, match="`noise_predictor_options` of tiny: .*depth"):
        build_noise_predictor("tiny", 3, {"depth": 3})


# --- trained ones to start from ---

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}


def saved(folder, **options):
    torch.manual_seed(1)
    unet = DAAUNet2DConditionModel(**{**SMALL, "value_range": [0.0, 1.0], **options})
    unet.save_pretrained(folder)
    return unet


def started(restorer=None, **options):
    torch.manual_seed(0)
    restorer = restorer or RestorationUNet(width=4, depth=2)
    options = {"noise_predictor_options": SMALL, **options}
    return NoiseSpaceAdaptation.from_options(restorer, **options).unet


def equal(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    monkeypatch.setattr("daa_diffusers.checkpoints.NOISE_PREDICTOR", tmp_path / "bundled")
    return saved(tmp_path / "bundled")


def test_the_bundled_weights_are_a_start(bundled):
    found = started(noise_predictor_from="bundled", noise_predictor_options={**SMALL, "dropout": 0.1})
    assert equal(found, bundled) and found.config.dropout == 0.1


@pytest.mark.parametrize("source", [None, "none"])
def test_without_a_source_weights_are_new_and_as_they_were(bundled, source):
    found = started(noise_predictor_from=source)
    assert not equal(found, bundled) and equal(found, started(noise_predictor_from=source))
    torch.manual_seed(0)
    RestorationUNet(width=4, depth=2)
    assert equal(found, DAAUNet2DConditionModel(**SMALL))


def test_options_of_a_run_from_before_there_was_a_bundled_one_stay_without(bundled):
    recorded = {"type": "noise_space", "noise_predictor_from": None}
    assert resolve({"objective": recorded}).objective["noise_predictor_from"] is None
    assert resolve({}).objective["noise_predictor_from"] is None


@pytest.mark.parametrize(
    ("restorer", "options", "differs"),
    [
        ({}, {"block_out_channels": (8, 8)}, "block_out_channels"),
        ({"value_range": (-1.0, 1.0)}, {}, "value_range"),
        ({"channels": 1}, {}, "in_channels, out_channels"),
    ],
)
def test_bundled_weights_are_not_for_another_size_or_range(bundled, caplog, restorer, options, differs):
    with caplog.at_level(logging.INFO):
        network = RestorationUNet(width=4, depth=2, **restorer)
        found = started(network, noise_predictor_from="bundled", noise_predictor_options={**SMALL, **options})
    assert not equal(found, bundled) and f"the bundled ones differ in {differs}" in caplog.text


def test_a_noise_predictor_that_is_no_unet_starts_new(bundled, plain):
    found = started(noise_predictor=plain, noise_predictor_from="bundled", noise_predictor_options={})
    assert isinstance(found.network, PlainPredictor)


def test_a_trained_one_is_taken_from_its_folder_or_from_a_pipeline_s(tmp_path):
    unet = saved(tmp_path / "pipeline" / "unet")
    for folder in (tmp_path / "pipeline" / "unet", tmp_path / "pipeline"):
        assert equal(started(noise_predictor_from=str(folder), noise_predictor_options={}), unet)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"in_channels": 3, "out_channels": 1}, "is for photos with 1 channels, the restorer is for 3"),
        ({"value_range": [-1.0, 1.0]}, r"is for photos in \[-1.0, 1.0\], the restorer is for photos in \[0.0, 1.0\]"),
    ],
)
def test_one_of_other_channels_or_another_range_is_refused(tmp_path, options, problem):
    saved(tmp_path / "unet", **options)
    with pytest.raises(ConfigurationError, match=f"`noise_predictor_from`: the noise predictor of '.*unet' {problem}"):
        started(noise_predictor_from=str(tmp_path / "unet"))


def test_a_source_without_one_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="`noise_predictor_from` must be bundled, none, or a folder .*nothing"):
        started(noise_predictor_from=str(tmp_path / "nothing"))
