"""Input checks and output types shared by the `forward` methods of restorers."""

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput


def check_batch(x: torch.Tensor, channels: int, size_multiple: int) -> None:
    """Raises ValueError unless `x` is (B, `channels`, H, W), H and W positive multiples of `size_multiple`."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"`x` must be (B, {channels}, H, W), got {tuple(x.shape)}")
    if x.shape[2] % size_multiple or x.shape[3] % size_multiple or 0 in x.shape:
        raise ValueError(
            f"height and width of `x` must be positive multiples of {size_multiple}, got {tuple(x.shape[2:])}; "
            "DAARestorationPipeline pads automatically"
        )


def as_output(restored: torch.Tensor, return_dict: bool | None) -> torch.Tensor | UNet2DOutput | tuple[torch.Tensor]:
    """The tensor itself (None), or, as diffusers models return it, in a `UNet2DOutput` (True) or a tuple (False)."""
    if return_dict is None:
        return restored
    return UNet2DOutput(sample=restored) if return_dict else (restored,)
