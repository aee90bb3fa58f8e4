"""The two official networks as functions of an official state dict, written from docs/method.md.

They know nothing of this package's classes or of its conversion. The golden tensors vouch for them at one size; they
vouch for the package's networks at every other.
"""

import math

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]


def _conv(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)


def _linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


# --- the restorer: U-Net, residual ---


def restore(w: Weights, x: torch.Tensor, depth: int) -> torch.Tensor:
    """`x` (B, C, H, W) -> restored (B, C, H, W)."""

    def block(name: str, h: torch.Tensor) -> torch.Tensor:
        for i in (0, 2):
            h = F.leaky_relu(_conv(w, f"{name}.block.{i}", h), 0.2)
        return h

    h, skips = x, []
    for level in range(depth):
        h = block(f"down_path.{level}", h)
        if level < depth - 1:
            skips.append(h)
            h = F.avg_pool2d(h, 2)
    for i in range(depth - 1):
        h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
        h = torch.cat([_conv(w, f"up_path.{i}.conv_up", h), skips.pop()], dim=1)
        h = block(f"up_path.{i}.conv_block", h)
    return x + _conv(w, "last", h)


# --- the noise predictor: guided-diffusion U-Net ---


def _norm(w: Weights, name: str, x: torch.Tensor, groups: int) -> torch.Tensor:
    return F.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def _residual_block(w: Weights, name: str, x, embedding, groups: int, resample=None) -> torch.Tensor:
    h = F.silu(_norm(w, f"{name}.in_layers.0", x, groups))
    if resample is not None:
        h, x = resample(h), resample(x)
    h = _conv(w, f"{name}.in_layers.2", h)
    scale, shift = _linear(w, f"{name}.emb_layers.1", F.silu(embedding))[..., None, None].chunk(2, dim=1)
    h = _norm(w, f"{name}.out_layers.0", h, groups) * (1 + scale) + shift
    h = _conv(w, f"{name}.out_layers.3", F.silu(h))
    return h + (_conv(w, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in w else x)


def _attention(w: Weights, name: str, x: torch.Tensor, groups: int, head_channels: int) -> torch.Tensor:
    batch, channels, height, width = x.shape
    h = _norm(w, f"{name}.norm", x, groups).flatten(2)  # (B, C, N)
    qkv = F.conv1d(h, w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"])
    heads = channels // head_channels
    q, k, v = qkv.reshape(batch, heads, 3, head_channels, -1).unbind(2)  # (B, heads, head_channels, N) each
    weights = torch.softmax(torch.einsum("bhcn,bhcm->bhnm", q, k) / math.sqrt(head_channels), dim=-1)
    h = torch.einsum("bhnm,bhcm->bhcn", weights, v).reshape(batch, channels, -1)
    h = F.conv1d(h, w[f"{name}.proj_out.weight"], w[f"{name}.proj_out.bias"])
    return x + h.reshape(batch, channels, height, width)


def _embedding(w: Weights, noise_level: torch.Tensor, width: int) -> torch.Tensor:
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half)
    angles = noise_level[:, None].float() * frequencies
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    return _linear(w, "cond_embed.2", F.silu(_linear(w, "cond_embed.0", waves.to(w["cond_embed.0.weight"]))))


def predict_noise(
    w: Weights, x: torch.Tensor, noise_level: torch.Tensor, *, levels: int, layers: int, groups: int, head_channels: int
) -> torch.Tensor:
    """`x` (B, 9, H, W), `noise_level` (B,) -> predicted noise (B, 3, H, W)."""
    embedding = _embedding(w, noise_level, w["input_blocks.0.0.weight"].shape[0])
    h = _conv(w, "input_blocks.0.0", x)
    skips, i = [h], 1
    for level in range(levels):
        for _ in range(layers):
            h = _residual_block(w, f"input_blocks.{i}.0", h, embedding, groups)
            skips.append(h)
            i += 1
        if level < levels - 1:
            h = _residual_block(w, f"input_blocks.{i}.0", h, embedding, groups, lambda t: F.avg_pool2d(t, 2))
            skips.append(h)
            i += 1
    h = _residual_block(w, "middle_block.0", h, embedding, groups)
    h = _attention(w, "middle_block.1", h, groups, head_channels)
    h = _residual_block(w, "middle_block.2", h, embedding, groups)
    for i in range(levels * (layers + 1)):
        h = _residual_block(w, f"output_blocks.{i}.0", torch.cat([h, skips.pop()], dim=1), embedding, groups)
        if i % (layers + 1) == layers and i < levels * (layers + 1) - 1:
            up = f"output_blocks.{i}.1"
            h = _residual_block(w, up, h, embedding, groups, lambda t: F.interpolate(t, scale_factor=2.0))
    assert not skips
    return _conv(w, "out.2", F.silu(_norm(w, "out.0", h, groups)))
