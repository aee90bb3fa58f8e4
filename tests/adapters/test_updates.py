"""What an adapter changes, and that the changed network is what it says."""

import copy

import pytest
import torch
from torch import nn

from daa_diffusers import RestorationUNet
from daa_diffusers.adapters.updates import (
    KINDS,
    attach,
    attached,
    base_parameters,
    extract,
    fingerprint,
    merge,
    statistics,
    updates_for,
)
from daa_diffusers.errors import ConfigurationError


class Mixed(nn.Module):
    """A network of a user: grouped, even and transposed kernels, norms, a linear layer, and a shared weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.even = nn.Conv2d(8, 8, 2, stride=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 8)
        self.one, self.other = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.other.weight = self.one.weight
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.last = nn.Conv2d(8, 3, 5, padding=2)

    def forward(self, x):
        hidden = self.norm(self.up(self.even(self.grouped(self.first(x)))))
        hidden = self.linear(hidden.movedim(1, -1)).movedim(-1, 1)
        return x + self.last(self.other(self.one(hidden)) * self.scale)


@pytest.fixture
def restorer():
    torch.manual_seed(0)
    return Mixed().eval()


def trained(module):
    """Gives every attached change some values."""
    with torch.no_grad():
        for update in attached(module).values():
            for parameter in update.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


VECTORS = {"scale", "norm.weight", "norm.bias", "linear.bias"}
VECTORS |= {f"{name}.bias" for name in ("first", "grouped", "even", "up", "last")}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("bias", set()),
        ("pointwise", {"first.weight", "grouped.weight", "last.weight"}),  # an even kernel has no middle
        ("lora", {f"{name}.weight" for name in ("first", "grouped", "even", "up", "linear", "last")}),
    ],
)
def test_a_kind_changes_its_parameters_and_no_shared_ones(restorer, kind, names):
    assert set(updates_for(restorer, kind)) == VECTORS | names


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_adapter_changes_nothing(restorer, kind):
    photo = torch.rand(1, 3, 8, 12)
    before = restorer(photo)
    attach(restorer, updates_for(restorer, kind))
    assert torch.equal(restorer(photo), before)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_is_trained_and_all_of_it_learns(restorer, kind):
    attach(restorer, updates_for(restorer, kind))
    trained(restorer)
    restorer(torch.rand(2, 3, 8, 8)).square().mean().backward()
    own = {id(p) for update in attached(restorer).values() for p in update.parameters()}
    for name, parameter in restorer.named_parameters():
        assert parameter.requires_grad == (id(parameter) in own), name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (id(parameter) in own), name


@pytest.mark.parametrize("kind", KINDS)
def test_merged_it_is_the_same_function_under_the_old_names(restorer, kind):
    names, photo = set(restorer.state_dict()), torch.rand(1, 3, 8, 8)
    before = restorer(photo)
    attach(restorer, updates_for(restorer, kind))
    trained(restorer)
    changed = restorer(photo)
    assert (changed - before).abs().max() > 1e-4
    merge(restorer)
    assert set(restorer.state_dict()) == names
    assert torch.equal(restorer(photo), changed)
    assert all(parameter.requires_grad for parameter in restorer.parameters())


def test_pointwise_is_a_1x1_convolution_beside_the_convolution():
    torch.manual_seed(0)
    convolution, beside = nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), nn.Conv2d(4, 6, 1, stride=2, groups=2)
    photo = torch.rand(1, 4, 9, 8)
    together = convolution(photo) + beside(photo)
    with torch.no_grad():
        convolution.bias += beside.bias
        attach(convolution, updates_for(convolution, "pointwise"))
        attached(convolution)["weight"].pointwise.copy_(beside.weight[:, :, 0, 0])
    torch.testing.assert_close(convolution(photo), together)


def test_lora_is_a_convolution_to_few_channels_and_a_1x1_convolution_after_it():
    torch.manual_seed(0)
    convolution, photo = nn.Conv2d(4, 6, 3, padding=1, bias=False), torch.rand(1, 4, 8, 8)
    before = convolution(photo)
    attach(convolution, updates_for(convolution, "lora", rank=2))
    trained(convolution)
    update = attached(convolution)["weight"]
    thin = nn.functional.conv2d(photo, update.lora_A.view(2, 4, 3, 3), padding=1)
    beside = nn.functional.conv2d(thin, update.lora_B.view(6, 2, 1, 1))
    torch.testing.assert_close(convolution(photo), before + beside)


def test_an_adapter_of_the_bundled_width_has_the_size_of_an_adapter():
    restorer = RestorationUNet(width=32)
    size = {
        kind: 2 * sum(p.numel() for update in updates_for(restorer, kind).values() for p in update.parameters())
        for kind in KINDS
    }
    assert size["bias"] < 5_000 and 50_000 < size["lora"] < size["pointwise"] < 500_000


def test_the_fingerprint_is_that_of_the_base_in_either_precision(restorer):
    ours = fingerprint(base_parameters(restorer))
    half = copy.deepcopy(restorer).half()
    attach(restorer, updates_for(restorer, "lora"))
    trained(restorer)
    assert fingerprint(base_parameters(restorer)) == fingerprint(base_parameters(half)) == ours
    merge(restorer)
    assert fingerprint(base_parameters(restorer)) != ours


def test_the_statistics_of_batch_norms_are_carried():
    assert set(statistics(Mixed())) == {"norm.running_mean", "norm.running_var"}


def test_the_weight_norm_of_a_network_is_left_alone():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), nn.Conv2d(3, 3, 3))
    assert set(updates_for(network, "lora")) == {"0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lorra", 4), "`adapter` must be one of bias, pointwise, lora, got 'lorra'"),
        (("lora", 0), "`adapter_rank` must be a whole number, at least 1, got 0"),
        (("lora", 1.5), "got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(restorer, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        updates_for(restorer, *arguments)


def test_a_network_without_such_parameters_is_refused():
    with pytest.raises(ConfigurationError, match="'pointwise': Linear has no parameters for this kind"):
        updates_for(nn.Linear(3, 3, bias=False), "pointwise")


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_adapter_made_of_a_restorer_is_extracted_from_both(restorer, kind):
    adapted, photo = copy.deepcopy(restorer), torch.rand(1, 3, 8, 8)
    attach(adapted, updates_for(adapted, kind, rank=2))
    trained(adapted)
    merge(adapted)
    attach(restorer, extract(restorer, adapted, kind, rank=2))
    torch.testing.assert_close(restorer(photo), adapted(photo), rtol=1e-4, atol=1e-5)


def test_the_nearest_low_rank_change_comes_nearer_with_its_rank(restorer):
    adapted = copy.deepcopy(restorer)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    wanted = adapted.grouped.weight - restorer.grouped.weight
    errors = [
        (extract(restorer, adapted, "lora", rank)["grouped.weight"].delta(wanted.shape) - wanted).norm().item()
        for rank in (1, 3, 8)
    ]
    assert errors[0] > errors[1] > 10 * errors[2]
    with pytest.raises(ConfigurationError, match="must have the same architecture"):
        extract(restorer, RestorationUNet(width=4, depth=2), "bias")
