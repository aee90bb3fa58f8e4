"""Registry of the restorers of this package and their presets."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .fast_restoration_unet import FastRestorationUNet
from .restoration_unet import RestorationUNet

# A new restorer is a class in its own file and one line here; its attribute `presets` maps names to arguments.
_CLASSES: tuple[Any, ...] = (
    RestorationUNet,
    FastRestorationUNet,
)
RESTORERS: dict[str, Any] = {network.__name__: network for network in _CLASSES}
PRESETS: dict[str, Mapping[str, Any]] = {
    name: arguments for network in _CLASSES for name, arguments in network.presets.items()
}


def new_restorer(preset: str, **overrides: Any) -> nn.Module:
    """Creates a restorer with random weights, drawn by torch's global generator.

    Args:
        preset: key of `PRESETS`.
        overrides: constructor arguments.

    Raises:
        ValueError: unknown preset or invalid argument.
    """
    for network in _CLASSES:
        if preset in network.presets:
            return network(**{**network.presets[preset], **overrides})
    raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}")


def presets_in_words() -> str:
    """The presets of all restorers, for help: "tiny, small: RestorationUNet; fast: FastRestorationUNet"."""
    return "; ".join(f"{', '.join(network.presets)}: {network.__name__}" for network in _CLASSES)
