"""Batches of a run: sample numbers of each step and process, and transfer to the device."""

import copy
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from ..degradations.draws import generator_for
from ..objectives.base import Batch
from ..sources.sampling import TrainingPatches
from ..sources.specs import PhotoSource
from . import setup
from .config import TrainingConfig
from .processes import accumulation_steps

DEGRADED_AT_ONCE = 256  # samples per call of the degradation on the device, since every call has a fixed cost
PHOTO_NAMES = tuple(field.name for field in fields(Batch))  # keys of the photos in a batch


class Batches:
    """One process's share of the numbered training samples.

    Args:
        dataset: numbered samples.
        accelerator: accelerator of the run.
        config: options of the run.
        value_range: value range of the restorer, (low, high).
        real: real photos of the run, only for the record of `photos`.

    Attributes:
        accumulation: batches per optimizer step in each process.
        samples_per_step: synthetic samples per optimizer step, over all processes.
    """

    def __init__(
        self,
        dataset: TrainingPatches,
        accelerator: Accelerator,
        config: TrainingConfig,
        value_range: tuple[float, float],
        real: Sequence[PhotoSource] = (),
    ):
        self.dataset, self.accelerator, self.config, self.value_range = dataset, accelerator, config, value_range
        self.real = real
        self.accumulation = accumulation_steps(config, accelerator.num_processes)
        self.samples_per_step = config.batch_size * self.accumulation * accelerator.num_processes

    def loader(self, first_step: int, steps: int | None) -> Iterable[dict[str, torch.Tensor]]:
        """Returns this process's batches from `first_step` on, for `steps` steps (None: endless).

        The content of a batch depends on its sample numbers only.
        """
        last = None if steps is None else first_step + steps
        self.dataset.length = sys.maxsize if last is None else last * self.samples_per_step
        if self.config.degrade_on_device:
            count = None if steps is None else steps * self.accumulation
            return itertools.islice(self._degraded_on_device(first_step), count)
        return self._data_loader(self.dataset, self._numbers(first_step, last))

    def _data_loader(self, dataset: TrainingPatches, numbers: Iterable[list[int]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=numbers,
            num_workers=self.config.workers,
            persistent_workers=self.config.workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _degraded_on_device(self, first_step: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yields endless batches: the loader crops clean patches, and the device degrades a group of batches at once.

        The random draws of a group depend on the number of its first sample.
        """
        crops = copy.copy(self.dataset)  # clean patches, not degraded
        crops.degrades, crops.length = False, sys.maxsize
        degradation = self.dataset.degradation
        assert degradation is not None  # checked with the options
        size = self.config.batch_size
        group_size = max(1, DEGRADED_AT_ONCE // size)  # batches per group
        used = first_step * self.accumulation % group_size  # batches of the first group that earlier steps used
        numbers = self._numbers(first_step, None, used)
        groups = (list(itertools.chain(*itertools.islice(numbers, group_size))) for _ in itertools.count())
        for group in self._data_loader(crops, groups):
            first = int(group["index"][0])
            generator = torch.Generator(self.accelerator.device)
            generator.manual_seed(generator_for(crops.seed, "degradation on device", first).initial_seed())
            group["clean"] = group["clean"].to(self.accelerator.device, non_blocking=True)
            group["synthetic"] = degradation(group["clean"], generator)
            for start in range(used * size, group_size * size, size):
                yield {name: values[start : start + size] for name, values in group.items()}
            used = 0

    def _numbers(self, first_step: int, last: int | None, before: int = 0) -> Iterator[list[int]]:
        """Yields the sample numbers of this process's batches, starting `before` batches before `first_step`."""
        size, rank = self.config.batch_size, self.accelerator.process_index
        first = first_step * self.accumulation - before
        for batch in itertools.count(first) if last is None else range(first, last * self.accumulation):
            start = (batch * self.accelerator.num_processes + rank) * size
            yield list(range(start, start + size))

    def in_range(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the batch with its photos on the device, in the restorer's value range."""
        low, high = self.value_range
        moved = dict(batch)
        for name in PHOTO_NAMES:
            if name in batch:
                photo = batch[name].to(self.accelerator.device, getattr(torch, self.config.dtype), non_blocking=True)
                moved[name] = photo if (low, high) == (0.0, 1.0) else photo * (high - low) + low
        return moved

    def photos(self) -> setup.Photos:
        """Returns `setup.training_photos`, in which the skipped photos are those of all processes.

        All processes must call it together.
        """
        records = gather_object([setup.training_photos(self.dataset, self.real)])  # one per process
        for role, sources in records[0].items():
            for number, source in enumerate(sources):
                for record in records[1:]:
                    source["skipped"] |= record[role][number]["skipped"]
        return records[0]
