"""Layout of official checkpoints: names, layouts and sizes of their tensors.

Source: docs/method.md, "The official noise predictor as a UNet2DConditionModel".
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..models.daa_unet import DAAUNet2DConditionModel
from ..models.restoration_unet import RestorationUNet

Network = RestorationUNet | DAAUNet2DConditionModel

# Names of modules, or of their parts: this package's -> the official ones.
_CONVOLUTIONS = {"conv1": "block.0", "conv2": "block.2"}
_RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_MODULES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "cond_embed.0",
    "time_embedding.linear_2": "cond_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0.group_norm": "middle_block.1.norm",
    "mid_block.attentions.0.to_q": "middle_block.1.qkv",
    "mid_block.attentions.0.to_k": "middle_block.1.qkv",
    "mid_block.attentions.0.to_v": "middle_block.1.qkv",
    "mid_block.attentions.0.to_out.0": "middle_block.1.proj_out",
}
_CONVOLUTIONS_1D = ("middle_block.1.qkv.weight", "middle_block.1.proj_out.weight")  # (C_out, C_in, 1)


def _official_restorer_module(name: str) -> str:
    match name.split("."):
        case ["down_blocks", level, convolution]:
            return f"down_path.{level}.{_CONVOLUTIONS[convolution]}"
        case ["up_blocks", level, "upsample_conv"]:
            return f"up_path.{level}.conv_up"
        case ["up_blocks", level, "block", convolution]:
            return f"up_path.{level}.conv_block.{_CONVOLUTIONS[convolution]}"
        case ["conv_out"]:
            return "last"
    raise KeyError(name)


def _official_predictor_module(name: str, layers: int) -> str:
    # The official lists number the modules of all levels: after the first convolution, `layers` blocks and a
    # downsampler per level in the encoder; `layers + 1` blocks per level in the decoder, where the upsampler shares the
    # index of the last block.
    match name.split("."):
        case ["down_blocks", level, kind, index, part]:
            position = 1 + int(level) * (layers + 1) + (layers if kind == "downsamplers" else int(index))
            return f"input_blocks.{position}.0.{_RESNET_PARTS[part]}"
        case ["up_blocks", level, kind, index, part]:
            up = kind == "upsamplers"
            position = int(level) * (layers + 1) + (layers if up else int(index))
            return f"output_blocks.{position}.{int(up)}.{_RESNET_PARTS[part]}"
        case ["mid_block", "resnets", index, part]:
            return f"middle_block.{2 * int(index)}.{_RESNET_PARTS[part]}"
    return _MODULES[name]


def official_names(network: Network) -> dict[str, tuple[str, ...]]:
    """Returns official name (without prefix) -> names of this package's parameters: one, or those of q, k and v."""
    names: dict[str, tuple[str, ...]] = {}
    for name in network.state_dict():
        module, _, leaf = name.rpartition(".")
        if isinstance(network, RestorationUNet):
            official = _official_restorer_module(module)
        else:
            official = _official_predictor_module(module, network.config.layers_per_block)
        # q, k and v, which have this order in the network, have one official name
        names[f"{official}.{leaf}"] = (*names.get(f"{official}.{leaf}", ()), name)
    return names


def pack(official: str, tensors: list[torch.Tensor], head_channels: int) -> torch.Tensor:
    """Converts to the official layout: q, k, v interleaved per head, (heads, 3, head_channels), as 1D convolutions."""
    tensor = tensors[0]
    if len(tensors) == 3:
        tensor = torch.stack([t.unflatten(0, (-1, head_channels)) for t in tensors], dim=1).flatten(0, 2)  # (3C, ...)
    return tensor[..., None] if official in _CONVOLUTIONS_1D else tensor


def unpack(official: str, tensor: torch.Tensor, parts: int, head_channels: int) -> list[torch.Tensor]:
    """Inverts `pack`; `parts` is 3 for q, k, v, else 1."""
    tensor = tensor[..., 0] if official in _CONVOLUTIONS_1D else tensor
    if parts == 1:
        return [tensor]
    return [t.flatten(0, 1) for t in tensor.unflatten(0, (-1, 3, head_channels)).unbind(1)]  # 3 x (C, ...)


def packed(network: Network) -> dict[str, torch.Tensor]:
    """Returns the weights of a network with official names (without prefix) and in the official layout."""
    state = network.state_dict()
    head_channels = getattr(network.config, "attention_head_dim", 1)
    return {
        official: pack(official, [state[name] for name in names], head_channels)
        for official, names in official_names(network).items()
    }


def schedule_buffers(steps: int = 1000, beta_start: float = 1e-6, beta_end: float = 1e-2) -> dict[str, torch.Tensor]:
    """Returns the noise schedule buffers of an official checkpoint, each (T,), float64 (docs/method.md, "Notation")."""
    beta = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
    gamma = torch.cumprod(1 - beta, dim=0)
    previous = torch.cat([gamma.new_ones(1), gamma[:-1]])
    return {
        "gammas": gamma,
        "sqrt_recip_gammas": gamma.rsqrt(),
        "sqrt_recipm1_gammas": (1 / gamma - 1).sqrt(),
        "posterior_log_variance_clipped": (beta * (1 - previous) / (1 - gamma)).clamp_min(1e-20).log(),
        "posterior_mean_coef1": beta * previous.sqrt() / (1 - gamma),
        "posterior_mean_coef2": (1 - previous) * (1 - beta).sqrt() / (1 - gamma),
    }


def _majority(votes: Iterable[int], default: int) -> int:
    """Returns the most frequent size, so that a single wrong tensor is reported and does not change the network."""
    counts = Counter(vote for vote in votes if vote > 0)
    return counts.most_common(1)[0][0] if counts else default


def _count(weights: Mapping[str, Any], container: str) -> int:
    """Returns the number of `container.0`, `container.1`, ... up to the first gap."""
    indices = {match[1] for name in weights if (match := re.match(rf"{container}\.(\d+)\.", name))}
    return next(i for i in range(len(indices) + 1) if str(i) not in indices)


def _sizes(weights: Mapping[str, Any], pattern: str, dim: int = 0) -> Iterable[tuple[int, int]]:
    """Yields (number in the name or 0, size of dimension `dim`) for every tensor whose name matches `pattern`."""
    for name, tensor in weights.items():
        match = re.fullmatch(pattern, name)
        if match and isinstance(tensor, torch.Tensor) and tensor.ndim > dim:
            yield int(match[1]) if match.groups() else 0, tensor.shape[dim]


def infer_restorer(weights: Mapping[str, Any]) -> dict[str, int]:
    """Infers constructor arguments of a `RestorationUNet` from official weights (without prefix)."""
    depth = max(_count(weights, "down_path"), _count(weights, "up_path") + 1)
    widths = (size >> i for i, size in _sizes(weights, r"down_path\.(\d+)\.block\.[02]\.(?:weight|bias)") if i < depth)
    channels = [size for _, size in _sizes(weights, r"last\.(?:weight|bias)")]
    channels += [size for _, size in _sizes(weights, r"down_path\.0\.block\.0\.weight", 1)]
    return {"channels": _majority(channels, 3), "width": _majority(widths, 1), "depth": depth}


def infer_predictor(weights: Mapping[str, Any], groups: int) -> dict[str, Any]:
    """Infers constructor arguments of a `DAAUNet2DConditionModel` from official weights (without prefix).

    Args:
        weights: official names -> tensors.
        groups: number of groups of every GroupNorm; used for the channels of a level without tensors.
    """
    blocks = max(_count(weights, "input_blocks"), _count(weights, "output_blocks"), 2)  # levels * (layers + 1)
    upsamplers = {i for i, _ in _sizes(weights, r"output_blocks\.(\d+)\.1\.in_layers\.\d\.(?:weight|bias)")}
    per_level = min(
        (n for n in range(2, blocks + 1) if blocks % n == 0),
        key=lambda n: len(upsamplers ^ set(range(n - 1, blocks - 1, n))),
    )
    levels = blocks // per_level
    votes: list[list[int]] = [[] for _ in range(levels)]
    leaf = r"out_layers\.[03]\.(?:weight|bias)"
    for i, size in _sizes(weights, rf"input_blocks\.(\d+)\.0\.{leaf}"):
        if 1 <= i < blocks:
            votes[(i - 1) // per_level].append(size)
    for i, size in _sizes(weights, rf"output_blocks\.(\d+)\.[01]\.{leaf}"):
        if i < blocks:
            votes[levels - 1 - i // per_level].append(size)
    channels = [size for _, size in _sizes(weights, r"out\.2\.(?:weight|bias)")]
    channels += [size // 3 for _, size in _sizes(weights, r"input_blocks\.0\.0\.weight", 1)]
    channels_out = _majority(channels, 3)
    return {
        "in_channels": 3 * channels_out,
        "out_channels": channels_out,
        "block_out_channels": tuple(_majority(v, groups) for v in votes),
        "layers_per_block": per_level - 1,
    }
