"""Restoration in strips, from top to bottom, without computing any pixel twice.

Tiles overlap by twice the receptive radius, and the overlaps are computed twice. Here, each convolution keeps the last
rows of its input for the next strip, so that the computation is that of the whole photo, in the memory of a strip.
Strips are implemented layer by layer (`lines`), for the networks of this package only.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..models.fast_restoration_unet import FastRestorationUNet, ResidualBlock
from ..models.restoration_unet import ConvBlock, RestorationUNet, UpBlock
from ..models.restorer import config_of
from .lines import Chain, Conv, Downsample, Residual, RowBuffer, Step, Sum, Upsample, UpShuffle

# Pixels per strip, and minimum height in rows: smaller strips spend their time on copies, larger ones are not faster.
STRIP_PIXELS, MIN_ROWS = 2**18, 64


class Strips:
    """State of a network while it restores a photo strip by strip.

    Args:
        network: restorer in eval mode.
        height: height of the photo, a multiple of the network's `size_multiple`.
    """

    def __init__(self, network: nn.Module, height: int):
        self.photo = RowBuffer(height)
        self.photo.keep_for(self)
        self.last: Step

    def push(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Adds the next rows of the photo, and returns the rows that can be restored now.

        Args:
            rows: (N, C, h, W) in the network's range and dtype, h and W multiples of its `size_multiple`.

        Returns:
            The degraded rows (a view, valid until the next call) and the restored rows, both (N, C, k, W); None if more
            rows are needed.
        """
        self.photo.extend(rows.shape[2], rows).copy_(rows)
        self.advance(rows)
        first = self.last.done
        residual = self.last.compute_next()
        if residual is None:
            return None
        residual = self.finish(residual)
        scale = self.photo.total // self.last.source.total  # rows of the photo per row of the last layer
        first, stop = scale * first, scale * self.last.done
        self.photo.keep_for(self, stop)
        degraded = self.photo.read(first, stop)
        return degraded, degraded + residual

    def advance(self, rows: torch.Tensor) -> None:
        """Computes all layers but the last, as far as these rows of the photo allow."""
        raise NotImplementedError

    def finish(self, residual: torch.Tensor) -> torch.Tensor:
        """Converts the output of the last layer to the residual, which is added to the photo."""
        return residual


class FastStrips(Strips):
    """Strips of a `FastRestorationUNet`."""

    def __init__(self, network: Any, height: int):
        super().__init__(network, height)
        self.unshuffle = network.config.unshuffle
        self.folded = RowBuffer(height // self.unshuffle)
        self.first = Conv(network.conv_in, self.folded)
        buffer = self.entry = RowBuffer(self.folded.total)
        self.down: list[tuple[list[Residual], Downsample | None, RowBuffer]] = []
        skips = []
        for stage, layer in zip(network.down_blocks, [*network.downsamplers, None], strict=True):
            blocks, buffer = _blocks(stage, buffer)
            below = RowBuffer(buffer.total // 2)
            self.down.append((blocks, None if layer is None else Downsample(layer, buffer), below))
            if layer is not None:
                skips.append(buffer)
                buffer = below
        self.up: list[tuple[UpShuffle, Sum, list[Residual]]] = []
        for layer, stage in zip(network.upsamplers, network.up_blocks, strict=True):
            step, joined = UpShuffle(layer, buffer), Sum(skips.pop())
            blocks, buffer = _blocks(stage, joined)
            self.up.append((step, joined, blocks))
        self.last = Conv(network.conv_out, buffer)

    def advance(self, rows: torch.Tensor) -> None:
        """See `Strips`."""
        folded = F.pixel_unshuffle(rows, self.unshuffle)
        self.folded.extend(folded.shape[2], folded).copy_(folded)
        self.first.write_next(self.entry)
        for blocks, step, below in self.down:
            for block in blocks:
                block.advance()
            if step is not None:
                step.write_next(below)
        for shuffled, joined, blocks in self.up:
            shuffled.write_next(joined)
            for block in blocks:
                block.advance()

    def finish(self, residual: torch.Tensor) -> torch.Tensor:
        """See `Strips`."""
        return F.pixel_shuffle(residual, self.unshuffle)


def _blocks(stage: Any, buffer: RowBuffer) -> tuple[list[Residual], RowBuffer]:
    blocks = []
    for block in stage:
        blocks.append(Residual(block, buffer))
        buffer = blocks[-1].result
    return blocks, buffer


class UNetStrips(Strips):
    """Strips of a `RestorationUNet` with `align_corners=False`."""

    def __init__(self, network: Any, height: int):
        super().__init__(network, height)
        slope = network.config.negative_slope
        buffer = self.photo
        self.down: list[tuple[Chain, Downsample, RowBuffer]] = []
        for block in network.down_blocks[:-1]:
            chain = Chain([block.conv1, block.conv2], buffer, slope)
            buffer = RowBuffer(buffer.total // 2)
            self.down.append((chain, Downsample(nn.AvgPool2d(2), chain.result), buffer))
        self.middle = Chain([network.down_blocks[-1].conv1, network.down_blocks[-1].conv2], buffer, slope)
        buffer = self.middle.result
        self.up: list[tuple[Upsample, RowBuffer, Conv, RowBuffer, RowBuffer, Chain]] = []
        for block, (chain, _, _) in zip(network.up_blocks, self.down[::-1], strict=True):
            doubled, joined = RowBuffer(2 * buffer.total), RowBuffer(2 * buffer.total)
            chain.result.keep_for(joined)
            after = Chain([block.block.conv1, block.block.conv2], joined, slope)
            step = Upsample(buffer), doubled, Conv(block.upsample_conv, doubled), chain.result, joined, after
            self.up.append(step)
            buffer = after.result
        self.last = Conv(network.conv_out, buffer)

    def advance(self, rows: torch.Tensor) -> None:
        """See `Strips`."""
        for chain, pooled, below in self.down:
            chain.advance()
            pooled.write_next(below)
        self.middle.advance()
        for step, doubled, conv, skip, joined, after in self.up:
            step.write_next(doubled)
            first = conv.done
            computed = conv.compute_next()
            if computed is not None:
                channels = computed.shape[1]
                both = joined.extend(computed.shape[2], computed, 2 * channels)
                both[:, :channels] = computed
                both[:, channels:] = skip.read(first, conv.done)
                skip.keep_for(joined, conv.done)
            after.advance()


_RESTORERS = (FastRestorationUNet, RestorationUNet)
_LAYERS = (ResidualBlock, ConvBlock, UpBlock, nn.ModuleList, nn.Sequential, nn.Conv2d, nn.LeakyReLU)


def strips_of(restorer: nn.Module) -> type[Strips] | None:
    """The `Strips` class for a restorer; None for unknown networks and modified layers.

    Modifications are hooks, a replaced `forward` (offloading), and other classes of layers (LoRA, parametrizations).
    """
    for module in restorer.modules():
        hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        if hooked or type(module) not in (*_RESTORERS, *_LAYERS):
            return None
    if type(restorer) is FastRestorationUNet:
        return FastStrips
    if type(restorer) is RestorationUNet and not config_of(restorer)["align_corners"]:
        return UNetStrips
    return None


def plan_strips(size: tuple[int, int], multiple: int) -> list[slice]:
    """Row ranges of the strips of a photo (H, W), from the top; all start at multiples of `multiple`."""
    height, width = size
    rows = -(-max(MIN_ROWS, STRIP_PIXELS // width) // multiple) * multiple
    starts = list(range(0, height, rows))
    if len(starts) > 1 and height - starts[-1] < 2 * multiple:  # too small to be padded by reflection
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], height], strict=True)]
