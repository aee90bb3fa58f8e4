"""What a run would need, without running it: `--dry_run`."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
import yaml

from ..models.restorer import RestorerContract
from ..objectives.joint_step import JointStep
from . import setup
from .config import TrainingConfig
from .log import duration_text


def activation_bytes(model: JointStep, channels: int, patch: int) -> int:
    """Bytes that one sample's joint step keeps for its backward pass, measured on a step of a single sample."""
    seen: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = [torch.rand(1, channels, patch, patch) for _ in range(4)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(*images, generator=torch.Generator().manual_seed(0))
    del output
    return sum(seen.values())


def seconds_per_sample(model: JointStep, channels: int, patch: int) -> float:
    """Seconds of one sample's joint step, forward and backward, on the CPU; in a batch it costs as much or less."""
    images = [torch.rand(1, channels, patch, patch) for _ in range(4)]
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        model(*images, generator=torch.Generator().manual_seed(0)).loss.backward()
    model.zero_grad()
    return time.perf_counter() - start


def seconds_per_batch(step: Callable[[Any], object], batches: Iterable) -> float:
    """Mean seconds of `step(batch)` over `batches`, at least two; the first warms up and is not counted."""
    times = []
    for batch in batches:
        start = time.perf_counter()
        step(batch)
        times.append(time.perf_counter() - start)
    return sum(times[1:]) / len(times[1:])


def _photos(source: dict[str, Any]) -> str:
    return "a stream of photos" if source["photos"] is None else f"{source['photos']} photos"


def describe(config: TrainingConfig, shown: TrainingConfig | None = None) -> str:
    """The resolved options (YAML, can be passed back), parameter counts, photos, and the memory and time needed.

    The options are those of `shown`, where photos lie elsewhere for this than they will in the run. Time is measured on
    one sample on the CPU; on a GPU it is an upper bound, and `minutes` measures there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    model = setup.build_model(config)
    channels = RestorerContract.of(model.restorer).channels
    dataset = setup.build_dataset(config, channels, length=1)
    trained = {"restorer": model.restorer, **model.networks}
    counts = {name.replace("_", " "): setup.parameter_count(network) for name, network in trained.items()}
    # all weights; gradients and Adam's two moments; the restorer's moving average: float32
    fixed = 4 * (setup.parameter_count(model) + 3 * sum(counts.values()) + counts["restorer"])
    activations = activation_bytes(model, channels, config.patch) * config.batch_size
    if config.mixed_precision != "no":
        activations //= 2
    samples = config.total_batch_size or config.batch_size * config.gradient_accumulation_steps
    seconds = seconds_per_sample(model, channels, config.patch) * samples
    duration = (
        f"{config.minutes:g} minutes"
        if config.minutes
        else f"about {duration_text(seconds * config.steps)} on this CPU"
    )
    photos = setup.training_photos(dataset)
    lines = [yaml.safe_dump(asdict(replace(shown or config, dry_run=False)), sort_keys=False)]
    lines += [f"# {name}: {count:,} parameters" for name, count in counts.items() if count]
    lines += [f"# {role}: " + ", ".join(map(_photos, sources)) for role, sources in photos.items()]
    lines += [
        f"# memory a process: about {(fixed + activations) / 2**30:.2f} GiB "
        f"({fixed / 2**30:.2f} weights and optimizer, {activations / 2**30:.2f} activations) plus photos",
        f"# time: {duration} in one process, {seconds:.2f} s a step of {samples} samples",
    ]
    return "\n".join(lines)
