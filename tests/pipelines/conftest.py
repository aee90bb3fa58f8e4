"""Small pipelines and photos of every PIL mode."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline, RestorationUNet

from .contract import photo


def gentle(restorer: RestorationUNet) -> RestorationUNet:
    """Scales the residual down: random weights would restore every photo to black and white."""
    with torch.no_grad():
        restorer.conv_out.weight.mul_(0.1)
    return restorer


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    pipe = DAARestorationPipeline(gentle(RestorationUNet(width=4, depth=3)).eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pil(mode: str) -> PIL.Image.Image:
    image = PIL.Image.fromarray(photo(20, 28))
    if mode == "I;16":
        return PIL.Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("I;16B", "I"):
        return pil("I;16").convert("I") if mode == "I" else PIL.Image.frombytes("I;16B", (28, 20), _big_endian())
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(PIL.Image.linear_gradient("L").resize((28, 20)))
        return image
    return image.convert(mode)


def _big_endian() -> bytes:
    return np.array(pil("I;16")).astype(">u2").tobytes()


def quiet(restorer: nn.Module) -> DAARestorationPipeline:
    pipe = DAARestorationPipeline(restorer.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def tiled_pipe():
    torch.manual_seed(0)
    restorer = RestorationUNet(width=16, depth=2)  # kernels for fewer channels add up in an order that changes
    with torch.no_grad():
        restorer.conv_out.weight.mul_(0.1)
    return quiet(restorer)


class Brightening(nn.Module):
    """Sees the whole photo: adds its mean."""

    def forward(self, x):
        return 0.5 * x + 0.5 * x.mean((2, 3), keepdim=True)
