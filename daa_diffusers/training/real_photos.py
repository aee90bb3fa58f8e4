"""Inspection and measurements of the real photos of a run, within a time limit."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..degradations.draws import generator_for
from ..degradations.fitting.inspection import MAX_PHOTOS, Inspection, check_inspections, inspect_photos
from ..objectives.base import Objective
from ..photos.pixels import center_crop, unit_float
from ..sources.folders import PhotoSource
from ..sources.sampling import TrainingPatches
from .held_out import pairs_apart

logger = logging.getLogger(__name__)

INSPECTION = 0.1  # maximum fraction of a time budget for `inspect_all`
MEASURED_PHOTOS = 9  # number of photos for the measurements of objectives and of `training.choosing`, over all sources
MEASURED_SIDE = 256  # side in pixels of their center crops
MEASURED_PATCHES = 16  # number of clean patches for the measurements


def inspect_all(sources: Sequence[PhotoSource], seconds: float | None) -> list[Inspection]:
    """Calls `inspect_photos` for every source, within a total time limit if `seconds` is not None.

    Raises:
        ConfigurationError: there are too few photos, or more than half of the inspected ones are unsuitable.
    """
    logger.info("preparing: inspecting the noise of the real photos")
    inspections = [inspect_photos(source, per_source(seconds, sources)) for source in sources]
    check_inspections(sources, inspections)
    inspected = sum(inspection.inspected for inspection in inspections)
    log_limited("noise is inspected in", inspected, sources, MAX_PHOTOS, seconds)
    return inspections


def per_source(seconds: float | None, sources: Sequence[PhotoSource]) -> float | None:
    """Divides a time limit equally among sources; None: no limit."""
    return None if seconds is None else seconds / len(sources)


def log_limited(what: str, used: int, sources: Sequence[PhotoSource], most: int, seconds: float | None) -> None:
    """Logs that a stage used only `used` photos, if it had a time limit and would use up to `most` of every source."""
    if seconds is not None and used < sum(len(source.spread(most)) for source in sources):
        has_stream = any(source.count is None for source in sources)
        photos = f"{used} photos of a stream" if has_stream else f"{used} of {sum(map(len, sources))} photos"
        logger.info("%s %s; a larger time budget allows more", what, photos)


def measure_for(model: Objective, real: Sequence[PhotoSource], dataset: TrainingPatches) -> dict[str, Any]:
    """Calls `Objective.measure` on some photos; deterministic for the run's seed.

    Raises:
        ConfigurationError: the restorer or the photos are unsuitable for the objective.
    """
    (pairs,) = pairs_apart(dataset, "objective", count=MEASURED_PATCHES, at_once=MEASURED_PATCHES)
    generator = generator_for(dataset.seed, "objective", "measure")
    return model.measure(measured_photos(real), pairs["clean"], generator)


def measured_photos(real: Sequence[PhotoSource]) -> Iterator[torch.Tensor]:
    """Returns center crops (C, H, W) in [0, 1] of a few photos, the same number from each source."""
    per_source = max(1, MEASURED_PHOTOS // max(1, len(real)))
    for source in real:
        for _, photo in source.sample(per_source):
            yield unit_float(center_crop(photo, MEASURED_SIDE))
