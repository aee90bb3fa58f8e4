"""Memory of a training process: an estimate before the first step, and the free memory of the machine."""

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from ..errors import ConfigurationError, UnreadablePhotoError
from ..models.restorer import RestorerContract
from ..objectives.base import Batch, Objective
from ..pipelines.tiling import LiveBytes, free_memory
from ..sources.folders import PhotoSource
from .config import TrainingConfig

SMALL_SIDE = 32  # of the patches on which a step is measured, and twice that
SAMPLES = 2
# Peak of a step's tensors -> growth of the process: what kernels use beside them, and gaps between blocks; measured by
# benchmarks/memory.py. CUDA's allocator leaves smaller gaps.
OVERHEAD = {"cpu": 1.45, "cuda": 1.15}
LIBRARIES = {"cpu": 2**26, "cuda": 2**29}  # loaded by the first step: kernels, contexts
MOST_BYTES_A_PIXEL = 2**20  # more than any known network needs
LOOKED_AT = 20  # photos a source whose sizes are read
GIB = 2**30


@dataclass(frozen=True)
class MemoryNeed:
    """Estimated bytes of one process at the peak of a step.

    Attributes:
        process: interpreter and libraries, in the machine's memory.
        weights: parameters, gradients, Adam's moments, moving average, start.
        activations: of a step, forward and backward.
        photos: decoded ones that are kept, in the machine's memory.
    """

    process: int
    weights: int
    activations: int
    photos: int

    def on(self, device: torch.device) -> int:
        """Bytes in the memory of a device; on a GPU, those of the networks."""
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
    """The memory that a run needs, from steps on small patches and from photos' headers: it takes a second or two.

    Args:
        config: of the run.
        model: on the CPU, with its precision and gradient checkpointing set.
        sources: of photos, those of every role.
        device: to train on; None: the CPU.
    """
    kind = "cuda" if device is not None and device.type == "cuda" else "cpu"
    parameters = _bytes(model.parameters())
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    restorer = _bytes(p for p in model.restorer.parameters() if p.requires_grad)
    # gradients and Adam's two moments; the moving average, and the start where the result is blended with it
    weights = parameters + 3 * trained + (2 if config.blend < 1 else 1) * restorer
    process = max(0, psutil.Process().memory_info().rss - parameters) + LIBRARIES[kind]
    activations = int(OVERHEAD[kind] * step_bytes(config, model))
    photos = sum(map(decoded_bytes, sources)) * max(1, config.workers)
    return MemoryNeed(process, weights, activations, photos)


def step_bytes(config: TrainingConfig, model: Objective) -> float:
    """Peak of the tensors that a step makes, by two small steps: it grows in proportion to the pixels."""
    sides = small_sides(config, model)
    samples = min(SAMPLES, config.batch_size)
    pixels = [samples * side**2 for side in sides]
    peaks = [_measured(config, model, samples, side) for side in sides]
    if len(sides) == 1:
        return peaks[0] * config.batch_size / samples
    slope = (peaks[1] - peaks[0]) / (pixels[1] - pixels[0])
    return peaks[0] + slope * (config.batch_size * config.patch**2 - pixels[0])


def small_sides(config: TrainingConfig, model: Objective) -> list[int]:
    """Two sides of patches that the model takes, smaller than the run's; or the run's own, where that is small."""
    parts = (model.restorer, *model.networks.values(), model)
    multiple = math.lcm(*(RestorerContract.of(part).size_multiple for part in parts))
    side = multiple * -(-max(SMALL_SIDE, model.smallest_side) // multiple)
    return [side, 2 * side] if 2 * side < config.patch else [config.patch]


def random_photos(config: TrainingConfig, model: Objective, samples: int, side: int) -> list[torch.Tensor]:
    """A batch of noise for a joint step: four of (B, C, H, W)."""
    shape = (samples, RestorerContract.of(model.restorer).channels, side, side)
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator, dtype=getattr(torch, config.dtype)) for _ in range(4)]


@contextlib.contextmanager
def unchanged(model: Objective):
    """Context that restores the model (gradients, statistics of batch norms) and torch's generator afterwards."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[]):
        yield
    model.zero_grad()
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _measured(config: TrainingConfig, model: Objective, samples: int, side: int) -> int:
    precision: Any = contextlib.nullcontext()
    if config.mixed_precision != "no":
        precision = torch.autocast("cpu", dtype=torch.bfloat16)
    with unchanged(model):
        photos = random_photos(config, model, samples, side)
        with LiveBytes() as live:
            with precision:
                output = model(Batch(*photos), generator=torch.Generator().manual_seed(0))
            output.loss.backward()
        del output
    return live.peak


def _bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def decoded_bytes(source: PhotoSource) -> int:
    """Bytes of the photos that a source keeps decoded, by some of their headers."""
    if not source.cache_bytes or source.count is None:  # a stream keeps none
        return 0
    sizes = []
    for index in source.spread(LOOKED_AT):
        with contextlib.suppress(OSError, UnreadablePhotoError):
            width, height = source.size(index)
            sizes.append(width * height * source.channels)
    return min(source.cache_bytes, sum(sizes) * source.count // len(sizes)) if sizes else 0


def check_memory(
    config: TrainingConfig, model: Objective, sources: Sequence[PhotoSource], device: torch.device
) -> None:
    """Refuses a run that needs more memory than is free; a step that is certainly small is not measured.

    Args:
        config, model, sources, device: as for `memory_need`.

    Raises:
        ConfigurationError: with the memory needed, the free memory, and options that need less.
    """
    if not config.check_memory:
        return
    free = free_memory(device)
    pixels = config.batch_size * config.patch**2
    if pixels * MOST_BYTES_A_PIXEL + 8 * _bytes(model.parameters()) < free:
        return
    need = memory_need(config, model, sources, device)
    # the card is still empty; this process has some of the machine's memory already
    more = need.on(device) - (0 if device.type == "cuda" else psutil.Process().memory_info().rss)
    processes = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if more * processes <= free:
        return
    fits = int(config.batch_size * (free / processes - more + need.activations) / need.activations)
    smaller = f"`batch_size` {fits} with `gradient_accumulation_steps`" if fits >= 1 else "a smaller `patch`"
    place = "card" if device.type == "cuda" else "machine"
    raise ConfigurationError(
        f"`batch_size` {config.batch_size} of `patch` {config.patch} needs {need}"
        + (f" in each of {processes} processes" if processes > 1 else "")
        + f", and {free / GIB:.2f} GiB are free on this {place}: {smaller} would fit; `gradient_checkpointing` and "
        "`separate_passes` need less; `check_memory` false starts all the same"
    )
