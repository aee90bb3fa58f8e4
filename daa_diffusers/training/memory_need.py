"""Memory of a training process: an estimate before the first step, and a check that so much is free."""

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from ..errors import ConfigurationError, UnreadablePhotoError
from ..models.restorer import RestorerContract, round_up
from ..objectives.base import Batch, Objective
from ..pipelines.tiling import LiveBytes, free_memory
from ..sources.folders import PhotoSource
from . import setup
from .config import TrainingConfig

SMALL_SIDE = 32  # side of the patches of the first measured step; the second takes twice this side
SAMPLES = 2  # patches per measured step
# Ratio of the growth of the process to the peak bytes of a step's tensors, measured by benchmarks/memory.py: the rest
# is memory of the kernels, and fragmentation, which is lower with CUDA's allocator.
OVERHEAD = {"cpu": 1.45, "cuda": 1.15}
LIBRARIES = {"cpu": 2**26, "cuda": 2**29}  # bytes of the kernels and contexts that the first step loads
# Bounds that no known network exceeds, for a run that certainly fits: bytes of a step's activations per pixel of the
# batch, and of weights, gradients, Adam's two moments and averages, as a multiple of the weights.
MOST_BYTES_PER_PIXEL, MOST_COPIES = 2**20, 8
INSPECTED = 20  # photos per source whose sizes are read
GIB = 2**30


@dataclass(frozen=True)
class MemoryNeed:
    """Estimated bytes of one process at the peak of a step.

    Attributes:
        process: interpreter and libraries, in the machine's memory.
        weights: parameters, gradients, Adam's moments, moving average, and a copy of the initial weights.
        activations: activations of a step, forward and backward.
        photos: cached decoded photos, in the machine's memory.
    """

    process: int
    weights: int
    activations: int
    photos: int

    def on(self, device: torch.device) -> int:
        """Returns the bytes in the memory of a device; on a GPU only the networks count."""
        networks = self.weights + self.activations
        return networks if device.type == "cuda" else networks + self.process + self.photos

    def __str__(self) -> str:
        total = sum((self.process, self.weights, self.activations, self.photos))
        return (
            f"about {total / GIB:.2f} GiB ({self.weights / GIB:.2f} weights and optimizer, "
            f"{self.activations / GIB:.2f} activations, {self.photos / GIB:.2f} photos, {self.process / GIB:.2f} "
            "interpreter and libraries)"
        )


def memory_need(
    config: TrainingConfig, model: Objective, sources: Sequence[PhotoSource], device: torch.device | None = None
) -> MemoryNeed:
    """Estimates the memory of a process from steps on small patches and from photos' headers, in a second or two.

    Args:
        config: options of the run.
        model: objective on the CPU, with precision and gradient checkpointing set.
        sources: photo sources of all roles.
        device: device to train on; None: the CPU.
    """
    kind = "cuda" if device is not None and device.type == "cuda" else "cpu"
    parameters = setup.tensor_bytes(model.parameters())
    trained = setup.tensor_bytes(p for p in model.parameters() if p.requires_grad)
    restorer = setup.tensor_bytes(p for p in model.restorer.parameters() if p.requires_grad)
    # gradients and Adam's two moments; the moving average, and the initial weights if they are blended with it
    weights = parameters + 3 * trained + (2 if config.blend < 1 else 1) * restorer
    process = max(0, psutil.Process().memory_info().rss - parameters) + LIBRARIES[kind]
    activations = int(OVERHEAD[kind] * step_bytes(config, model))
    photos = sum(map(decoded_bytes, sources)) * max(1, config.workers)
    return MemoryNeed(process, weights, activations, photos)


def step_bytes(config: TrainingConfig, model: Objective) -> float:
    """Estimates the peak bytes of a step's tensors from two small steps; they are linear in the number of pixels."""
    sides = small_sides(config, model)
    samples = min(SAMPLES, config.batch_size)
    pixels = [samples * side**2 for side in sides]
    peaks = [_peak_bytes(config, model, samples, side) for side in sides]
    if len(sides) == 1:
        return peaks[0] * config.batch_size / samples
    slope = (peaks[1] - peaks[0]) / (pixels[1] - pixels[0])
    return peaks[0] + slope * (config.batch_size * config.patch**2 - pixels[0])


def small_sides(config: TrainingConfig, model: Objective) -> list[int]:
    """Returns two patch sides that the model supports, smaller than `patch`; only `patch` if there are none."""
    modules = (model.restorer, *model.networks.values(), model)
    multiple = math.lcm(*(RestorerContract.of(module).size_multiple for module in modules))
    side = round_up(max(SMALL_SIDE, model.smallest_side), multiple)
    return [side, 2 * side] if 2 * side < config.patch else [config.patch]


def random_photos(config: TrainingConfig, model: Objective, samples: int, side: int) -> list[torch.Tensor]:
    """Returns random photos for a joint step: four tensors (B, C, H, W)."""
    shape = (samples, RestorerContract.of(model.restorer).channels, side, side)
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator, dtype=getattr(torch, config.dtype)) for _ in range(4)]


@contextlib.contextmanager
def state_restored(model: Objective):
    """Context that restores batch-norm statistics and torch's random state on exit, and clears the gradients."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[]):
        yield
    model.zero_grad()
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _peak_bytes(config: TrainingConfig, model: Objective, samples: int, side: int) -> int:
    """Returns the peak bytes of the tensors of one step on the CPU."""
    precision: Any = contextlib.nullcontext()
    if config.mixed_precision != "no":
        precision = torch.autocast("cpu", dtype=torch.bfloat16)
    with state_restored(model):
        photos = random_photos(config, model, samples, side)
        with LiveBytes() as live:
            with precision:
                output = model(Batch(*photos), generator=torch.Generator().manual_seed(0))
            output.loss.backward()
        del output
    return live.peak


def decoded_bytes(source: PhotoSource) -> int:
    """Estimates the bytes of a source's cache of decoded photos from the headers of some photos."""
    if not source.cache_bytes or source.count is None:  # a stream has no cache
        return 0
    sizes = []
    for index in source.spread(INSPECTED):
        with contextlib.suppress(OSError, UnreadablePhotoError):
            width, height = source.size(index)
            sizes.append(width * height * source.channels)
    return min(source.cache_bytes, sum(sizes) * source.count // len(sizes)) if sizes else 0


def check_memory(
    config: TrainingConfig, model: Objective, sources: Sequence[PhotoSource], device: torch.device
) -> None:
    """Checks that a run needs no more memory than is free; a run that certainly fits is not measured.

    Args:
        config, model, sources, device: as for `memory_need`.

    Raises:
        ConfigurationError: too little memory is free. The message has the memory needed and options that need less.
    """
    if not config.check_memory:
        return
    free = free_memory(device)
    pixels = config.batch_size * config.patch**2
    if pixels * MOST_BYTES_PER_PIXEL + MOST_COPIES * setup.tensor_bytes(model.parameters()) < free:
        return
    need = memory_need(config, model, sources, device)
    # the GPU is still empty, but this process already holds part of the machine's memory
    missing = need.on(device) - (0 if device.type == "cuda" else psutil.Process().memory_info().rss)
    processes = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if missing * processes <= free:
        return
    # activations are in proportion to the batch; the rest of the need is not
    for_activations = free / processes - (missing - need.activations)
    fits = int(config.batch_size * for_activations / need.activations)
    smaller = f"`batch_size` {fits} with `gradient_accumulation_steps`" if fits >= 1 else "a smaller `patch`"
    place = "GPU" if device.type == "cuda" else "machine"
    raise ConfigurationError(
        f"`batch_size` {config.batch_size} of `patch` {config.patch} needs {need}"
        + (f" in each of {processes} processes" if processes > 1 else "")
        + f", and {free / GIB:.2f} GiB are free on this {place}: {smaller} would fit; `gradient_checkpointing` and "
        "`separate_passes` need less; `check_memory` false disables this check"
    )
