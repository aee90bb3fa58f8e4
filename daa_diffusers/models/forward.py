"""Check of the input and form of the result that the `forward` of every restorer shares."""

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput


def check_batch(x: torch.Tensor, channels: int, size_multiple: int) -> None:
    """ValueError where `x` is not (B, `channels`, H, W), or H or W is no positive multiple of `size_multiple`."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"`x` must be (B, {channels}, H, W), got {tuple(x.shape)}")
    if x.shape[2] % size_multiple or x.shape[3] % size_multiple or 0 in x.shape:
        raise ValueError(
            f"height and width of `x` must be positive multiples of {size_multiple}, got {tuple(x.shape[2:])}; "
            "DAARestorationPipeline pads for you"
        )


def as_output(restored: torch.Tensor, return_dict: bool | None) -> torch.Tensor | UNet2DOutput | tuple[torch.Tensor]:
    """The tensor itself (None), or as models of diffusers return it: `sample` of an output (True), a tuple (False)."""
    if return_dict is None:
        return restored
    return UNet2DOutput(sample=restored) if return_dict else (restored,)
