"""Learned scores of other libraries: LPIPS by torchmetrics, no-reference scores by pyiqa.

Nothing is bundled: weights come from these libraries' caches, or from the network the first time.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from ..errors import ConfigurationError

LPIPS_MIN_SIDE = 32  # below, AlexNet has no feature left


def load_lpips() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """LPIPS (Zhang et al. 2018, AlexNet, version 0.1); 0 for identical photos, less is better.

    torchmetrics ships its linear layers; the AlexNet under them is torchvision's.

    Returns:
        `score(restored, clean)` of photos (3, H, W) in [0, 1]; raises ValueError on sides below 32.

    Raises:
        ConfigurationError: AlexNet's weights are not there and cannot be downloaded.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except (OSError, RuntimeError) as error:  # no network; a broken file
        raise ConfigurationError(
            f"`metrics`: lpips needs the weights of torchvision's AlexNet, which cannot be loaded ({error}). Fetch "
            f"{AlexNet_Weights.DEFAULT.url} where there is a network, and put the file into "
            f"{torch.hub.get_dir()}/checkpoints"
        ) from error

    @torch.no_grad()
    def score(restored: torch.Tensor, clean: torch.Tensor) -> float:
        if min(clean.shape[1:]) < LPIPS_MIN_SIDE:
            raise ValueError(
                f"LPIPS needs sides of at least {LPIPS_MIN_SIDE} pixels, got {clean.shape[2]} x {clean.shape[1]}"
            )
        value = float(metric(restored[None].float(), clean[None].float()))
        metric.reset()  # the metric would accumulate a sum
        return value

    return score


def load_pyiqa(name: str) -> tuple[Callable[[torch.Tensor], float], bool]:
    """A no-reference score of pyiqa (0.1.16 was tried), on the CPU: "niqe", "brisque", "piqe", "musiq", ...

    pyiqa is no dependency, nor an extra: its license forbids commercial use, and it brings two builds of OpenCV. It
    has to be installed by hand. "piqe" needs no weights.

    Returns:
        `score(photo)` of a photo (3, H, W) in [0, 1], and whether less is better.

    Raises:
        ImportError: pyiqa is missing.
        ConfigurationError: no such no-reference score, or its weights are not there and cannot be downloaded.
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
    except (OSError, RuntimeError) as error:  # no network; a broken file
        raise ConfigurationError(
            f"`metrics`: the weights of 'pyiqa:{name}' cannot be loaded ({error}). Run "
            f"`pyiqa.create_metric({name!r})` where there is a network, and copy what it stored under "
            f"{torch.hub.get_dir()}/pyiqa (or in the cache of huggingface_hub)"
        ) from error

    @torch.no_grad()
    def score(photo: torch.Tensor) -> float:
        return float(metric(photo[None].float()))

    return score, bool(metric.lower_better)
