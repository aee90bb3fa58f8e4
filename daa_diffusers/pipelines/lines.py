"""Row-by-row computation of layers: each keeps the input rows that its next output rows need."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..models.fast_restoration_unet import ResidualBlock

SPARE = 8  # rows for what is kept and for later strips, of which more is known than of the first


class Line:
    """Rows of a tensor (N, C, total, W), written in order; those that no reader needs any more are freed.

    A row of zeros precedes the first and follows the last row, as the padding of convolutions.

    Args:
        total: the number of rows in the end.
    """

    def __init__(self, total: int):
        self.total = total
        self.stop = 0  # one after the last row that was written
        self._first = -1  # the row that is first in memory
        self._memory: torch.Tensor | None = None
        self._needs: dict[int, int] = {}  # by `id`: a reference would be a cycle, whose memory is freed late

    def write(self, count: int, like: torch.Tensor, channels: int | None = None) -> torch.Tensor:
        """Memory of `count` more rows, to be filled, of the kind of `like` (N, C, h, W)."""
        begun, self.stop = self.stop, self.stop + count
        end = self.stop + (self.stop == self.total)
        if self._memory is None:
            self._memory = _rows(like, channels or like.shape[1], end - self._first + SPARE)
            self._memory[:, :, 0] = 0
        elif end - self._first > self._memory.shape[2]:
            kept = min(self._needs.values())
            rest = self.read(kept, begun).clone()
            if end - kept > self._memory.shape[2]:
                self._memory = _rows(like, self._memory.shape[1], end - kept)
            self._first = kept
            self.read(kept, begun).copy_(rest)
        if self.stop == self.total:
            self.read(self.total, self.total + 1).zero_()
        return self.read(begun, self.stop)

    def read(self, first: int, stop: int) -> torch.Tensor:
        """Rows from `first` to `stop` (-1 to `total` + 1); a view."""
        assert self._memory is not None and first >= self._first
        return self._memory[:, :, first - self._first : stop - self._first]

    def hold(self, reader: object, first: int = -1) -> None:
        """Registers that `reader` will need rows from `first` on."""
        self._needs[id(reader)] = first


def _rows(like: torch.Tensor, channels: int, count: int) -> torch.Tensor:
    shape = (like.shape[0], channels, count, like.shape[3])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


class Step:
    """A layer along a line.

    Args:
        source: its input.
    """

    def __init__(self, source: Line):
        self.source, self.done = source, 0  # rows of its output
        source.hold(self)

    def more(self) -> torch.Tensor | None:
        """The rows of the output that can be computed by now, (N, C, h, W), up to `done`; None: there are none."""
        stop = self.reach()
        if stop <= self.done:
            return None
        rows, self.done = self.compute(self.done, stop), stop
        return rows

    def reach(self) -> int:
        """Number of output rows that the input suffices for."""
        raise NotImplementedError

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """These rows; registers with the source which of its rows are still needed."""
        raise NotImplementedError

    def into(self, target: Line) -> None:
        """Writes these rows."""
        rows = self.more()
        if rows is not None:
            target.write(rows.shape[2], rows).copy_(rows)


class Conv(Step):
    """A 3x3 convolution with padding 1."""

    def __init__(self, layer: nn.Conv2d, source: Line):
        super().__init__(source)
        self.layer = layer

    def reach(self) -> int:
        """All rows, or one less than were written."""
        return self.source.stop - (self.source.stop < self.source.total)

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """See `Step`."""
        self.source.hold(self, stop - 1)
        rows = self.source.read(first - 1, stop + 1)
        return F.conv2d(rows, self.layer.weight, self.layer.bias, padding=(0, 1))


class Halved(Step):
    """A layer that makes one row of two."""

    def __init__(self, layer: Callable[[torch.Tensor], torch.Tensor], source: Line):
        super().__init__(source)
        self.layer = layer

    def reach(self) -> int:
        """See `Step`."""
        return self.source.stop // 2

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """See `Step`."""
        self.source.hold(self, 2 * stop)
        return self.layer(self.source.read(2 * first, 2 * stop))


class Doubled(Step):
    """Bilinear upsampling by two, without aligned corners: rows of a pair depend on the rows beside theirs."""

    def reach(self) -> int:
        """See `Step`."""
        return 2 * (self.source.stop - (self.source.stop < self.source.total))

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """See `Step`."""
        above = max(first // 2 - 1, 0)
        rows = self.source.read(above, self.source.stop)
        self.source.hold(self, max(stop // 2 - 1, 0))
        doubled = F.interpolate(rows, scale_factor=2, mode="bilinear", align_corners=False)
        return doubled[:, :, first - 2 * above : stop - 2 * above]


class Shuffled(Step):
    """A 1x1 convolution whose channels become pixels, two by two."""

    def __init__(self, layer: nn.Conv2d, source: Line):
        super().__init__(source)
        self.layer = layer

    def reach(self) -> int:
        """See `Step`."""
        return 2 * self.source.stop

    def compute(self, first: int, stop: int) -> torch.Tensor:
        """See `Step`."""
        self.source.hold(self, stop // 2)
        return F.pixel_shuffle(self.layer(self.source.read(first // 2, stop // 2)), 2)


class Chain:
    """Convolutions one after the other, each followed by an activation.

    Args:
        layers: see `Conv`.
        source: input of the first one.
        slope: of the leaky rectifier for negative values; 0: they become zero.
    """

    def __init__(self, layers: Sequence[nn.Conv2d], source: Line, slope: float = 0.0):
        self.slope = slope
        self.lines = [Line(source.total) for _ in layers]
        self.steps = [Conv(layer, line) for layer, line in zip(layers, [source, *self.lines], strict=False)]

    @property
    def result(self) -> Line:
        """The output of the last one."""
        return self.lines[-1]

    def advance(self) -> None:
        """Computes all rows that the source suffices for."""
        for step, target in zip(self.steps, self.lines, strict=True):
            rows = step.more()
            if rows is not None:  # the activation copies, so that no further pass over memory is needed
                torch.ops.aten.leaky_relu.out(rows, self.slope, out=target.write(rows.shape[2], rows))


class Residual:
    """A `ResidualBlock`: `x + W2 relu(W1 x)`."""

    def __init__(self, block: ResidualBlock, source: Line):
        self.source, self.result = source, Line(source.total)
        self.inner = Chain([block.conv1], source)
        self.outer = Conv(block.conv2, self.inner.result)
        source.hold(self)

    def advance(self) -> None:
        """Computes all rows that the source suffices for."""
        self.inner.advance()
        add(self.outer, self.source, self.result, self)


def add(step: Step, line: Line, target: Line, reader: object) -> None:
    """Adds a step's rows to those of a line, into another one."""
    first = step.done
    rows = step.more()
    if rows is not None:
        torch.add(line.read(first, step.done), rows, out=target.write(rows.shape[2], rows))
        line.hold(reader, step.done)
