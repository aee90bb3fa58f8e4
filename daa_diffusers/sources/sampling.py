"""Numbered training samples: all random draws are functions of (seed, role, sample number).

A resumed run, and any number of workers and processes, therefore get the same samples without saved state.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from ..degradations.base import Degradation
from ..degradations.checks import check_range
from ..degradations.draws import generator_for
from ..errors import ConfigurationError
from ..photos.pixels import crop_patch
from .colors import random_colors
from .folders import PhotoSource


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, role: str, source: int, length: int, *keys: int) -> torch.Tensor:
    """Returns the order of a source's photos; `source` is its number among those of the role, `keys` as for `Order`."""
    return torch.randperm(length, generator=generator_for(seed, "order", role, source, *keys))


def take_turns(lengths: Sequence[int], n: int, *, seed: int, role: str) -> tuple[int, int]:
    """Returns the indices (source, photo) of sample `n` for one role.

    Sources are used in turn, so that small and large collections have equal weight. Within a source, every photo is
    used once per epoch of that source, in a new random order in each epoch.

    Args:
        lengths: number of photos in each source.
        n: number of the sample, from 0.
        seed, role: seed and role (e.g. "real") on which the orders depend.
    """
    position, source = divmod(n, len(lengths))
    epoch, step = divmod(position, lengths[source])
    return source, int(_permutation(seed, role, source, lengths[source], epoch)[step])


def pair_by_name(degraded: PhotoSource, clean: PhotoSource) -> list[tuple[int, int]]:
    """Returns indices (degraded, clean) of photos with the same `pair_key`.

    The key is the path within a folder without the suffix, the number of the shard and key of the sample in tar shards,
    or the row of a dataset.

    Raises:
        ConfigurationError: photos have no counterpart or share a key (the message lists them), or a source is
            streamed.
    """
    degraded_indices, clean_indices = _index_by_key(degraded), _index_by_key(clean)
    without_clean = sorted(degraded_indices.keys() - clean_indices)
    without_degraded = sorted(clean_indices.keys() - degraded_indices)
    if without_clean or without_degraded:
        raise ConfigurationError(
            f"`{degraded.argument}` and `{clean.argument}` must pair by name; without a clean photo: "
            f"{without_clean[:10]}, without a degraded one: {without_degraded[:10]}"
        )
    return [(index, clean_indices[key]) for key, index in degraded_indices.items()]


def _index_by_key(source: PhotoSource) -> dict[str, int]:
    """Returns `pair_key` -> index of all photos; raises the errors of `pair_by_name`."""
    if source.count is None:
        raise ConfigurationError(f"`{source.argument}`: streams cannot be paired, omit `streaming`")
    keys = [source.pair_key(index) for index in range(source.count)]
    if len(set(keys)) < len(keys):
        twice = sorted(key for key, times in Counter(keys).items() if times > 1)
        raise ConfigurationError(f"`{source.argument}`: several photos share a name, so pairs are ambiguous: {twice}")
    return {key: index for index, key in enumerate(keys)}


class PairedFolders:
    """Degraded photos and their clean counterparts, matched by `pair_by_name`; raises its errors."""

    def __init__(self, degraded: PhotoSource, clean: PhotoSource):
        self.degraded, self.clean = degraded, clean
        self._indices = pair_by_name(degraded, clean)

    def __len__(self) -> int:
        return len(self._indices)

    def pair(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns pair `index`, (degraded, clean), each (C, H, W), or the next one that is readable and of equal sizes.

        Raises:
            ConfigurationError: no pair can be used.
        """
        for offset in range(len(self)):
            degraded_index, clean_index = self._indices[(index + offset) % len(self)]
            degraded, clean = self.degraded.try_photo(degraded_index), self.clean.try_photo(clean_index)
            if degraded is None or clean is None:
                continue
            if degraded.shape == clean.shape:
                return degraded, clean
            sizes = [f"{photo.shape[2]} x {photo.shape[1]}" for photo in (degraded, clean)]
            self.degraded.skip(degraded_index, f"{sizes[0]} pixels, but its clean counterpart has {sizes[1]}")
        raise ConfigurationError(
            f"`{self.degraded.argument}` and `{self.clean.argument}`: none of the {len(self)} pairs can be used"
        )


class TrainingPatches(Dataset):
    """Numbered training samples; sample n depends on the seed and n alone.

    Args:
        clean: sources of clean photos, used in turn; empty with `paired`.
        degradation: degradation of clean photos into synthetic ones; None with `paired`.
        real: sources of real degraded photos.
        unpaired_clean: sources of clean photos for the variants "extended" and "hybrid" of `NoiseSpaceAdaptation`.
        paired: (degraded, clean) sources matched by `pair_by_name`, used as "synthetic" and "clean" photos: existing
            synthetic pairs, or real pairs for supervised training.
        patch: side of the square patches in pixels.
        length: number of samples; may be changed at any time.
        seed: seed of all random draws, which depend on it and the number of the sample.
        augment: whether to flip patches and rotate them by 180 degrees at random.
        quarter_turns: whether to rotate them by 90 degrees as well, with `augment`.
        clean_scale: range, within (0, 1], of the log-uniform factor by which "clean" (before its degradation) and
            "unpaired_clean" photos are scaled down, for detail of all sizes.
        clean_color: share of the same patches whose colors are changed by `random_colors`.

    Attributes:
        degrades: whether samples of `clean` photos have a "synthetic" photo; False: `training.batches` degrades them.

    Raises:
        ConfigurationError: missing or contradictory sources, a `patch` or `length` below 1, or photos that do not pair.
    """

    def __init__(
        self,
        clean: Sequence[PhotoSource],
        degradation: Degradation | None,
        *,
        real: Sequence[PhotoSource] | None = None,
        unpaired_clean: Sequence[PhotoSource] | None = None,
        paired: Sequence[tuple[PhotoSource, PhotoSource]] | None = None,
        patch: int,
        length: int,
        seed: int,
        augment: bool = True,
        quarter_turns: bool = True,
        clean_scale: Sequence[float] = (1.0, 1.0),
        clean_color: float = 0.0,
    ):
        self.clean_color = clean_color
        self.clean_scale = check_range("clean_scale", clean_scale, 0.05, 1.0)
        for name, value in (("patch", patch), ("length", length)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ConfigurationError(f"`{name}` must be a positive integer, got {value!r}")
        if bool(clean) == bool(paired):
            raise ConfigurationError("give either `clean` sources (with a `degradation`) or `paired` ones, not both")
        if bool(clean) != (degradation is not None):
            raise ConfigurationError("`clean` sources need a `degradation`, `paired` ones are already degraded")
        self.clean, self.degradation = list(clean), degradation
        self.real = list(real) if real else None
        self.unpaired_clean = list(unpaired_clean) if unpaired_clean else None
        self.paired = list(paired) if paired else None
        self._pairs = [PairedFolders(degraded, clean) for degraded, clean in paired or ()]
        self.patch, self.length, self.seed = int(patch), int(length), int(seed)
        self.augment, self.quarter_turns = augment, quarter_turns
        self.degrades = True

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n: int) -> dict[str, torch.Tensor | int]:
        """Returns sample `n`: "index", photos "clean" and "synthetic", and with such sources "real", "unpaired_clean".

        Photos are (C, P, P), float32 in [0, 1]; "synthetic" may exceed this range.
        """
        if not 0 <= n < self.length:
            raise IndexError(f"sample {n} of {self.length}")
        n = int(n)
        sample: dict[str, torch.Tensor | int] = {"index": n}
        if self.degradation is None:
            sample["synthetic"], sample["clean"] = self._pair(n)
        else:
            sample["clean"] = clean = self._patch(self.clean, "clean", n)
            if self.degrades:
                generator = generator_for(self.seed, "degradation", n)
                sample["synthetic"] = self.degradation(clean[None], generator)[0]
        for role in ("real", "unpaired_clean"):
            sources = getattr(self, role)
            if sources:
                sample[role] = self._patch(sources, role, n)
        return sample

    def _patch(self, sources: Sequence[PhotoSource], role: str, n: int) -> torch.Tensor:
        """Returns the patch (C, P, P) of sample `n` from the sources of a role."""
        position, number = divmod(n, len(sources))  # as in `take_turns`, but also for streams of unknown length
        source = sources[number]
        index = source.index_at(position, functools.partial(_permutation, self.seed, role, number))
        generator = generator_for(self.seed, "crop", role, n)
        side = self.patch if role == "real" else self._side_before_scaling(role, n)
        patch = crop_patch(source.photo(index), side, generator, self.augment, self.quarter_turns)
        if side != self.patch:
            scaled = F.interpolate(patch[None], size=(self.patch, self.patch), mode="bicubic", antialias=True)
            patch = scaled[0].clamp(0, 1)
        if role != "real" and self.clean_color:
            generator = generator_for(self.seed, "color", role, n)
            if torch.rand((), generator=generator) < self.clean_color:
                patch = random_colors(patch, generator)
        return patch

    def _side_before_scaling(self, role: str, n: int) -> int:
        """Draws the side in pixels of the crop that is scaled down to a patch."""
        low, high = (math.log(bound) for bound in self.clean_scale)
        if low == high == 0:
            return self.patch
        draw = torch.rand((), generator=generator_for(self.seed, "scale", role, n), dtype=torch.float64).item()
        return round(self.patch / math.exp(low + draw * (high - low)))

    def _pair(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the patches (degraded, clean) of sample `n`, cropped alike."""
        source, index = take_turns([len(pairs) for pairs in self._pairs], n, seed=self.seed, role="paired")

        def crop(photo: torch.Tensor) -> torch.Tensor:
            generator = generator_for(self.seed, "crop", "paired", n)
            return crop_patch(photo, self.patch, generator, self.augment, self.quarter_turns)

        degraded, clean = self._pairs[source].pair(index)
        return crop(degraded), crop(clean)
