"""Code shared by all fits: selection of photos, and the base class of results."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ...errors import ConfigurationError
from ...files import one_line
from ...photos.pixels import LUMA_WEIGHTS, center_crop, unit_float
from ...sources.folders import PhotoSource
from ...sources.specs import open_source
from ..base import Degradation
from ..config_files import write_degradation

MIN_PHOTOS = 3  # least number of usable photos for a fit
NAMED = 10  # largest number of photos named in a message

Measured = TypeVar("Measured")  # result for one photo
# One or several sources, or specs for `open_source`, such as folders.
Photos = str | os.PathLike | PhotoSource | Sequence[str | os.PathLike | PhotoSource]


class Profile(ABC):
    """Base class of results of a fit: measured properties of the photos, and the degradation that synthesizes them."""

    @abstractmethod
    def to_degradation(self) -> Degradation:
        """Returns the degradation for training; raises ConfigurationError if there is nothing to synthesize."""

    @abstractmethod
    def describe(self) -> str:
        """Returns a summary of the fit as text of several lines."""

    def save(self, path: str | os.PathLike) -> Path:
        """Writes `to_degradation()` as a YAML or JSON file, for `degradation: FILE` in a training config."""
        return write_degradation(self.to_degradation().to_config(), path, self.describe())


def sources_of(photos: Photos) -> list[PhotoSource]:
    """Opens one or several sources, without a cache."""
    items = [photos] if isinstance(photos, str | os.PathLike | PhotoSource) else photos
    return [
        item if isinstance(item, PhotoSource) else open_source(item, cache_bytes=0, argument="photos") for item in items
    ]


def measure_photos(
    sources: Sequence[PhotoSource],
    measure: Callable[[torch.Tensor, PhotoSource, int], Measured],
    *,
    most: int,
    seconds: float | None = None,
) -> tuple[list[Measured], dict[str, str]]:
    """Measures the photos of sources; also returns the reason for each skipped photo.

    Args:
        sources: result of `sources_of`.
        measure: function that measures a photo (C, H, W) of integers, given its source and index; it raises
            ConfigurationError with the reason if the photo is not usable.
        most: largest number of photos in total, divided equally among the sources; each gives at least one.
        seconds: time limit: as many photos as fit into it are measured, and at least `MIN_PHOTOS` if there are as many;
            None: no limit.

    Raises:
        ConfigurationError: fewer than `MIN_PHOTOS` photos are usable; the message gives the reasons. A subclass of it
            that `measure` raised for a photo is raised instead.
    """
    measured: dict[tuple[int, int], Measured] = {}
    skipped: dict[str, str] = {}
    error_type = ConfigurationError
    count, limit = max(1, most // len(sources)), None if seconds is None else seconds / len(sources)  # of each source
    for number, source in enumerate(sources):
        for index, photo in source.sample(count, seconds=limit, enough=lambda: len(measured) >= MIN_PHOTOS):
            try:
                measured[number, index] = measure(photo, source, index)
            except ConfigurationError as error:
                skipped[str(source.label(index))] = str(error)
                if type(error) is not ConfigurationError:  # such as `TooStrongError`
                    error_type = type(error)
        skipped |= {str(label): reason for label, reason in source.skipped.items()}
    if len(measured) < MIN_PHOTOS:
        reasons = "".join("\n" + one_line(f"- {name}: {reason}") for name, reason in list(skipped.items())[:NAMED])
        raise error_type(f"`photos` must hold at least {MIN_PHOTOS} usable photos, got {len(measured)}{reasons}")
    return [measured[key] for key in sorted(measured)], skipped  # `sample` is not in the order of the photos


def check_side(photo: torch.Tensor, least: int) -> None:
    """Raises ConfigurationError if the shorter side of a photo (C, H, W) has fewer than `least` pixels."""
    if min(photo.shape[1:]) < least:
        raise ConfigurationError(f"smaller than {least} pixels: {photo.shape[2]} x {photo.shape[1]}")


def color_crop(photo: torch.Tensor, side: int) -> torch.Tensor:
    """Returns the center (3, h, w) in [0, 1] of a photo (C, H, W), at most `side` pixels wide and high."""
    return unit_float(center_crop(photo, side)).expand(3, -1, -1)


def gray(photo: torch.Tensor) -> np.ndarray:
    """Returns the luma (H, W) of a photo (3, H, W)."""
    return np.tensordot(LUMA_WEIGHTS, photo.cpu().numpy(), 1)
