"""Small networks of other libraries."""

import pytest
from torch import nn

pytest.importorskip("spandrel.architectures", reason='needs the extra "zoo"')


def nafnet(**options):
    from spandrel.architectures.NAFNet import NAFNet

    return NAFNet(**{"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], **options})


def dncnn(**options):
    from spandrel.architectures.DnCNN import DnCNN

    return DnCNN(**{"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 5, "act_mode": "R", **options})


def swinir(**options):
    from spandrel.architectures.SwinIR import SwinIR

    sizes = {"img_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "mlp_ratio": 2.0}
    return SwinIR(**{**sizes, "upscale": 1, "upsampler": "", **options})


def swin2sr(**options):
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    sizes = {"image_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "num_channels": 1}
    return Swin2SRForImageSuperResolution(Swin2SRConfig(**{**sizes, "upscale": 1, "upsampler": "", **options}))


class Layers(nn.Module):
    """A user's network, which takes [-1, 1] and gives the noise."""

    def __init__(self, width: int, depth: int = 3, normalize: bool = False):
        super().__init__()
        self.width, self.depth, self.normalize = width, depth, normalize
        layers = [nn.Conv2d(3, width, 3, padding=1)]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1)]
            layers += [nn.BatchNorm2d(width)] if normalize else []
            layers += [nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x):
        return self.layers(x)
