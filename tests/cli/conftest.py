"""A tiny checkpoint, and `daa restore` with it."""

import pytest
import torch

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.cli.app import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A restorer of random weights: it changes photos visibly, and in no time."""
    torch.manual_seed(0)
    restorer = RestorationUNet(width=4, depth=2)
    for parameter in restorer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("checkpoint")
    DAARestorationPipeline(restorer).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def restore(checkpoint):
    def run(*arguments, guard=False):
        options = ["--checkpoint", checkpoint, "--device", "cpu", *([] if guard else ["--no-guard"])]
        return main(["restore", *map(str, arguments), *options])

    return run
