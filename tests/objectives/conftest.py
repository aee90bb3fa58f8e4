"""Small restorers and batches of the baselines."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from daa_diffusers import RestorationUNet
from daa_diffusers.objectives.real_term import RealTermObjective
from daa_diffusers.objectives.registry import OBJECTIVES

NAMES = [name for name, objective in OBJECTIVES.items() if issubclass(objective, RealTermObjective)]


def restorer(seed: int = 0, depth: int = 3) -> RestorationUNet:
    torch.manual_seed(seed)
    return RestorationUNet(width=8, depth=depth)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    clean, other, real = F.interpolate(torch.rand(6, 3, 4, 4, generator=generator), 32, mode="bilinear").split(2)
    noise = torch.randn(2, 2, 3, 32, 32, generator=generator) * 0.08
    return {"synthetic": clean + noise[0], "clean": clean, "real": real + noise[1], "unpaired_clean": other}


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
