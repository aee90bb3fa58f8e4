"""Restorer architectures beside the package's own, for `benchmarks/architectures.py`: blocks in one common U-Net."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, scale: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps the size; `scale` multiplies its weights as torch draws them."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.zero_()
    return layer


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with activations and no identity path, Kaiming-normal: as `RestorationUNet` has them."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(conv(width, width), nn.LeakyReLU(0.2), conv(width, width), nn.LeakyReLU(0.2))
        for layer in self.layers[::2]:
            nn.init.kaiming_normal_(layer.weight, 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) -> the same shape, as for all blocks."""
        return self.layers(x)


class Branch(nn.Module):
    """`x + branch(x)`."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `PlainBlock`."""
        return x + self.layers(x)


class LayerNorm2d(nn.LayerNorm):
    """Normalization over the channels of each pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `PlainBlock`."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Gate(nn.Module):
    """The product of the two halves of the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 2 width, H, W) -> (B, width, H, W)."""
        first, second = x.chunk(2, 1)
        return first * second


class Reparameterized(nn.Conv2d):
    """A 3x3 convolution that is trained as the sum of a 3x3 and a 1x1 one, and costs no more than one afterwards."""

    def __init__(self, width: int, scale: float = 1.0):
        super().__init__(width, width, 3, padding=1)
        self.point = conv(width, width, 1, scale=scale)
        with torch.no_grad():
            self.weight.mul_(scale)
            self.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `PlainBlock`."""
        return F.conv2d(x, self.weight + F.pad(self.point.weight, (1, 1, 1, 1)), self.bias, padding=1)


def residual(width: int) -> nn.Module:
    """Two 3x3 convolutions; the block of `FastRestorationUNet`."""
    return Branch(conv(width, width, scale=6**0.5), nn.ReLU(), conv(width, width, scale=0.25))


def fused(width: int) -> nn.Module:
    """A 3x3 convolution to twice the channels and a 1x1 convolution back."""
    return Branch(conv(width, 2 * width, scale=6**0.5), nn.ReLU(), conv(2 * width, width, 1, scale=0.25))


def nafnet(width: int, norm: bool = True) -> nn.Module:
    """NAFNet's block without its attention, which pools over the photo; its channels are 2 and 2."""
    norms = [LayerNorm2d(width) if norm else nn.Identity() for _ in range(2)]
    mixed = conv(2 * width, 2 * width, groups=2 * width)
    return nn.Sequential(
        Branch(norms[0], conv(width, 2 * width, 1), mixed, Gate(), conv(width, width, 1, scale=0.25)),
        Branch(norms[1], conv(width, 2 * width, 1), Gate(), conv(width, width, 1, scale=0.25)),
    )


def large_kernel(width: int, norm: bool = True) -> nn.Module:
    """ConvNeXt's block: 7x7 depthwise, 1x1 to twice the channels, 1x1 back."""
    layers = [conv(width, width, 7, groups=width), LayerNorm2d(width) if norm else nn.Identity()]
    return Branch(*layers, conv(width, 2 * width, 1), nn.ReLU(), conv(2 * width, width, 1, scale=0.25))


def reparameterized(width: int) -> nn.Module:
    """`residual` of re-parameterized convolutions."""
    return Branch(Reparameterized(width, 3**0.5), nn.ReLU(), Reparameterized(width, 0.2))


class Candidate(nn.Module):
    """A U-Net behind pixel-unshuffle 2, of any block.

    Args:
        block: makes a block of a width.
        widths, blocks: as of `FastRestorationUNet`.
        concatenate: skip connections are concatenated and joined by a 1x1 convolution; False: added.
        detail: channels of a branch at full resolution beside the U-Net, joined by a last convolution; 0: none.
    """

    def __init__(
        self,
        block: Callable[[int], nn.Module],
        widths: Sequence[int] = (48, 96, 192),
        blocks: Sequence[int] = (1, 1, 2),
        concatenate: bool = False,
        detail: int = 0,
    ):
        super().__init__()
        steps = list(zip(widths, widths[1:], strict=False))
        counts = list(zip(widths, blocks, strict=True))
        stages = [[block(width) for _ in range(count)] for width, count in counts + counts[:-1]]
        self.conv_in = conv(12, widths[0])
        self.down_blocks = nn.ModuleList(nn.Sequential(*stage) for stage in stages[: len(widths)])
        self.up_blocks = nn.ModuleList(nn.Sequential(*stage) for stage in stages[len(widths) :])
        self.downsamplers = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.upsamplers = nn.ModuleList(conv(coarse, 4 * fine, 1) for fine, coarse in steps)
        self.joins = nn.ModuleList(conv(2 * fine, fine, 1) for fine, _ in steps) if concatenate else None
        self.detail = conv(3, detail) if detail else None
        self.conv_out = conv(widths[0], 4 * (detail or 3), scale=1.0 if detail else 0.1)
        self.last = conv(2 * detail, 3, scale=0.1) if detail else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> the same shape; H and W multiples of 2 times two to the number of levels less one."""
        hidden = self.conv_in(F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
        skips = []
        for block, downsampler in zip(self.down_blocks, self.downsamplers, strict=False):
            skips.append(block(hidden))
            hidden = downsampler(skips[-1])
        hidden = self.down_blocks[-1](hidden)
        for level in reversed(range(len(self.up_blocks))):
            hidden = F.pixel_shuffle(self.upsamplers[level](hidden), 2)
            if self.joins is None:
                hidden = hidden + skips[level]
            else:
                hidden = self.joins[level](torch.cat([hidden, skips[level]], dim=1))
            hidden = self.up_blocks[level](hidden)
        residue = F.pixel_shuffle(self.conv_out(hidden), 2)
        if self.detail is not None and self.last is not None:
            residue = self.last(F.relu(torch.cat([residue, self.detail(x)], dim=1)))
        return x + residue
