"""Official names and state dicts of this package's networks, for tests."""

import torch

from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.models.restoration_unet import RestorationUNet
from daa_diffusers.official.convert import PREDICTOR_PREFIX, RESTORER_PREFIX
from daa_diffusers.official.layout import official_names, packed, schedule_buffers


def official_parameter_names(
    restorer: RestorationUNet, unet: DAAUNet2DConditionModel | None = None
) -> dict[str, tuple[str, ...]]:
    """Mapping of official parameter names to those of this package.

    Returns:
        Official name, with its prefix `RestorationNet.` or `denoise_fn.` -> names of ours, starting with `restorer.`
        or `unet.`: one, or three for an attention's `qkv`.
    """
    names = {}
    for prefix, attribute, network in ((RESTORER_PREFIX, "restorer", restorer), (PREDICTOR_PREFIX, "unet", unet)):
        if network is not None:
            for official, ours in official_names(network).items():
                names[prefix + official] = tuple(f"{attribute}.{name}" for name in ours)
    return names


def to_official_state_dict(
    restorer: RestorationUNet, unet: DAAUNet2DConditionModel | None = None
) -> dict[str, torch.Tensor]:
    """The reverse of `convert_official_state_dict`.

    Returns:
        Copies of the weights under the official names: with a noise predictor a full checkpoint, prefixes and schedule
        buffers (float32) included; without one the restorer's keys, unprefixed.
    """
    prefix = "" if unet is None else RESTORER_PREFIX
    official = {prefix + name: tensor for name, tensor in packed(restorer).items()}
    if unet is not None:
        official |= {PREDICTOR_PREFIX + name: tensor for name, tensor in packed(unet).items()}
        official |= {name: tensor.float() for name, tensor in schedule_buffers().items()}
    return {name: tensor.detach().clone().contiguous() for name, tensor in official.items()}
