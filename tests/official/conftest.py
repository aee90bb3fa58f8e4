"""Official state dicts of small random networks."""

import functools

import torch

from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.models.restoration_unet import RestorationUNet

from .to_official import to_official_state_dict

SIZES = {"head_channels": 4, "groups": 8}


@functools.cache
def _official() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    restorer = RestorationUNet(width=4, depth=3, align_corners=True)
    unet = DAAUNet2DConditionModel(
        block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=8, attention_head_dim=4
    )
    return to_official_state_dict(restorer, unet)


def official(**overrides) -> dict[str, torch.Tensor]:
    """A full official state dict of small random networks."""
    return {**_official(), **overrides}


def restorer_only(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "RestorationNet."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
