"""The contract of restorers over networks of other libraries."""

import pytest
import torch
from torch import nn

from daa_diffusers import ForeignRestorer

from ..models.contract import DiffusersContract, ModelContract
from .foreign_contract import ForeignContract
from .networks import Layers, dncnn, nafnet, swin2sr, swinir


class TestNAFNet(ForeignContract):
    is_global = True

    def network(self):
        network = nafnet()
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                nn.init.normal_(parameter, std=0.3)  # they start at zero, and the blocks would do nothing
        return network


class TestDnCNN(ForeignContract):
    def network(self):
        return dncnn()


class TestDnCNNAsAModelOfDiffusers(DiffusersContract):
    def build(self):
        return ForeignRestorer.wrap(dncnn())

    def inputs(self, batch, height, width, dtype=torch.float32):
        return {"x": ModelContract.photos(batch, 3, height, width, 1, dtype)}


class TestDnCNNWithBatchNorm(ForeignContract):
    # of random weights: running statistics that nothing was trained with, so that any step makes the result another
    adaptation = {"hold_to_start": False}

    def network(self):
        return dncnn(act_mode="BR")


class TestDRUNet(ForeignContract):
    def restore(self, network, photos):
        level = torch.full_like(photos[:, :1], 15 / 255)
        return network(torch.cat([photos, level], dim=1))

    def network(self):
        from spandrel.architectures.DRUNet import DRUNet

        return DRUNet(in_nc=4, out_nc=3, nc=[8, 8, 8, 16], nb=2)


class TestSwinIR(ForeignContract):
    def network(self):
        return swinir()


@pytest.mark.slow
class TestSCUNet(ForeignContract):
    adaptation = {"steps": 24, "batch_size": 1, "log_every": 6, "learning_rate": 5e-4}

    def network(self):
        from spandrel.architectures.SCUNet import SCUNet

        return SCUNet(config=[1] * 7)


@pytest.mark.slow
class TestUformer(ForeignContract):
    is_global = True  # as far as can be measured: 128 pixels are its least size, and windows at five scales span them
    adaptation = {"steps": 60, "batch_size": 2, "log_every": 12, "learning_rate": 1e-2}

    def network(self):
        from spandrel.architectures.Uformer import Uformer

        return Uformer(embed_dim=4, depths=[1] * 9, num_heads=[1] * 9, dd_in=3)


class TestSwin2SR(ForeignContract):
    def network(self):
        return swin2sr()

    def restore(self, network, photos):
        return network(photos).reconstruction


class TestAModuleOfOnesOwn(ForeignContract):
    options = {"value_range": (-1, 1), "output": "noise"}

    def network(self):
        return Layers(width=8, depth=4)

    def restore(self, network, photos):
        return photos - network(photos)
