"""Noise predictor: diffusers' UNet2DConditionModel, conditioned on two restored photos, with channel shuffling."""

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
    """A linear layer computed in float32 or wider, whatever the precision of its weights: `(B, in) -> (B, out)`.

    The result stays as wide, or, where `rounds` is set, has the dtype of the weights.
    """

    rounds = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        result = F.linear(x.to(wide), self.weight.to(wide), self.bias.to(wide))
        return result.to(self.weight.dtype) if self.rounds else result


class NoiseLevelEmbedding(TimestepEmbedding):
    """Diffusers' timestep embedding, computed in float32 whatever the model's precision: `(B, in) -> (B, out)`.

    Noise levels close to 1 differ in the fourth digit; half precision, as weights or by autocast, would merge them.
    """

    def __init__(self, in_channels: int, time_embed_dim: int):
        super().__init__(in_channels, time_embed_dim)
        self.linear_1.__class__ = self.linear_2.__class__ = WideLinear  # same weights, drawn as before
        self.linear_2.rounds = True

    def forward(self, sample: torch.Tensor, condition: None = None) -> torch.Tensor:
        """Embeds sinusoids (B, in), float32 or wider; the result has the dtype of the weights."""
        with torch.autocast(sample.device.type, enabled=False):
            return self.linear_2(self.act(self.linear_1(sample)))


class UpsamplingConv2d(nn.Conv2d):
    """A 3x3 convolution, with nearest upsampling by two before it on request: `(B, in, H, W) -> (B, out, H, W)`.

    Each pixel of `forward(x, upsample=True)`, (B, out, 2H, 2W), depends on 2x2 pixels of `x` only, so that a transposed
    convolution with the 4x4 kernel `(w2, w1 + w2, w0 + w1, w0)` along each axis computes it with 4/9 of the
    multiplications, and the enlarged input is never stored.
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
    """Diffusers' residual block as `ResnetUpsampleBlock2D` ends with it: `(B, C, H, W), (B, T) -> (B, C, 2H, 2W)`."""

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """See the class."""
        hidden = self.nonlinearity(self.norm1(input_tensor))
        if isinstance(self.conv1, UpsamplingConv2d):
            hidden = self.conv1(hidden, upsample=True)
        else:  # a layer that replaced it, such as LoRA's, which supports convolutions that keep the size only
            hidden = self.conv1(self.upsample(hidden))
        scale, shift = self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm2(hidden) * (1 + scale) + shift  # (B, C, 2H, 2W)
        hidden = self.conv2(self.dropout(self.nonlinearity(hidden)))
        return (self.upsample(input_tensor) + hidden) / self.output_scale_factor


class Dropout(nn.Dropout):
    """Dropout whose mask takes half the time on a CPU: each 64-bit random number decides for four values.

    The probability is a multiple of 2^-16 there; the scale is exact for it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        level = round(self.p * 2**16)
        if not self.training or level in (0, 2**16) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        dropped = numbers.view(torch.int16)[: x.numel()].view(x.shape) < level - 2**15
        return x.masked_fill(dropped, 0.0).mul_(2**16 / (2**16 - level))


class DAAUNet2DConditionModel(RecordMixin, UNet2DConditionModel):
    """Predicts the noise in a noised clean image from that image and two restored ones (eq. (2)).

    It is the guided-diffusion U-Net of the official implementation, laid out as a `UNet2DConditionModel` without text
    conditioning: residual up- and downsampling, scale-shift GroupNorm, attention in the mid block only, and an
    embedding of the continuous noise level g itself. Per sample the two conditions can be exchanged (channel
    shuffling), so that the network cannot learn which of its channels hold the restored real photo.

    Args:
        sample_size: kept for compatibility with diffusers; any height and width that are multiples of
            `2 ** (levels - 1)` work.
        in_channels: channels of the noised image and both conditions together.
        out_channels: channels of an image; `in_channels` must be three times as many.
        block_out_channels: channels of each level.
        layers_per_block: residual blocks a level.
        dropout: inside the residual blocks.
        norm_num_groups, norm_eps: of every GroupNorm. The groups must divide every entry of `block_out_channels`.
        attention_head_dim: channels a head in the mid block; must divide the last entry of `block_out_channels`.
        value_range: (low, high) of the images that it was trained on, for the record; None: not recorded.

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
        # "UNetMidBlock2D" as the parent builds it has no attention; the official network has its only one here.
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
        """As in diffusers, without the fields that this class fixes."""
        # The saved config holds every field of the parent (its forward reads them); those that this class fixes are
        # no constructor arguments here and would be reported as unexpected.
        fixed = cls._get_init_keys(UNet2DConditionModel) - cls._get_init_keys(cls)
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k not in fixed}, **kwargs)

    def _speed_up(self) -> None:
        """Replaces layers by faster ones of the same function and weights: fewer multiplications, cheaper masks.

        Each faster layer is a subclass without weights of its own, and is called as any module, so that hooks work.
        """
        for block in self.up_blocks:
            for upsampler in block.upsamplers or ():
                upsampler.__class__ = UpsamplingResnetBlock2D
                upsampler.conv1.__class__ = UpsamplingConv2d
        for module in self.modules():
            if isinstance(module, ResnetBlock2D):
                module.dropout.__class__ = Dropout

    def reset_parameters(self) -> None:
        """Kaiming-normal weights and zero biases in every convolution and linear layer (docs/method.md, step 8)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def size_multiple(self) -> int:
        """Height and width of an input must be multiples of this."""
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
            sample: noised clean images z (B, 3, H, W) when `conditions` are given, else (B, 9, H, W), the three
                already concatenated.
            timestep: noise level g in (0, 1), a float tensor (B,) or one float for all. It is continuous: never
                rounded, always embedded in float32.
            encoder_hidden_states: accepted for compatibility; must be None.
            conditions: the restored images (a, b), each (B, 3, H, W).
            swap: (B,) bool; where True the two conditions are exchanged. None draws it with probability 1/2 in
                training mode and swaps nothing in eval mode.
            generator: draws `swap`.
            return_dict: return a `UNet2DConditionOutput` (default) or a tuple.
            kwargs: passed on to `UNet2DConditionModel.forward`.

        Returns:
            The predicted noise (B, 3, H, W).

        Raises:
            ValueError: shapes that do not fit, a noise level outside (0, 1), or `encoder_hidden_states`.
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
        """Sinusoids of the noise level (B, width), float32 or wider; the parent rounds them to the model's dtype."""
        return self.time_proj(timestep).to(torch.promote_types(sample.dtype, torch.float32))

    def _split(self, sample, conditions):
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
