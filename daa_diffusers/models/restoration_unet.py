"""Default restorer: the plain residual U-Net of Noise-DA (docs/method.md, "The official sizes and recipes")."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from .forward import as_output, check_batch, check_positive, check_range, run_block
from .record_mixin import RecordMixin

# Preset name -> width; "paper" is the official size (8,559,171 parameters).
PRESET_WIDTHS = {"tiny": 16, "small": 32, "paper": 64}


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each followed by a LeakyReLU: `(B, in, H, W) -> (B, out, H, W)`."""

    def __init__(self, in_channels: int, out_channels: int, negative_slope: float):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        # in place, which halves the memory; the gradient is then computed from the result, which needs a positive slope
        self.activation = nn.LeakyReLU(negative_slope, inplace=negative_slope > 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.activation(self.conv2(self.activation(self.conv1(x))))


class UpBlock(nn.Module):
    """Upsamples by two and merges the skip connection: `(B, in, H, W), (B, out, 2H, 2W) -> (B, out, 2H, 2W)`."""

    def __init__(self, in_channels: int, out_channels: int, negative_slope: float, align_corners: bool):
        super().__init__()
        self.align_corners = align_corners
        self.upsample_conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.block = ConvBlock(2 * out_channels, out_channels, negative_slope)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
        x = self.upsample_conv(x)  # (B, out, 2H, 2W)
        x = torch.cat([x, skip], dim=1)
        # not by `self.block`, so that without gradients each input is freed early: a third less peak memory
        for conv in (self.block.conv1, self.block.conv2):
            x = self.block.activation(conv(x))
        return x


class RestorationUNet(RecordMixin, ModelMixin, ConfigMixin):
    """Restorer that adds a predicted residual to its input, without clamping: `f(x) = x + r(x)`.

    Args:
        channels: number of color channels of a photo (3 for RGB, 1 for grayscale).
        width: number of channels of the first level, doubled at each further level.
        depth: number of levels.
        negative_slope: negative slope of the LeakyReLU.
        align_corners: sampling grid of the bilinear upsampling. False (default): each output pixel depends on its
            neighborhood only, so that tiles give exactly the same result as the whole photo. True: official weights.
        value_range: `[low, high]`, value range of input and output. Like the next two arguments, it is read by callers
            (pipeline, training), and not used by the network.
        task: key of `daa_diffusers.checkpoints.tasks.TASKS`; None: unknown.
        license: license of the weights, an identifier of the Hub or a name; None: not stated.

    Source: docs/method.md, "The official sizes and recipes" (row "restorer") and step 8 (initialization).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ConvBlock", "UpBlock"]  # used by diffusers' `device_map="auto"`
    presets = {name: {"width": width} for name, width in PRESET_WIDTHS.items()}
    skips_margins = True  # see `RestorerContract`

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        depth: int = 4,
        negative_slope: float = 0.2,
        align_corners: bool = False,
        value_range: tuple[float, float] = (0.0, 1.0),
        task: str | None = None,
        license: str | None = None,
    ):
        super().__init__()
        check_positive(channels=channels, width=width, depth=depth)
        check_range("value_range", value_range)
        self.register_to_config(value_range=[float(v) for v in value_range])

        widths = [width * 2**level for level in range(depth)]
        self.down_blocks = nn.ModuleList(
            ConvBlock(in_channels, out_channels, negative_slope)
            for in_channels, out_channels in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.up_blocks = nn.ModuleList(
            UpBlock(in_channels, out_channels, negative_slope, align_corners)
            for in_channels, out_channels in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        self.gradient_checkpointing = False  # set by diffusers' `enable_gradient_checkpointing`
        self.reset_parameters()

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> "RestorationUNet":
        """Builds `"tiny"` (width 16), `"small"` (32) or `"paper"` (64); `overrides` are constructor arguments."""
        if preset not in PRESET_WIDTHS:
            raise ValueError(f"`preset` must be one of {sorted(PRESET_WIDTHS)}, got {preset!r}")
        return cls(**{"width": PRESET_WIDTHS[preset], **overrides})

    @property
    def size_multiple(self) -> int:
        """Integer of which height and width of an input must be multiples."""
        return 2 ** (self.config.depth - 1)

    @property
    def receptive_radius(self) -> int:
        """Maximum distance, in pixels, between an output pixel and an input pixel that affects it.

        It is 3, 12, 30, 66 or 138 for depth 1 to 5, attained at one position of the pooling grid. With
        `align_corners=True` it is an upper bound, and the weights of the upsampling depend on the size of the photo, so
        that tiles give only approximately the same result.
        """
        # One level (two convolutions, conv_out) has radius 3. A further level around a network of radius R has radius
        # 2 R + 6: pooling doubles R, convolutions and upsampling add six.
        return 9 * self.size_multiple - 6

    def reset_parameters(self) -> None:
        """Initializes weights Kaiming-normal, biases 0 (docs/method.md, step 8)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        x: torch.Tensor,
        margins: tuple[int, int, int, int] = (0, 0, 0, 0),
        return_dict: bool | None = None,
    ) -> torch.Tensor | UNet2DOutput | tuple[torch.Tensor]:
        """Restores a batch.

        Args:
            x: degraded photos (B, C, H, W), floating point, in `config.value_range` (noise may exceed it); H and W
                multiples of `size_multiple`.
            margins: pixels at the top, bottom, left and right that are cropped from the result and mostly not computed,
                for tiles whose margins are only context.
            return_dict: None (default): return the tensor. Otherwise as for any diffusers model: return a
                `UNet2DOutput` with the tensor as `sample` (True), or the tuple `(tensor,)` (False).

        Returns:
            Restored photos (B, C, H - top - bottom, W - left - right), same dtype and device, not clamped.

        Raises:
            ValueError: wrong rank or number of channels, or a size that is not a multiple of `size_multiple`.
        """
        check_batch(x, self.config.channels, self.size_multiple)
        return as_output(self._restore(x, margins), return_dict)

    def _restore(self, x: torch.Tensor, margins: tuple[int, int, int, int]) -> torch.Tensor:
        skips = []
        hidden = x
        for block in self.down_blocks[:-1]:
            hidden = run_block(self, block, hidden)
            skips.append(hidden)  # level l: (B, width * 2**l, H / 2**l, W / 2**l)
            hidden = F.avg_pool2d(hidden, 2)
        hidden = run_block(self, self.down_blocks[-1], hidden)
        if any(margins):
            return self._decode_inside(x, hidden, skips, margins)
        for block in self.up_blocks:
            hidden = run_block(self, block, hidden, skips.pop())
        return x + self.conv_out(hidden)

    def _decode_inside(self, x, hidden, skips: list[torch.Tensor], margins: tuple[int, int, int, int]) -> torch.Tensor:
        """Decodes each level only where the result inside the margins depends on it."""
        (height, width), (top, bottom, left, right) = x.shape[2:], margins
        inside = (top, height - bottom), (left, width - right)  # rows and columns of the result
        levels = zip(self._ranges(inside[0], height), self._ranges(inside[1], width), strict=True)
        at = 0, 0  # row and column of the first pixel of `hidden` in its level
        # keep the memory format of the input: kernels for other formats differ in the last bit
        is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if is_channels_last else torch.contiguous_format
        for block, (rows, columns) in zip(self.up_blocks, levels, strict=True):
            skip = skips.pop()[..., 2 * rows[0] : 2 * rows[1], 2 * columns[0] : 2 * columns[1]]
            hidden = _crop(hidden, (rows, columns), at).contiguous(memory_format=memory_format)
            hidden = run_block(self, block, hidden, skip.contiguous(memory_format=memory_format))
            at = 2 * rows[0], 2 * columns[0]
        return _crop(x, inside) + _crop(self.conv_out(hidden), inside, at)

    def _ranges(self, inside: tuple[int, int], size: int) -> list[tuple[int, int]]:
        """Ranges [low, high) along one axis to compute at each level, from the deepest to the second, for `inside`."""
        low, high = inside
        ranges = []
        for level in range(1, self.config.depth):
            # pixels of the finer level: one by upsampling, one by each of three convolutions, and one by conv_out
            reach = 5 if level == 1 else 4
            low, high = max(0, (low - reach) // 2), min(size >> level, (high + reach + 1) // 2)
            if self.config.align_corners:  # upsampling depends on the full size
                low, high = 0, size >> level
            ranges.append((low, high))
        return ranges[::-1]


def _crop(x: torch.Tensor, ranges: tuple[tuple[int, int], tuple[int, int]], at: tuple[int, int] = (0, 0)):
    """Crops `x` (B, C, H, W), whose first pixel is at `at` (row, column), to `ranges` of rows and columns."""
    (top, bottom), (left, right) = ranges
    return x[..., top - at[0] : bottom - at[0], left - at[1] : right - at[1]]
