"""Noise predictor: diffusers' UNet2DConditionModel conditioned on two restored photos, with channel shuffling."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (diffusers looks for the name in this module)
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from .record_mixin import RecordMixin

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"block_out_channels": (16, 32, 64, 128), "norm_num_groups": 16},
    "small": {"block_out_channels": (32, 64, 128, 256)},
    "paper": {"block_out_channels": (64, 128, 256, 512)},
}


class WideLinear(nn.Linear):
    """Linear layer computed in float32 or wider for weights of any precision: `(B, in) -> (B, out)`.

    The result keeps this precision, or is cast to the dtype of the weights if `rounds` is True.
    """

    rounds = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        result = F.linear(x.to(wide), self.weight.to(wide), self.bias.to(wide))
        return result.to(self.weight.dtype) if self.rounds else result


class NoiseLevelEmbedding(TimestepEmbedding):
    """Diffusers' timestep embedding, computed in float32 for any precision of the model: `(B, in) -> (B, out)`.

    Noise levels close to 1 differ in the fourth digit, which half precision (weights or autocast) does not resolve.
    """

    def __init__(self, in_channels: int, time_embed_dim: int):
        super().__init__(in_channels, time_embed_dim)
        # not new layers, so that weights and random draws stay the same
        self.linear_1.__class__ = self.linear_2.__class__ = WideLinear
        self.linear_2.rounds = True

    def forward(self, sample: torch.Tensor, condition: None = None) -> torch.Tensor:
        """Embeds sinusoids (B, in), float32 or wider. The result has the dtype of the weights."""
        with torch.autocast(sample.device.type, enabled=False):
            return self.linear_2(self.act(self.linear_1(sample)))


class UpsamplingConv2d(nn.Conv2d):
    """3x3 convolution, optionally after nearest upsampling by two: `(B, in, H, W) -> (B, out, H, W)`.

    Each pixel of `forward(x, upsample=True)`, (B, out, 2H, 2W), depends on 2x2 pixels of `x` only. A transposed
    convolution with the 4x4 kernel `(w2, w1 + w2, w0 + w1, w0)` along each axis therefore computes it with 4/9 of the
    multiplications, without storing the upsampled input.
    """

    def forward(self, x: torch.Tensor, upsample: bool = False) -> torch.Tensor:
        """See the class."""
        if not upsample:
            return super().forward(x)
        kernel = F.pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))  # (in, out, 5, 5)
        kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
        kernel = kernel[..., 1:] + kernel[..., :-1]  # (in, out, 4, 4)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class UpsamplingResnetBlock2D(ResnetBlock2D):
    """The last residual block of diffusers' `ResnetUpsampleBlock2D`: `(B, C, H, W), (B, T) -> (B, C, 2H, 2W)`."""

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """See the class."""
        hidden = self.nonlinearity(self.norm1(input_tensor))
        if isinstance(self.conv1, UpsamplingConv2d):
            hidden = self.conv1(hidden, upsample=True)
        else:  # a replacement such as LoRA's, which supports only convolutions that keep the size
            hidden = self.conv1(self.upsample(hidden))
        scale, shift = self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm2(hidden) * (1 + scale) + shift  # (B, C, 2H, 2W)
        hidden = self.conv2(self.dropout(self.nonlinearity(hidden)))
        return (self.upsample(input_tensor) + hidden) / self.output_scale_factor


class Dropout(nn.Dropout):
    """Dropout that draws its mask in half the time on a CPU, from one 64-bit random number for four values.

    There, the probability is rounded to a multiple of 2^-16, and the scale is that of the rounded probability.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        count = 2**16  # values of a 16-bit number, of which the lowest `dropped` drop an element
        dropped = round(self.p * count)
        if not self.training or dropped in (0, count) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        numbers = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
        mask = numbers.view(torch.int16)[: x.numel()].view(x.shape) < dropped - count // 2  # int16 starts at -2^15
        return x.masked_fill(mask, 0.0).mul_(count / (count - dropped))


class DAAUNet2DConditionModel(RecordMixin, UNet2DConditionModel):
    """Predicts the noise in a noised clean image from this image and two restored images (eq. (2)).

    This is the guided-diffusion U-Net of the official implementation as a `UNet2DConditionModel` without text
    conditioning: residual up- and downsampling, scale-shift GroupNorm, attention in the mid block only, and an
    embedding of the continuous noise level g. The two conditions can be swapped for each sample (channel shuffling), so
    that the network cannot learn which channels hold the restored real photo.

    Args:
        sample_size: no effect, kept for compatibility with diffusers. Height and width of an input must be multiples of
            `2 ** (levels - 1)`.
        in_channels: total number of channels of the noised image and both conditions.
        out_channels: number of channels of an image, a third of `in_channels`.
        block_out_channels: number of channels of each level.
        layers_per_block: number of residual blocks per level.
        dropout: dropout probability in the residual blocks.
        norm_num_groups, norm_eps: arguments of every GroupNorm. The number of groups must divide each of
            `block_out_channels`.
        attention_head_dim: channels per attention head; must divide the last of `block_out_channels`.
        value_range: (low, high), value range of the training images, recorded only; None: unknown.

    Source: docs/method.md, "The official noise predictor as a UNet2DConditionModel".
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 9,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512),
        layers_per_block: int = 2,
        dropout: float = 0.2,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        attention_head_dim: int = 32,
        value_range: tuple[float, float] | None = None,
    ):
        if in_channels != 3 * out_channels:
            raise ValueError(
                "`in_channels` must be three times `out_channels` (noised image and two conditions), got "
                f"{in_channels} and {out_channels}"
            )
        if block_out_channels[-1] % attention_head_dim:
            raise ValueError(
                f"`attention_head_dim` must divide the last of `block_out_channels`, got {attention_head_dim} and "
                f"{tuple(block_out_channels)}"
            )
        if any(channels % norm_num_groups for channels in block_out_channels):
            raise ValueError(
                f"`norm_num_groups` must divide each of `block_out_channels`, got {norm_num_groups} and "
                f"{tuple(block_out_channels)}"
            )
        levels = len(block_out_channels)
        time_embedding_dim = 4 * block_out_channels[0]
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=("ResnetDownsampleBlock2D",) * levels,
            mid_block_type=None,
            up_block_types=("ResnetUpsampleBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            dropout=dropout,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            attention_head_dim=attention_head_dim,
            resnet_time_scale_shift="scale_shift",
            time_embedding_dim=time_embedding_dim,
        )
        # The parent's "UNetMidBlock2D" has no attention; in the official network, only the mid block has attention.
        self.mid_block = UNetMidBlock2D(
            in_channels=block_out_channels[-1],
            temb_channels=time_embedding_dim,
            dropout=dropout,
            num_layers=1,
            resnet_eps=norm_eps,
            resnet_time_scale_shift="scale_shift",
            resnet_groups=norm_num_groups,
            attn_groups=norm_num_groups,
            add_attention=True,
            attention_head_dim=attention_head_dim,
        )
        self.time_embedding = NoiseLevelEmbedding(block_out_channels[0], time_embedding_dim)
        self._speed_up()
        self.reset_parameters()

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> "DAAUNet2DConditionModel":
        """Builds `"tiny"` (first level 16), `"small"` (32) or `"paper"` (64); `overrides` are constructor arguments."""
        if preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {sorted(PRESETS)}, got {preset!r}")
        return cls(**{**PRESETS[preset], **overrides})

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Same as in diffusers, without the parent's arguments that this class fixes."""
        # The saved config holds all arguments of the parent, whose forward reads them. Those that this class fixes
        # would be reported as unexpected.
        fixed = cls._get_init_keys(UNet2DConditionModel) - cls._get_init_keys(cls)
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k not in fixed}, **kwargs)

    def _speed_up(self) -> None:
        """Replaces layers by faster equivalents with the same weights.

        Each is a subclass of the original layer without new weights, and is called as a module, so that hooks work.
        """
        for block in self.up_blocks:
            for upsampler in block.upsamplers or ():
                upsampler.__class__ = UpsamplingResnetBlock2D
                upsampler.conv1.__class__ = UpsamplingConv2d
        for module in self.modules():
            if isinstance(module, ResnetBlock2D):
                module.dropout.__class__ = Dropout

    def reset_parameters(self) -> None:
        """Initializes convolutions and linear layers: Kaiming-normal weights, zero biases (docs/method.md, step 8)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def size_multiple(self) -> int:
        """Integer of which height and width of an input must be multiples."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: None = None,
        *,
        conditions: tuple[torch.Tensor, torch.Tensor] | None = None,
        swap: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        **kwargs,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Predicts the noise: `e = eps_theta(cat[z, c1, c2], g)`.

        Args:
            sample: noised clean images z (B, 3, H, W) if `conditions` are given, else the concatenation with both
                conditions (B, 9, H, W).
            timestep: continuous noise level g in (0, 1), a float tensor (B,) or one float for all.
            encoder_hidden_states: must be None; accepted for compatibility.
            conditions: restored images (a, b), each (B, 3, H, W).
            swap: (B,) bool, samples whose conditions are swapped. None: drawn with probability 1/2 in training mode,
                no swaps in eval mode.
            generator: random generator for `swap`.
            return_dict: return a `UNet2DConditionOutput` (default) or a tuple.
            kwargs: passed on to `UNet2DConditionModel.forward`.

        Returns:
            The predicted noise (B, 3, H, W).

        Raises:
            ValueError: wrong shapes, a noise level outside (0, 1), or `encoder_hidden_states` is given.
        """
        if encoder_hidden_states is not None:
            raise ValueError("`encoder_hidden_states` must be None: this model has no cross-attention")
        sample, first, second = self._split(sample, conditions)
        noise_level = self._check_noise_level(timestep, sample)
        swap = self._check_swap(swap, sample, generator)
        if swap is not None:  # channel shuffling
            mask = swap[:, None, None, None]
            first, second = torch.where(mask, second, first), torch.where(mask, first, second)
        sample = torch.cat([sample, first, second], dim=1)  # (B, 9, H, W)
        return super().forward(sample, noise_level, None, return_dict=return_dict, **kwargs)

    def get_time_embed(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Sinusoids of the noise level (B, width), in float32 or wider; the parent casts them to the model's dtype."""
        return self.time_proj(timestep).to(torch.promote_types(sample.dtype, torch.float32))

    def _split(self, sample, conditions):
        """Returns the noised images and both conditions, (B, 3, H, W) each, after a check of their shapes."""
        channels = self.config.out_channels
        if conditions is None:
            if sample.ndim != 4 or sample.shape[1] != 3 * channels:
                raise ValueError(
                    f"`sample` must be (B, {3 * channels}, H, W) when no `conditions` are given, got "
                    f"{tuple(sample.shape)}"
                )
            sample, first, second = sample.split(channels, dim=1)
        else:
            if sample.ndim != 4 or sample.shape[1] != channels:
                raise ValueError(
                    f"`sample` must be (B, {channels}, H, W) when `conditions` are given, got {tuple(sample.shape)}"
                )
            if len(conditions) != 2 or any(c.shape != sample.shape for c in conditions):
                raise ValueError(
                    f"`conditions` must be two tensors of the shape of `sample`, {tuple(sample.shape)}, got "
                    f"{[tuple(c.shape) for c in conditions]}"
                )
            first, second = conditions
        if sample.shape[2] % self.size_multiple or sample.shape[3] % self.size_multiple:
            raise ValueError(
                f"height and width of `sample` must be multiples of {self.size_multiple}, got {tuple(sample.shape[2:])}"
            )
        return sample, first, second

    @staticmethod
    def _check_noise_level(timestep, sample):
        """Returns the noise levels as a float32 tensor (B,), after a check of their values."""
        noise_level = torch.as_tensor(timestep, device=sample.device)
        if not noise_level.is_floating_point():
            raise ValueError(
                f"`timestep` must be the float noise level g in (0, 1), got {noise_level.dtype}: integer steps belong "
                "to discrete schedules; use objectives.schedules.NoiseSchedule to draw g"
            )
        noise_level = noise_level.to(torch.float32)
        if noise_level.ndim == 0:
            noise_level = noise_level.expand(sample.shape[0])
        if noise_level.shape != sample.shape[:1]:
            raise ValueError(f"`timestep` must be (B,) = ({sample.shape[0]},), got {tuple(noise_level.shape)}")
        if not torch.compiler.is_compiling() and not ((noise_level > 0) & (noise_level < 1)).all():
            raise ValueError(f"`timestep` must hold noise levels in (0, 1), got {noise_level.tolist()}")
        return noise_level

    def _check_swap(self, swap, sample, generator):
        """Returns the mask of the samples to swap, (B,) bool, drawn if it is None; None: no swaps."""
        if swap is None:
            if not self.training:
                return None
            device = generator.device if generator is not None else sample.device
            return (torch.rand(sample.shape[0], generator=generator, device=device) < 0.5).to(sample.device)
        if swap.dtype != torch.bool or swap.shape != sample.shape[:1]:
            raise ValueError(
                f"`swap` must be bool of shape ({sample.shape[0]},), got {swap.dtype} of {tuple(swap.shape)}"
            )
        return swap.to(sample.device)
