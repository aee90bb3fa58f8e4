"""Restorer for CPUs: a residual U-Net between pixel-unshuffle and pixel-shuffle."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from .forward import as_output, check_batch
from .record_mixin import RecordMixin

# Constructor arguments by preset name.
FAST_PRESETS: dict[str, dict[str, Any]] = {
    "fast-tiny": {"widths": (16, 32, 64), "blocks": (1, 1, 1)},
    "fast-small": {"widths": (32, 64, 128), "blocks": (1, 1, 2)},
    "fast": {"widths": (48, 96, 192), "blocks": (1, 1, 2)},
    "fast-medium": {"widths": (48, 96, 192), "blocks": (1, 2, 3)},
    "fast-large": {"widths": (64, 128, 256), "blocks": (2, 2, 4)},
}


class ResidualBlock(nn.Module):
    """`x + W2 relu(W1 x)`, two 3x3 convolutions: (B, width, H, W) -> the same shape."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class FastRestorationUNet(RecordMixin, ModelMixin, ConfigMixin):
    """Predicts a residual and adds it to its input: `f(x) = x + r(x)`, never clamped.

    No convolution runs at full resolution: pixels are moved into channels first and back last (pixel-unshuffle and
    -shuffle). Levels are blocks with identity paths, joined by 2x2 convolutions of stride two downwards and a 1x1
    convolution with pixel-shuffle upwards; skip connections are added. Nothing is computed over the whole photo, so
    that a result depends on its neighborhood only, and tiles agree exactly with the whole. The branches of all blocks
    and the residual start small, which lets training take large steps from the start. Of the architectures in
    `benchmarks/results/architectures.md` this one restores best after equal processor time of training.

    Args:
        channels: color channels of the photo, in and out (3 for RGB, 1 for grayscale).
        widths: channels of the levels, the finest first. At least one.
        blocks: residual blocks of each level: on the way down and, but for the last level, as many on the way up.
        unshuffle: side of the squares of pixels that become channels.
        value_range: `[low, high]`, the range in which this restorer takes and gives photos. It is read by callers
            (pipeline, training), like the next two arguments; the network itself does not use it.
        task: key of `daa_diffusers.checkpoints.tasks.TASKS`; None: not known.
        license: of the weights, an identifier of the Hub or a name; None: not stated.

    Raises:
        ValueError: an argument out of its range (named).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResidualBlock"]  # diffusers' `device_map="auto"` asks for it
    presets = FAST_PRESETS

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (48, 96, 192),
        blocks: Sequence[int] = (1, 1, 2),
        unshuffle: int = 2,
        value_range: tuple[float, float] = (0.0, 1.0),
        task: str | None = None,
        license: str | None = None,
    ):
        super().__init__()
        for name, value in (("channels", channels), ("unshuffle", unshuffle)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
        for name, values, least in (("widths", widths, 1), ("blocks", blocks, 0)):
            if not isinstance(values, Sequence) or not all(isinstance(v, int) and v >= least for v in values):
                raise ValueError(f"`{name}` must be a list of integers of at least {least}, got {values!r}")
        if not widths or len(widths) != len(blocks):
            raise ValueError(f"`widths` and `blocks` must be of one length, 1 or more, got {widths!r} and {blocks!r}")
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(f"`value_range` must be [low, high] with low < high, got {value_range!r}")
        self.register_to_config(
            widths=list(widths), blocks=list(blocks), value_range=[float(value) for value in value_range]
        )

        folded = channels * unshuffle**2
        steps = list(zip(widths, widths[1:], strict=False))
        self.conv_in = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(_stage(width, count) for width, count in zip(widths, blocks, strict=True))
        self.downsamplers = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.upsamplers = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in steps[::-1])
        self.up_blocks = nn.ModuleList(
            _stage(width, count) for width, count in zip(widths[-2::-1], blocks[-2::-1], strict=True)
        )
        self.conv_out = nn.Conv2d(widths[0], folded, 3, padding=1)
        self.gradient_checkpointing = False  # `enable_gradient_checkpointing` of diffusers sets it
        self.reset_parameters()

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> "FastRestorationUNet":
        """Builds one of `FAST_PRESETS`; `overrides` are constructor arguments."""
        if preset not in FAST_PRESETS:
            raise ValueError(f"`preset` must be one of {sorted(FAST_PRESETS)}, got {preset!r}")
        return cls(**{**FAST_PRESETS[preset], **overrides})

    @property
    def size_multiple(self) -> int:
        """Height and width of an input must be multiples of this."""
        return self.config.unshuffle * 2 ** (len(self.config.widths) - 1)

    @property
    def receptive_radius(self) -> int:
        """How far, in pixels, an input pixel can reach: tiles that overlap by this much agree with the whole."""
        reach = 0  # in cells of the level below: nothing is below the last
        for level, count in reversed(list(enumerate(self.config.blocks))):
            last = level == len(self.config.blocks) - 1
            # a coarse cell covers two fine ones, of which the nearer one reaches one further; a block reaches two cells
            reach = 2 * count if last else 2 * reach + 1 + 4 * count
        return self.config.unshuffle * (reach + 2) + self.config.unshuffle - 1  # conv_in and conv_out: a cell each

    def reset_parameters(self) -> None:
        """Kaiming-normal weights and zero biases; what ends a branch (`conv2`, `conv_out`) is a tenth of that."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                rectified = name.endswith("conv1")  # elsewhere no activation follows
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if rectified else "linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if name.endswith(("conv2", "conv_out")):
                    with torch.no_grad():
                        module.weight.mul_(0.1)

    def forward(
        self, x: torch.Tensor, return_dict: bool | None = None
    ) -> torch.Tensor | UNet2DOutput | tuple[torch.Tensor]:
        """Restores a batch.

        Args:
            x: degraded photos (B, C, H, W), floating point, in `config.value_range` (noise may exceed it); H and W
                multiples of `size_multiple`.
            return_dict: None (default): the tensor itself. Otherwise as of any model of diffusers: a `UNet2DOutput`
                with the tensor as `sample` (True), or the tuple `(tensor,)` (False).

        Returns:
            Restored photos of the same shape, dtype and device, not clamped.

        Raises:
            ValueError: wrong rank or number of channels, or a size that is no multiple of `size_multiple`.
        """
        check_batch(x, self.config.channels, self.size_multiple)
        folded = F.pixel_unshuffle(x, self.config.unshuffle)  # (B, C u u, H / u, W / u)
        # convolutions keep this order, in which they are a third faster on CPUs, most of all in bfloat16
        hidden = self.conv_in(folded.contiguous(memory_format=torch.channels_last))
        skips = []
        for block, downsampler in zip(self.down_blocks, self.downsamplers, strict=False):
            hidden = self._run(block, hidden)
            skips.append(hidden)  # level l: (B, widths[l], H / u / 2**l, W / u / 2**l)
            hidden = downsampler(hidden)
        hidden = self._run(self.down_blocks[-1], hidden)
        for upsampler, block in zip(self.upsamplers, self.up_blocks, strict=True):
            hidden = self._run(block, F.pixel_shuffle(upsampler(hidden), 2) + skips.pop())
        return as_output(x + F.pixel_shuffle(self.conv_out(hidden), self.config.unshuffle), return_dict)

    def _run(self, block: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, hidden)
        return block(hidden)


def _stage(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
