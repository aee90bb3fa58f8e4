"""Numbered training samples: everything random is a function of (seed, stream, sample number) alone.

So a resumed run, a run with other workers or a run on more processes draws the same samples, without any saved state.
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
from .folders import PhotoSource


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, stream: str, source: int, length: int, *keys: int) -> torch.Tensor:
    """The order of a source's photos; `keys` are the epoch and, of a stream, the window."""
    return torch.randperm(length, generator=generator_for(seed, "order", stream, source, *keys))


def take_turns(lengths: Sequence[int], n: int, *, seed: int, stream: str) -> tuple[int, int]:
    """Source and photo of sample `n` of a stream: `(source, photo)`.

    Sources take turns, whatever their sizes, so that a small collection weighs as much as a large one. Within a source
    every photo comes once per epoch of that source, in an order drawn anew for each epoch.

    Args:
        lengths: photos in each source.
        n: number of the sample, from 0.
        seed, stream: what the orders depend on, e.g. `stream="real"`.
    """
    position, source = divmod(n, len(lengths))
    epoch, step = divmod(position, lengths[source])
    return source, int(_permutation(seed, stream, source, lengths[source], epoch)[step])


def pair_by_name(degraded: PhotoSource, clean: PhotoSource) -> list[tuple[int, int]]:
    """(degraded, clean) indices of photos with one `pair_key`.

    That is, of folders, the path within the folder without the suffix; of shards, number of the shard and key of the
    sample; of datasets, the row.

    Raises:
        ConfigurationError: photos have no counterpart or share a name (the message lists them), or a source is a
            stream.
    """
    ours, theirs = _by_key(degraded), _by_key(clean)
    alone = [sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))]
    if any(alone):
        raise ConfigurationError(
            f"`{degraded.argument}` and `{clean.argument}` must pair by name; without a clean photo: "
            f"{alone[0][:10]}, without a degraded one: {alone[1][:10]}"
        )
    return [(ours[key], theirs[key]) for key in ours]


def _by_key(source: PhotoSource) -> dict[str, int]:
    if source.count is None:
        raise ConfigurationError(f"`{source.argument}`: streams cannot be paired, leave `streaming` out")
    keys = [source.pair_key(index) for index in range(source.count)]
    if len(set(keys)) < len(keys):
        twice = sorted(key for key, times in Counter(keys).items() if times > 1)
        raise ConfigurationError(f"`{source.argument}`: several photos share a name, so pairs are unclear: {twice}")
    return {key: index for index, key in enumerate(keys)}


class PairedFolders:
    """Degraded photos and their clean counterparts, matched by `pair_by_name`, whose errors it raises."""

    def __init__(self, degraded: PhotoSource, clean: PhotoSource):
        self.degraded, self.clean = degraded, clean
        self._indices = pair_by_name(degraded, clean)

    def __len__(self) -> int:
        return len(self._indices)

    def pair(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(degraded, clean) number `index`, each (C, H, W); the next pair where one of them is broken.

        Raises:
            ConfigurationError: no pair can be used.
        """
        for offset in range(len(self)):
            ours, theirs = self._indices[(index + offset) % len(self)]
            degraded, clean = self.degraded.try_photo(ours), self.clean.try_photo(theirs)
            if degraded is None or clean is None:
                continue
            if degraded.shape == clean.shape:
                return degraded, clean
            sizes = [f"{photo.shape[2]} x {photo.shape[1]}" for photo in (degraded, clean)]
            self.degraded.skip(ours, f"{sizes[0]} pixels, but its clean counterpart has {sizes[1]}")
        raise ConfigurationError(
            f"`{self.degraded.argument}` and `{self.clean.argument}`: none of the {len(self)} pairs can be used"
        )


class TrainingPatches(Dataset):
    """Numbered training samples; sample n depends on the seed and n alone.

    Args:
        clean: sources of clean photos, which take turns. May be empty where `paired` is given.
        degradation: makes the synthetic photo from the clean one; None where `paired` is given.
        real: sources of real degraded photos.
        unpaired_clean: sources of clean photos for the extended and hybrid variants.
        paired: (degraded, clean) sources matched by `pair_by_name`, from which synthetic and clean then come (the
            supervised "oracle", or ready synthetic pairs).
        patch: side of the squares.
        length: number of samples; may be changed at any time.
        seed: what everything random depends on, besides the number of the sample.
        augment: flips and rotations by 180 degrees.
        quarter_turns: with `augment`, rotations by 90 degrees as well.
        clean_scale: range (within (0, 1]) of the factor by which "clean" (before its degradation) and "unpaired_clean"
            are scaled down, log-uniform: detail of all sizes, as in photos that were scaled down themselves.

    Attributes:
        degrades: whether samples of `clean` photos have a "synthetic"; False: it is made later (`training.batches`).

    Raises:
        ConfigurationError: missing or contradicting sources, a `patch` or `length` below 1, photos that do not pair.
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
    ):
        self.clean_scale = check_range("clean_scale", clean_scale, 0.05, 1.0)
        for name, value in (("patch", patch), ("length", length)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ConfigurationError(f"`{name}` must be a positive integer, got {value!r}")
        if bool(clean) == bool(paired):
            raise ConfigurationError("give either `clean` sources (with a `degradation`) or `paired` ones, not both")
        if bool(clean) != (degradation is not None):
            raise ConfigurationError("`clean` sources need a `degradation`, `paired` ones are degraded already")
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
        """Sample `n`: "index", and photos "clean", "synthetic", and where given "real", "unpaired_clean".

        Photos are (C, P, P), float32 in [0, 1], except that "synthetic" may exceed it.
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
        for stream in ("real", "unpaired_clean"):
            sources = getattr(self, stream)
            if sources:
                sample[stream] = self._patch(sources, stream, n)
        return sample

    def _patch(self, sources: Sequence[PhotoSource], stream: str, n: int) -> torch.Tensor:
        position, number = divmod(n, len(sources))  # as `take_turns`, but streams know no length beforehand
        source = sources[number]
        index = source.turn(position, functools.partial(_permutation, self.seed, stream, number))
        generator = generator_for(self.seed, "crop", stream, n)
        side = self.patch if stream == "real" else self._side_before_scaling(stream, n)
        patch = crop_patch(source.photo(index), side, generator, self.augment, self.quarter_turns)
        if side == self.patch:
            return patch
        scaled = F.interpolate(patch[None], size=(self.patch, self.patch), mode="bicubic", antialias=True)
        return scaled[0].clamp(0, 1)

    def _side_before_scaling(self, stream: str, n: int) -> int:
        low, high = (math.log(bound) for bound in self.clean_scale)
        if low == high == 0:
            return self.patch
        draw = torch.rand((), generator=generator_for(self.seed, "scale", stream, n), dtype=torch.float64).item()
        return round(self.patch / math.exp(low + draw * (high - low)))

    def _pair(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        source, index = take_turns([len(p) for p in self._pairs], n, seed=self.seed, stream="paired")
        degraded, clean = (
            crop_patch(
                photo, self.patch, generator_for(self.seed, "crop", "paired", n), self.augment, self.quarter_turns
            )
            for photo in self._pairs[source].pair(index)
        )
        return degraded, clean
