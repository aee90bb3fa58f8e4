"""Optimizers: which parameters Muon updates as matrices, what its updates look like, and that it resumes."""

import copy

import pytest
import torch
from torch import nn

from daa_diffusers.models import registry
from daa_diffusers.training.optimizers import ADAM_RMS, Muon, is_matrix, orthogonalized


def test_singular_values_become_equal():
    torch.manual_seed(0)
    directions = [torch.linalg.qr(torch.randn(side, 24))[0] for side in (24, 60)]
    matrix = directions[0] @ torch.diag(torch.logspace(0, -1.5, 24)) @ directions[1].T  # 1 to 0.03
    for oriented in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonalized(oriented).float())
        assert values.min() > 0.6 and values.max() < 1.3


def test_updates_have_the_size_of_adams():
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 64, 3)
    before = layer.weight.detach().clone()
    optimizer = Muon(layer.parameters(), lr=0.01)
    layer.weight.grad, layer.bias.grad = torch.randn_like(layer.weight), torch.ones(64)
    optimizer.step()
    moved = (layer.weight - before).square().mean().sqrt().item()
    assert moved == pytest.approx(0.01 * ADAM_RMS, rel=0.25)
    assert "exp_avg_sq" not in optimizer.state[layer.weight] and "exp_avg_sq" in optimizer.state[layer.bias]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((64, 32, 3, 3), True), ((64, 64), True), ((64,), False), ((64, 1, 7, 7), False), ((3, 64, 3, 3), False)],
)
def test_vectors_depthwise_and_narrow_kernels_are_left_to_adam(shape, expected):
    assert is_matrix(torch.zeros(shape)) is expected


def test_a_saved_optimizer_continues_with_the_same_bits():
    torch.manual_seed(0)
    network = registry.new_restorer("tiny")
    photos = [torch.rand(2, 3, 16, 16) for _ in range(4)]

    def train(network, optimizer, photos):
        for photo in photos:
            (network(photo) - photo.flip(3)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    optimizer = Muon(network.parameters(), lr=1e-3)
    train(network, optimizer, photos[:2])
    resumed = copy.deepcopy(network)
    other = Muon(resumed.parameters(), lr=1e-3)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(network, optimizer, photos[2:])
    train(resumed, other, photos[2:])
    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_closures_are_refused():
    with pytest.raises(ValueError, match="closure"):
        Muon(nn.Linear(2, 2).parameters()).step(lambda: 0.0)
