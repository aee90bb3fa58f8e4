"""Domain-adversarial training of features: ramp, reversed gradient, classifier."""

import math

import pytest
import torch
from torch import nn

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.dann import Dann, reverse_gradient

from .conftest import gradients, restorer


@pytest.mark.parametrize("progress, share", [(0.0, 0.0), (0.5, 2 / (1 + math.exp(-5)) - 1), (1.0, 0.99991)])
def test_the_ramp_of_dann(progress, share):
    step = Dann(restorer(), weight=2.0)
    assert step.weight_at(progress) == pytest.approx(2 * share, abs=1e-4)
    assert Dann(restorer(), weight=2.0, weight_schedule="constant").weight_at(progress) == 2.0


def test_a_reversed_gradient_is_the_negative_one():
    x = torch.ones(3, requires_grad=True)
    y = reverse_gradient(x, 0.5)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(y, x) and torch.equal(x.grad, -0.5 * torch.tensor([1.0, 2.0, 3.0]))


def test_dann_classifies_the_bottleneck_and_its_classifier_learns(batch):
    step = Dann(restorer(), weight=0.0, hidden=16)
    assert step.features == "down_blocks.2" and step.classifier[0].in_channels == 32
    shifted = {**batch, "real": batch["real"] * 0.5}
    optimizer = torch.optim.Adam(step.classifier.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        output = step(Batch(**shifted))
        output.loss.backward()
        optimizer.step()
    assert output.losses["domain"] < 0.4 and output.losses["domain_accuracy"] > 0.8


def test_dann_reads_the_features_of_any_restorer(batch):
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 3, 3, padding=1))
    Dann(plain, features="1")(Batch(**batch)).loss.backward()
    for module, options in ((plain, {}), (plain, {"features": "7"}), (restorer(), {"features": "down_block.1"})):
        with pytest.raises(ConfigurationError, match="`features` must name a submodule"):
            Dann(module, **options)


def test_dann_hears_each_pass_once_under_gradient_checkpointing(batch):
    steps = [Dann(restorer(), weight=1.0) for _ in range(2)]
    steps[1].load_state_dict(steps[0].state_dict())
    steps[1].restorer.enable_gradient_checkpointing()
    for step in steps:
        step(Batch(**batch)).loss.backward()
    torch.testing.assert_close(gradients(steps[0]), gradients(steps[1]))
