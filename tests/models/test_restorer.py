"""The contract of a restorer: the same facts of every kind of module, wrapped or not, and read nowhere else."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from daa_diffusers import ForeignRestorer, RestorationUNet
from daa_diffusers.models.restorer import RestorerContract, in_eval_mode, unwrapped

from ..conftest import PROJECT_ROOT


def test_a_plain_module_has_the_defaults():
    assert RestorerContract.of(nn.Conv2d(3, 3, 1)) == RestorerContract()


def test_facts_of_our_restorer_are_read_off_it():
    found = RestorerContract.of(RestorationUNet(channels=1, width=4, depth=3, value_range=(-1, 1)))
    assert found == RestorerContract(1, (-1.0, 1.0), 4, 30, skips_margins=True, has_gradient_checkpointing=True)


class Plain(nn.Module):
    """A network of somebody who knows nothing of this package."""

    size_multiple = 8

    def __init__(self, width: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.config = SimpleNamespace(channels=3, value_range=None, is_global=True, task="derain")

    def forward(self, x):
        return self.norm(self.conv(x))


def test_attributes_come_before_a_config_of_any_kind():
    found = RestorerContract.of(Plain())
    assert found == RestorerContract(size_multiple=8, is_global=True, has_batch_statistics=True, task="derain")


@pytest.mark.filterwarnings("ignore")
def test_a_wrapped_network_has_the_facts_of_its_inside():
    inside = RestorationUNet(width=4, depth=2)
    for wrapped in (torch.compile(inside), nn.DataParallel(inside), torch.compile(nn.DataParallel(inside))):
        assert unwrapped(wrapped) is inside
        assert RestorerContract.of(wrapped) == RestorerContract.of(inside)


def test_a_foreign_network_is_described_by_its_config():
    found = RestorerContract.of(ForeignRestorer.wrap(Plain(), arguments={}, value_range=(-1, 1)))
    assert (found.value_range, found.has_batch_statistics) == ((-1.0, 1.0), True)


def test_the_range_is_converted_and_back():
    contract = RestorerContract(value_range=(-1.0, 1.0))
    photo = torch.tensor([0.0, 0.25, 1.5])
    assert torch.equal(contract.to_range(photo), torch.tensor([-1.0, -0.5, 2.0]))
    assert torch.equal(contract.from_range(contract.to_range(photo)), photo)


def test_eval_mode_is_left_as_it_was_found():
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval())
    with in_eval_mode(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False]


def test_no_other_file_probes_a_restorer():
    facts = "channels|value_range|size_multiple|receptive_radius|is_global|skips_margins|_orig_mod|task"
    package = PROJECT_ROOT / "daa_diffusers"
    probes = [
        f"{path.relative_to(package)}: {found[0]}"
        for path in sorted({*package.rglob("*.py")} - {package / "models" / "restorer.py"})
        for found in re.finditer(rf'(get|has)attr\([^"\n]*"({facts})".*', path.read_text(encoding="utf-8"))
    ]
    assert probes == []
