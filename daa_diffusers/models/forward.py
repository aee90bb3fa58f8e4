"""Checks of arguments, gradient checkpointing and output types shared by the restorers."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput


def check_positive(**values: Any) -> None:
    """Raises ValueError, naming the argument, unless all values are positive integers."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}")


def check_range(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is a pair of numbers (low, high) with low < high."""
    is_pair = isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
    if not is_pair or not value[0] < value[1]:
        raise ValueError(f"`{name}` must be [low, high] with low < high, got {value!r}")


def check_batch(x: torch.Tensor, channels: int, size_multiple: int) -> None:
    """Raises ValueError unless `x` is (B, `channels`, H, W), H and W positive multiples of `size_multiple`."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"`x` must be (B, {channels}, H, W), got {tuple(x.shape)}")
    if x.shape[2] % size_multiple or x.shape[3] % size_multiple or 0 in x.shape:
        raise ValueError(
            f"height and width of `x` must be positive multiples of {size_multiple}, got {tuple(x.shape[2:])}; "
            "DAARestorationPipeline pads automatically"
        )


def run_block(network: Any, block: torch.nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """Calls a block of a network, with gradient checkpointing if that is enabled."""
    if network.gradient_checkpointing and torch.is_grad_enabled():
        return network._gradient_checkpointing_func(block, *inputs)
    return block(*inputs)


def as_output(restored: torch.Tensor, return_dict: bool | None) -> torch.Tensor | UNet2DOutput | tuple[torch.Tensor]:
    """The tensor itself (None), or, as diffusers models return it, in a `UNet2DOutput` (True) or a tuple (False)."""
    if return_dict is None:
        return restored
    return UNet2DOutput(sample=restored) if return_dict else (restored,)
