"""Fast restorer for CPUs: a residual U-Net at reduced resolution, between pixel-unshuffle and pixel-shuffle."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from .forward import as_output, check_batch, check_positive, check_range, run_block
from .record_mixin import RecordMixin

# Preset name -> constructor arguments.
FAST_PRESETS: dict[str, dict[str, Any]] = {
    "fast-tiny": {"widths": (16, 32, 64), "blocks": (1, 1, 1)},
    "fast-small": {"widths": (32, 64, 128), "blocks": (1, 1, 2)},
    "fast": {"widths": (48, 96, 192), "blocks": (1, 1, 2)},
    "fast-medium": {"widths": (48, 96, 192), "blocks": (1, 2, 3)},
    "fast-large": {"widths": (64, 128, 256), "blocks": (2, 2, 4)},
}


class ResidualBlock(nn.Module):
    """Residual block `x + W2 relu(W1 x)` with two 3x3 convolutions: `(B, width, H, W) -> (B, width, H, W)`."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class FastRestorationUNet(RecordMixin, ModelMixin, ConfigMixin):
    """Restorer that adds a predicted residual to its input, without clamping: `f(x) = x + r(x)`.

    No convolution runs at full resolution: a pixel-unshuffle at the start moves pixels to channels, and a pixel-shuffle
    at the end moves them back. Each level has residual blocks. Levels are connected by 2x2 convolutions with stride two
    in the encoder, and by 1x1 convolutions with pixel-shuffle in the decoder; skip connections are added. No operation
    is global, so each output pixel depends on its neighborhood only, and tiles that overlap by `receptive_radius` give
    the same result as the whole photo. The last layers of residual branches and of the network are initialized to small
    values, which allows a high learning rate from the start. Of the architectures in
    `benchmarks/results/architectures.md`, this one denoises best after equal training time on a CPU.

    Args:
        channels: number of color channels of a photo (3 for RGB, 1 for grayscale).
        widths: number of channels of each level, the finest first.
        blocks: number of residual blocks of each level in the encoder, and in the decoder (except the last level).
        unshuffle: downscaling factor of the pixel-unshuffle.
        value_range: `[low, high]`, value range of input and output. Like the next two arguments, it is read by callers
            (pipeline, training), and not used by the network.
        task: key of `daa_diffusers.checkpoints.tasks.TASKS`; None: unknown.
        license: license of the weights, an identifier of the Hub or a name; None: not stated.

    Raises:
        ValueError: an argument is out of range.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResidualBlock"]  # used by diffusers' `device_map="auto"`
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
        check_positive(channels=channels, unshuffle=unshuffle)
        check_range("value_range", value_range)
        for name, values, least in (("widths", widths, 1), ("blocks", blocks, 0)):
            if not isinstance(values, Sequence) or not all(isinstance(v, int) and v >= least for v in values):
                raise ValueError(f"`{name}` must be a list of integers of at least {least}, got {values!r}")
        if not widths or len(widths) != len(blocks):
            raise ValueError(
                f"`widths` and `blocks` must have the same length, at least 1, got {widths!r} and {blocks!r}"
            )
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
        self.gradient_checkpointing = False  # set by diffusers' `enable_gradient_checkpointing`
        self.reset_parameters()

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> "FastRestorationUNet":
        """Builds one of `FAST_PRESETS`; `overrides` are constructor arguments."""
        if preset not in FAST_PRESETS:
            raise ValueError(f"`preset` must be one of {sorted(FAST_PRESETS)}, got {preset!r}")
        return cls(**{**FAST_PRESETS[preset], **overrides})

    @property
    def size_multiple(self) -> int:
        """Integer of which height and width of an input must be multiples."""
        return self.config.unshuffle * 2 ** (len(self.config.widths) - 1)

    @property
    def receptive_radius(self) -> int:
        """Maximum distance, in pixels, between an output pixel and an input pixel that affects it."""
        *finer, coarsest = self.config.blocks
        reach = 2 * coarsest  # in cells of the coarsest level: each block adds two
        for count in reversed(finer):
            # resampling doubles the reach and adds one cell; there are blocks in the encoder and in the decoder
            reach = 2 * reach + 1 + 4 * count
        return self.config.unshuffle * (reach + 2) + self.config.unshuffle - 1  # conv_in and conv_out add a cell each

    def reset_parameters(self) -> None:
        """Initializes weights Kaiming-normal (divided by ten at the end of branches: `conv2`, `conv_out`), biases 0."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                rectified = name.endswith("conv1")  # the other layers have no activation
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
            return_dict: None (default): return the tensor. Otherwise as for any diffusers model: return a
                `UNet2DOutput` with the tensor as `sample` (True), or the tuple `(tensor,)` (False).

        Returns:
            Restored photos of the same shape, dtype and device, not clamped.

        Raises:
            ValueError: wrong rank or number of channels, or a size that is not a multiple of `size_multiple`.
        """
        check_batch(x, self.config.channels, self.size_multiple)
        folded = F.pixel_unshuffle(x, self.config.unshuffle)  # (B, C u u, H / u, W / u)
        # channels-last is kept by all layers, and a third faster on CPUs (more in bfloat16)
        hidden = self.conv_in(folded.contiguous(memory_format=torch.channels_last))
        skips = []
        for block, downsampler in zip(self.down_blocks, self.downsamplers, strict=False):  # all but the last block
            hidden = run_block(self, block, hidden)
            skips.append(hidden)  # level l: (B, widths[l], H / u / 2**l, W / u / 2**l)
            hidden = downsampler(hidden)
        hidden = run_block(self, self.down_blocks[-1], hidden)
        for upsampler, block in zip(self.upsamplers, self.up_blocks, strict=True):
            hidden = run_block(self, block, F.pixel_shuffle(upsampler(hidden), 2) + skips.pop())
        return as_output(x + F.pixel_shuffle(self.conv_out(hidden), self.config.unshuffle), return_dict)


def _stage(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
