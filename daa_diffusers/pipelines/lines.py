"""Incremental layers: rows are computed from top to bottom as input rows arrive, and freed when no longer needed."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..models.fast_restoration_unet import ResidualBlock
from .convolutions import convolve

SPARE = 8  # extra rows of a buffer, which is allocated for the first strip: later ones complete more output rows


class RowBuffer:
    """Buffer for the rows of a tensor (N, C, total, W), written in order; rows that no reader needs are freed.

    A row of zeros before the first and after the last row is the padding of convolutions.

    Args:
        total: height of the complete tensor.
    """

    adds = False  # whether rows are added to those in memory (see `Sum`)

    def __init__(self, total: int):
        self.total = total
        self.stop = 0  # index after the last written row
        self._first = -1  # index of the first row in memory; -1 is the padding
        self._memory: torch.Tensor | None = None
        self._needs: dict[int, int] = {}  # `id` of a reader (a reference would be a cycle) -> first row that it needs

    def extend(self, count: int, like: torch.Tensor, channels: int | None = None) -> torch.Tensor:
        """Adds `count` rows, and returns them as a view (N, C, count, W), which the caller fills.

        Args:
            count: number of rows.
            like: tensor (N, C, h, W) of the same N, W, dtype and device.
            channels: number of channels; None: that of `like`.
        """
        begun, self.stop = self.stop, self.stop + count
        end = self.stop + (self.stop == self.total)  # with the padding row at the end
        if self._memory is None:
            self._memory = _rows(like, channels or like.shape[1], end - self._first + SPARE)
            self._memory[:, :, 0] = 0
        elif end - self._first > self._memory.shape[2]:  # full: move the needed rows to the start
            kept = min(self._needs.values())
            rest = self.read(kept, begun)
            if begun - kept > kept - self._first:  # they overlap with where they go
                rest = rest.clone()
            if end - kept > self._memory.shape[2]:
                self._memory = _rows(like, self._memory.shape[1], end - kept)
            self._first = kept
            self.read(kept, begun).copy_(rest)
        if self.stop == self.total:
            self.read(self.total, self.total + 1).zero_()
        return self.read(begun, self.stop)

    def read(self, first: int, stop: int) -> torch.Tensor:
        """Returns rows `first` to `stop` (exclusive) as a view; row -1 and row `total` are the padding."""
        assert self._memory is not None and first >= self._first
        return self._memory[:, :, first - self._first : stop - self._first]

    def keep_for(self, reader: object, first: int = -1) -> None:
        """Keeps the rows from `first` on for `reader`, which needs none before."""
        self._needs[id(reader)] = first


class Sum(RowBuffer):
    """Sum of the rows of a buffer and of those written here, in the memory of the buffer.

    Other readers of the buffer must not need rows that are written here already.

    Args:
        buffer: rows to add to.
    """

    adds = True

    def __init__(self, buffer: RowBuffer):
        self.buffer, self.total, self.stop = buffer, buffer.total, 0

    def extend(self, count: int, like: torch.Tensor, channels: int | None = None) -> torch.Tensor:
        """Returns the next `count` rows of the buffer as a view, to which the caller adds."""
        self.stop += count
        return self.read(self.stop - count, self.stop)

    def read(self, first: int, stop: int) -> torch.Tensor:
        """See `RowBuffer`."""
        return self.buffer.read(first, stop)

    def keep_for(self, reader: object, first: int = -1) -> None:
        """See `RowBuffer`."""
        self.buffer.keep_for(reader, first)


def _rows(like: torch.Tensor, channels: int, count: int) -> torch.Tensor:
    shape = (like.shape[0], channels, count, like.shape[3])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


class Step:
    """Layer that is computed incrementally.

    Args:
        source: input rows.
    """

    def __init__(self, source: RowBuffer):
        self.source, self.done = source, 0  # number of output rows computed so far
        source.keep_for(self)

    def compute_next(self) -> torch.Tensor | None:
        """Computes the output rows that the input now allows, (N, C, h, W), and updates `done`; None: no rows."""
        stop = self.available()
        if stop <= self.done:
            return None
        rows, self.done = self.compute(self.done, stop), stop
        return rows

    def available(self) -> int:
        """Number of output rows for which the input is available."""
        raise NotImplementedError

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """Computes output rows `first` to `stop`, and registers which rows of the source are still needed."""
        raise NotImplementedError

    def write_next(self, target: RowBuffer) -> None:
        """Writes the output rows that the input now allows to `target`, or adds them to a `Sum`; updates `done`."""
        first, self.done = self.done, max(self.done, self.available())
        if self.done > first:
            self.write(first, self.done, target)

    def write(self, first: int, stop: int, target: RowBuffer) -> None:
        """Writes the output rows of `compute` to `target`, the next rows of which they are."""
        rows = self.compute(first, stop)
        target.extend(stop - first, rows).copy_(rows)


class Conv(Step):
    """3x3 convolution with padding 1.

    Args:
        layer: the convolution; a change of its weights after the first rows has no effect.
        source: input rows.
        slope: negative slope of a LeakyReLU of the rows that are written; None: no activation.
    """

    def __init__(self, layer: nn.Conv2d, source: RowBuffer, slope: float | None = None):
        super().__init__(source)
        self.layer, self.slope = layer, slope
        self._weights: tuple[torch.Tensor, torch.Tensor | None] | None = None  # in the dtype of the rows

    def available(self) -> int:
        """See `Step`. The last output row needs the row below it, which is padding once the source is complete."""
        return self.source.stop - (self.source.stop < self.source.total)

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """See `Step`; without the activation."""
        rows = self._read(first, stop)
        return F.conv2d(rows, *self._weights_in(rows.dtype), padding=(0, 1))

    def write(self, first: int, stop: int, target: RowBuffer) -> None:
        """See `Step`."""
        rows = self._read(first, stop)
        view = target.extend(stop - first, rows, self.layer.out_channels)
        convolve(rows, *self._weights_in(rows.dtype), view, slope=self.slope, adds=target.adds)

    def _read(self, first: int, stop: int) -> torch.Tensor:
        self.source.keep_for(self, stop - 1)
        rows = self.source.read(first - 1, stop + 1)
        kind = rows.device.type
        return rows.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else rows

    def _weights_in(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._weights is None:
            weight, bias = self.layer.weight.detach(), self.layer.bias
            laid_out = weight.to(dtype, memory_format=torch.channels_last)
            self._weights = laid_out, None if bias is None else bias.detach().to(dtype)
        return self._weights


class Downsample(Step):
    """Layer of kernel and stride two in height and width: a convolution, or pooling."""

    def __init__(self, layer: Callable[[torch.Tensor], torch.Tensor], source: RowBuffer):
        super().__init__(source)
        self.layer = layer

    def available(self) -> int:
        """See `Step`."""
        return self.source.stop // 2

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """See `Step`."""
        self.source.keep_for(self, 2 * stop)
        return self.layer(self.source.read(2 * first, 2 * stop))


class Upsample(Step):
    """Bilinear upsampling by two, with `align_corners=False`; output rows also depend on the neighboring input row."""

    def available(self) -> int:
        """See `Step`."""
        return 2 * (self.source.stop - (self.source.stop < self.source.total))

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """See `Step`."""
        above = max(first // 2 - 1, 0)
        rows = self.source.read(above, self.source.stop)
        self.source.keep_for(self, max(stop // 2 - 1, 0))
        doubled = F.interpolate(rows, scale_factor=2, mode="bilinear", align_corners=False)
        return doubled[:, :, first - 2 * above : stop - 2 * above]


class UpShuffle(Step):
    """1x1 convolution followed by a pixel shuffle by two, added to other rows."""

    def __init__(self, layer: nn.Conv2d, source: RowBuffer):
        super().__init__(source)
        # output channels from the order (D, 2, 2) to (2, 2, D): the D channels of a pixel are then adjacent in memory
        weight, bias = layer.weight.detach(), layer.bias
        order = torch.arange(len(weight)).view(-1, 4).T.flatten()
        self.weight, self.bias = weight[order], None if bias is None else bias.detach()[order]

    def available(self) -> int:
        """See `Step`."""
        return 2 * self.source.stop

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """Computes output rows `first` to `stop` as (N, h, 2, W, 2, C)."""
        self.source.keep_for(self, stop // 2)
        folded = F.conv2d(self.source.read(first // 2, stop // 2), self.weight, self.bias)  # (N, 4 C, h, W)
        return folded.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1)).transpose(2, 3)

    def write(self, first: int, stop: int, target: RowBuffer) -> None:
        """See `Step`; `target` is a `Sum`."""
        pixels = self.compute(first, stop)
        rows = target.extend(stop - first, pixels).permute(0, 2, 3, 1)
        rows.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).add_(pixels)


class Chain:
    """Sequence of 3x3 convolutions, each followed by a LeakyReLU.

    Args:
        layers: convolutions (see `Conv`).
        source: input rows of the first layer.
        slope: negative slope of the LeakyReLU.
    """

    def __init__(self, layers: Sequence[nn.Conv2d], source: RowBuffer, slope: float = 0.0):
        self.steps: list[tuple[Conv, RowBuffer]] = []
        self.result = source  # output rows of the last layer
        for layer in layers:
            step, self.result = Conv(layer, self.result, slope), RowBuffer(source.total)
            self.steps.append((step, self.result))

    def advance(self) -> None:
        """Computes all rows for which the source is available."""
        for step, target in self.steps:
            step.write_next(target)


class Residual:
    """`ResidualBlock`: `x + W2 relu(W1 x)`, in the memory of x."""

    def __init__(self, block: ResidualBlock, source: RowBuffer):
        self.inner = Chain([block.conv1], source)
        self.outer, self.result = Conv(block.conv2, self.inner.result), Sum(source)

    def advance(self) -> None:
        """Computes all rows for which the source is available."""
        self.inner.advance()
        self.outer.write_next(self.result)
