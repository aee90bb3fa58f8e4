"""Batches of a run: the sample numbers of each step and process, and the transfer to the device."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import fields

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from ..objectives.base import Batch
from ..sources.sampling import TrainingPatches
from . import setup
from .config import TrainingConfig
from .processes import accumulation_steps

PHOTOS = tuple(field.name for field in fields(Batch))  # keys of a sample


class Batches:
    """One process's share of the numbered training samples.

    Args:
        dataset: the samples.
        value_range: of the restorer.

    Attributes:
        accumulation: batches that an optimizer step takes in each process.
        samples_per_step: synthetic samples that an optimizer step takes, over all processes.
    """

    def __init__(
        self,
        dataset: TrainingPatches,
        accelerator: Accelerator,
        config: TrainingConfig,
        value_range: tuple[float, float],
    ):
        self.dataset, self.accelerator, self.config, self.value_range = dataset, accelerator, config, value_range
        self.accumulation = accumulation_steps(config, accelerator.num_processes)
        self.samples_per_step = config.batch_size * self.accumulation * accelerator.num_processes

    def loader(self, first_step: int, steps: int | None) -> DataLoader:
        """This process's batches from `first_step` on, of `steps` steps or without end.

        Sample numbers alone decide what is in them.
        """
        last = None if steps is None else first_step + steps
        self.dataset.length = sys.maxsize if last is None else last * self.samples_per_step
        return DataLoader(
            self.dataset,
            batch_sampler=self._numbers(first_step, last),
            num_workers=self.config.workers,
            persistent_workers=self.config.workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _numbers(self, first_step: int, last: int | None) -> Iterator[list[int]]:
        """Sample numbers of this process's batches."""
        size, rank = self.config.batch_size, self.accelerator.process_index
        for step in itertools.count(first_step) if last is None else range(first_step, last):
            for micro in range(self.accumulation):
                start = step * self.samples_per_step
                start += (micro * self.accelerator.num_processes + rank) * size
                yield list(range(start, start + size))

    def in_range(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch with its photos on the device, in the restorer's value range."""
        low, high = self.value_range
        moved = dict(batch)
        for name in PHOTOS:
            if name in batch:
                photo = batch[name].to(self.accelerator.device, getattr(torch, self.config.dtype), non_blocking=True)
                moved[name] = photo if (low, high) == (0.0, 1.0) else photo * (high - low) + low
        return moved

    def photos(self) -> setup.Photos:
        """`setup.training_photos` with what any process found unreadable; all processes must call it together."""
        everyones = gather_object([setup.training_photos(self.dataset)])
        photos = everyones[0]
        for role, sources in photos.items():
            for number, source in enumerate(sources):
                names = [name for each in everyones for name in each[role][number]["skipped"]]
                source["skipped"] = list(dict.fromkeys(names))
        return photos
