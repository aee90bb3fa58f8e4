"""Registry of noise predictors, and a wrapper that adds channel shuffling to those without it.

A noise predictor is any module that maps (z, noise level, first condition, second condition) to the predicted noise:
z, both conditions and the noise are (B, C, H, W), the noise level is (B,) in (0, 1). Its class, or a factory, is called
with the number of the photos' channels and its own options. Custom noise predictors are registered before training:

    @register_noise_predictor("plain_cnn")
    def plain_cnn(channels: int, **options) -> nn.Module: ...
"""

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import nn

from .. import checkpoints
from ..errors import ConfigurationError
from ..models.daa_unet import PRESETS, DAAUNet2DConditionModel
from ..models.restorer import RestorerContract

logger = logging.getLogger(__name__)

Factory = Callable[..., nn.Module]

BUNDLED, NONE = "bundled", "none"  # values of `noise_predictor_from` other than folders and Hub ids
# Config entries in which a network must agree with the bundled one to load the bundled weights.
COMPARED = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "norm_num_groups",
    "norm_eps",
    "attention_head_dim",
    "value_range",
)


def _unet(preset: str, channels: int, **options: Any) -> nn.Module:
    """Builds the U-Net of a preset, which reads the noised photo and two conditions."""
    sizes = {"in_channels": 3 * channels, "out_channels": channels, **options}
    return DAAUNet2DConditionModel.from_preset(preset, **sizes)


# To add a noise predictor: its class (or factory) in its own file, and one line here.
NOISE_PREDICTORS: dict[str, Factory] = {
    **{name: partial(_unet, name) for name in PRESETS},
}


def register_noise_predictor(name: str) -> Callable[[Factory], Factory]:
    """Registers a factory `(channels, **options) -> module` under a name for configs."""

    def register(factory: Factory) -> Factory:
        NOISE_PREDICTORS[name] = factory
        return factory

    return register


class ShuffledPredictor(nn.Module):
    """Wrapper that adds channel shuffling to a noise predictor: swaps the two conditions of given samples, eq. (2).

    It is called like `DAAUNet2DConditionModel`, which has channel shuffling built in.

    Args:
        network: module that maps (z, noise level, first condition, second condition) to the noise.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.size_multiple = RestorerContract.of(network).size_multiple

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        conditions: tuple[torch.Tensor, torch.Tensor],
        swap: torch.Tensor | None = None,
    ) -> UNet2DConditionOutput:
        """Predicts the noise, `.sample` (B, C, H, W).

        Args:
            sample: noised photo z (B, C, H, W).
            timestep: noise level g (B,).
            conditions: the two restored photos, (B, C, H, W) each.
            swap: (B,) bool, whether to swap the conditions of each sample; None: no swaps.
        """
        first, second = conditions
        if swap is not None:
            exchanged = swap[:, None, None, None]  # (B, 1, 1, 1)
            first, second = torch.where(exchanged, second, first), torch.where(exchanged, first, second)
        return UNet2DConditionOutput(sample=self.network(sample, timestep, first, second))


def shuffling(network: nn.Module) -> nn.Module:
    """Returns the network itself if it shuffles its conditions, else a `ShuffledPredictor` around it."""
    shuffles = "conditions" in inspect.signature(network.forward).parameters
    return network if shuffles else ShuffledPredictor(network)


def build_noise_predictor(name: str, channels: int, options: Mapping[str, Any]) -> nn.Module:
    """Builds a new noise predictor for photos with `channels` channels.

    Raises:
        ConfigurationError: an unknown name, or invalid options.
    """
    if name not in NOISE_PREDICTORS:
        raise ConfigurationError(f"`noise_predictor` must be one of {', '.join(NOISE_PREDICTORS)}, got {name!r}")
    try:
        return NOISE_PREDICTORS[name](channels, **options)
    except TypeError as error:
        raise ConfigurationError(f"`noise_predictor_options` of {name}: {error}") from error


def new_noise_predictor(name: str, restorer: nn.Module, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Builds a new noise predictor for the output of `restorer`; the U-Net's config records the value range.

    Raises:
        ConfigurationError: an unknown name, or invalid options.
    """
    contract = RestorerContract.of(restorer)
    unet = build_noise_predictor(name, contract.channels, options or {})
    if isinstance(unet, DAAUNet2DConditionModel):
        unet.register_to_config(value_range=list(contract.value_range))
    return unet


def initial_noise_predictor(
    source: str | None, name: str, restorer: nn.Module, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Builds or loads the initial noise predictor for the adaptation of `restorer`.

    Args:
        source: None or "none": new weights; "bundled": the bundled weights if they fit the network, else new ones;
            otherwise the folder or Hub id of a trained noise predictor, or of a pipeline with one.
        name, options: as for `new_noise_predictor`; ignored if a trained one is loaded.

    Raises:
        ConfigurationError: as for `build_noise_predictor`; or `source` has no noise predictor, or one for photos with
            another value range or number of channels than the restorer's.
    """
    if source not in (None, NONE, BUNDLED):
        return load_noise_predictor(str(source), restorer)
    unet = new_noise_predictor(name, restorer, options)
    if source == BUNDLED:
        _load_bundled(unet)
    return unet


def _load_bundled(unet: nn.Module) -> None:
    """Loads the bundled weights if they exist and agree with `unet` in the entries `COMPARED`."""
    path = checkpoints.NOISE_PREDICTOR
    if not path.is_dir():
        return
    bundled = DAAUNet2DConditionModel.load_config(path)
    own = unet.config if isinstance(unet, DAAUNet2DConditionModel) else {}
    differing = [name for name in COMPARED if name not in own or _without_tuple(own[name]) != bundled[name]]
    if differing:
        logger.info("noise predictor: new weights, because the bundled ones differ in %s", ", ".join(differing))
        return
    unet.load_state_dict(load_file(path / SAFETENSORS_WEIGHTS_NAME))
    logger.info("noise predictor: starts from the bundled weights")


def _without_tuple(value: Any) -> Any:
    """Converts a tuple to a list, as in a config that is read from a file."""
    return list(value) if isinstance(value, tuple) else value


def load_noise_predictor(source: str, restorer: nn.Module) -> nn.Module:
    """Loads a trained noise predictor from its folder, a pipeline's folder or a Hub repository, or the bundled one.

    Raises:
        ConfigurationError: see `initial_noise_predictor`.
    """
    expanded = os.path.expanduser(os.path.expandvars(source))
    path = str(checkpoints.NOISE_PREDICTOR) if source == BUNDLED else expanded
    try:
        is_pipeline = os.path.isfile(os.path.join(path, "unet", "config.json"))
        unet = DAAUNet2DConditionModel.from_pretrained(path, subfolder="unet" if is_pipeline else None)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"`noise_predictor_from` must be {BUNDLED}, {NONE}, or a folder or Hub id with a noise predictor, got "
            f"{source!r}: {error}"
        ) from error
    contract = RestorerContract.of(restorer)
    if unet.config.out_channels != contract.channels:
        raise ConfigurationError(
            f"`noise_predictor_from`: the noise predictor of {source!r} is for photos with {unet.config.out_channels} "
            f"channels, the restorer is for {contract.channels}"
        )
    recorded = unet.config.value_range  # None in files of earlier versions
    if recorded is not None and tuple(recorded) != contract.value_range:
        raise ConfigurationError(
            f"`noise_predictor_from`: the noise predictor of {source!r} is for photos in {list(recorded)}, the "
            f"restorer is for photos in {list(contract.value_range)}"
        )
    return unet
