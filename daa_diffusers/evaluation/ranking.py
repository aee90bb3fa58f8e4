"""Ranking of photos by their distance from the distribution of clean photos, measured by a noise predictor.

The predictor was trained to predict the noise of a noised clean photo, given two restored photos (eq. (2) of
docs/method.md). Here it gets a noised restored photo q, and q as both conditions: the farther q is from the
distribution of clean photos, the larger the prediction error should be. benchmarks/ranking.py measures how well this
orders photos by their true error.
"""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..degradations.draws import generator_for
from ..errors import ConfigurationError, UnreadablePhotoError
from ..models.restorer import RestorerContract, in_eval_mode
from ..photos.reading import list_photos, read_photo, to_float
from ..pipelines.image_processor import pad_to_multiple
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from .folders import restore

logger = logging.getLogger(__name__)

NOISE_LEVELS = (0.95, 0.8, 0.5, 0.2)  # g, the remaining share of the signal's power
SEEDS = 2  # number of draws of noise at each level
PATCH = 64  # side of a patch in pixels, similar to that of training
PATCHES = 16  # largest number of patches per photo


@dataclass(frozen=True)
class Ranking:
    """Photos ordered by their distance from clean ones, the farthest first.

    Attributes:
        scores: name within the folder -> score; only comparable for the same checkpoint.
        skipped: name of an unreadable photo -> reason.
    """

    scores: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)


def rank_photos(
    pipeline: DAARestorationPipeline,
    folder: str | os.PathLike[str],
    *,
    restored: bool = False,
    against_input: bool = False,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    seeds: int = SEEDS,
    progress: bool = False,
) -> Ranking:
    """Restores every photo of a folder, and orders the photos by the distance of the results from clean photos.

    Scores do not depend on other photos in the folder; repeated on the same machine, they are identical.

    Args:
        pipeline: pipeline with a noise predictor: `from_pretrained(..., load_noise_predictor=True)`.
        folder: folder of photos, searched recursively; one is in memory at a time.
        restored: whether the photos are already restored.
        against_input: score by the increase of the prediction error when both conditions are the unrestored photo
            instead of the restored one. This mostly correlates better with the true error of a photo.
        noise_levels, seeds: noise levels, and draws of noise at each; see `prediction_error`.
        progress: show a progress bar.

    Raises:
        ConfigurationError: no noise predictor, no folder, no readable photo, or an invalid grid.
    """
    unet = pipeline.unet
    if unet is None:
        raise ConfigurationError(
            "`pipeline` must have a noise predictor: train with `save_noise_predictor`, and load with "
            "from_pretrained(..., load_noise_predictor=True)"
        )
    _check_grid(noise_levels, seeds)
    if restored and against_input:
        raise ConfigurationError("`against_input` needs unrestored photos: it cannot be combined with `restored`")

    def distance(q: torch.Tensor, conditions: torch.Tensor) -> float:
        return prediction_error(
            unet, q, conditions, value_range=pipeline.value_range, noise_levels=noise_levels, seeds=seeds
        )

    scores: dict[str, float] = {}
    skipped: dict[str, str] = {}
    paths = list_photos(folder)
    for path in tqdm(paths, desc="photos", disable=not progress):
        name = path.relative_to(Path(folder).expanduser()).as_posix()
        try:
            photo = to_float(read_photo(path))
            q = photo if restored else restore(pipeline, photo)
            scores[name] = distance(q, q)
            if against_input:
                scores[name] = distance(q, photo) - scores[name]
        except (UnreadablePhotoError, FloatingPointError) as error:
            skipped[name] = str(error)
            logger.warning("`folder`: skipping %s: %s", name, error)
    if not scores:
        first = next(iter(skipped))
        raise ConfigurationError(f"`folder`: none of the {len(paths)} photos can be read, e.g. {skipped[first]}")
    return Ranking(dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))), skipped)


@torch.no_grad()
def prediction_error(
    unet: nn.Module,
    photo: torch.Tensor,
    conditions: torch.Tensor | None = None,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    noise_levels: Sequence[float] = NOISE_LEVELS,
    seeds: int = SEEDS,
) -> float:
    """Returns the mean squared error of the predicted noise, over patches and a fixed grid of noise levels and seeds.

    The error is `mean |eps - eps_theta(cat[sqrt(g) q + sqrt(1 - g) eps, c, c], g)|^2` (eq. (1) and (2)), which is 1 for
    a predictor that always returns 0. Patches and noise are the same for all photos of the same size.

    Args:
        unet: noise predictor.
        photo: q (C, H, W) in [0, 1]; grayscale is repeated.
        conditions: c, of the same shape; None: q.
        value_range: value range of the restorer that the predictor was trained with.
        noise_levels: noise levels g, in (0, 1).
        seeds: number of draws of eps at each noise level.
    """
    _check_grid(noise_levels, seeds)
    low, high = value_range
    weight = next(unet.parameters())

    def batch(photo: torch.Tensor) -> torch.Tensor:  # (P, 3, h, w)
        color = photo.expand(3, -1, -1) if len(photo) == 1 else photo
        scaled = patches(color) * (high - low) + low
        return pad_to_multiple(scaled, RestorerContract.of(unet).size_multiple).to(weight)

    q = batch(photo)
    c = q if conditions is None else batch(conditions)
    errors = []
    with in_eval_mode(unet):
        for index, g in enumerate(noise_levels):
            for seed in range(seeds):
                noise = torch.randn(q.shape, generator=generator_for(seed, "rank", index)).to(q)
                z = g**0.5 * q + (1 - g) ** 0.5 * noise  # eq. (1)
                predicted = unet(z, torch.full((len(q),), g, device=q.device), conditions=(c, c)).sample
                errors.append((predicted - noise).double().square().mean())
    return float(torch.stack(errors).mean())


def patches(photo: torch.Tensor, side: int = PATCH, most: int = PATCHES) -> torch.Tensor:
    """Returns at most `most` patches (P, C, side, side), spread evenly over a photo (C, H, W).

    In photos narrower or lower than `side`, patches have the full width or height.
    """
    per_axis = int(most**0.5)

    def starts(length: int) -> np.ndarray:
        count = min(per_axis, math.ceil(length / side))
        return np.linspace(0, max(0, length - side), count).round().astype(int)

    tops, lefts = starts(photo.shape[1]), starts(photo.shape[2])
    return torch.stack([photo[:, top : top + side, left : left + side] for top in tops for left in lefts])


def _check_grid(noise_levels: Sequence[float], seeds: int) -> None:
    """Raises ConfigurationError for invalid arguments of `prediction_error`."""
    if not noise_levels or not all(0 < g < 1 for g in noise_levels):
        raise ConfigurationError(f"`noise_levels` must be numbers in (0, 1), got {noise_levels!r}")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ConfigurationError(f"`seeds` must be a whole number, at least 1, got {seeds!r}")
