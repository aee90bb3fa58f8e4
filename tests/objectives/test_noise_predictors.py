"""Noise predictors other than the U-Net: any map (z, noise level, first, second) -> noise, shuffled by a wrapper."""

import pytest
import torch
from torch import nn

from daa_diffusers import NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.noise_predictors import (
    NOISE_PREDICTORS,
    ShuffledPredictor,
    build_noise_predictor,
    register_noise_predictor,
)
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
