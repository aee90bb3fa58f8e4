"""Learned scores of other libraries: LPIPS by torchmetrics, no-reference scores by pyiqa.

Weights are not bundled: they are read from these libraries' caches, or downloaded the first time.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from ..errors import ConfigurationError

LPIPS_MIN_SIDE = 32  # pixels; AlexNet has no features for smaller photos


def load_lpips() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Loads LPIPS (Zhang et al. 2018, AlexNet, version 0.1); 0 for identical photos, lower is better.

    The linear layers are part of torchmetrics, AlexNet is that of torchvision.

    Returns:
        Function `score(restored, clean)` of photos (3, H, W) in [0, 1], which raises ValueError on sides below 32.

    Raises:
        ConfigurationError: AlexNet's weights are not cached and cannot be downloaded.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except (OSError, RuntimeError) as error:  # no network, or a damaged file
        raise ConfigurationError(
            f"`metrics`: lpips needs the weights of torchvision's AlexNet, which cannot be loaded ({error}). Download "
            f"{AlexNet_Weights.DEFAULT.url} on a machine with a network, and copy the file to "
            f"{torch.hub.get_dir()}/checkpoints"
        ) from error

    @torch.no_grad()
    def score(restored: torch.Tensor, clean: torch.Tensor) -> float:
        if min(clean.shape[1:]) < LPIPS_MIN_SIDE:
            raise ValueError(
                f"LPIPS needs sides of at least {LPIPS_MIN_SIDE} pixels, got {clean.shape[2]} x {clean.shape[1]}"
            )
        value = float(metric(restored[None].float(), clean[None].float()))
        metric.reset()  # otherwise the metric accumulates a sum
        return value

    return score


def load_pyiqa(name: str) -> tuple[Callable[[torch.Tensor], float], bool]:
    """Loads a no-reference score of pyiqa (tested with 0.1.16), on the CPU: "niqe", "brisque", "piqe", "musiq", ...

    pyiqa has to be installed separately. It is neither a dependency nor an extra, because its license forbids
    commercial use and it installs two builds of OpenCV. "piqe" needs no weights.

    Returns:
        Function `score(photo)` of a photo (3, H, W) in [0, 1], and whether lower is better.

    Raises:
        ImportError: pyiqa is not installed.
        ConfigurationError: no such no-reference score, or its weights are not cached and cannot be downloaded.
    """
    pyiqa: Any
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ImportError as error:
        raise ImportError(
            f"`metrics`: 'pyiqa:{name}' needs pyiqa, which cannot be imported ({error}): pip install pyiqa (its "
            "license forbids commercial use)"
        ) from error
    known = pyiqa.list_models(metric_mode="NR")
    if name not in known:
        raise ConfigurationError(f"`metrics`: no-reference scores of pyiqa are {', '.join(known)}, got {name!r}")
    try:
        metric = pyiqa.create_metric(name, device="cpu")
    except (OSError, RuntimeError) as error:  # no network, or a damaged file
        raise ConfigurationError(
            f"`metrics`: the weights of 'pyiqa:{name}' cannot be loaded ({error}). Run "
            f"`pyiqa.create_metric({name!r})` on a machine with a network, and copy the files that it stores in "
            f"{torch.hub.get_dir()}/pyiqa (or in the cache of huggingface_hub)"
        ) from error

    @torch.no_grad()
    def score(photo: torch.Tensor) -> float:
        return float(metric(photo[None].float()))

    return score, bool(metric.lower_better)
