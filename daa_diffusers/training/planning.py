"""Plan of a run for `--dry_run`: resolved options, memory and time."""

import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml

from ..models.restorer import RestorerContract
from ..objectives.base import Batch, Objective
from ..pipelines.tiling import free_memory
from ..sources.folders import PhotoSource
from . import setup
from .config import TrainingConfig
from .log import duration_text
from .memory_need import SAMPLES, memory_need, random_photos, small_sides, state_restored
from .output import check_output


def seconds_per_sample(config: TrainingConfig, model: Objective) -> float:
    """Estimates the seconds per sample of a step on the CPU from a small patch, in proportion to the pixels.

    Call `memory_need` first, which warms up the kernels.
    """
    side, samples = small_sides(config, model)[-1], min(SAMPLES, config.batch_size)
    with state_restored(model):
        photos = random_photos(config, model, samples, side)
        start = time.perf_counter()
        model(Batch(*photos), generator=torch.Generator().manual_seed(0)).loss.backward()
        seconds = time.perf_counter() - start
    return seconds / samples * (config.patch / side) ** 2


def _photos(source: PhotoSource) -> str:
    return "a stream of photos" if source.count is None else f"{source.count} photos"


def describe(config: TrainingConfig, shown: TrainingConfig | None = None) -> str:
    """Returns a text with the resolved options (as YAML), parameter counts, photos, and the memory and time needed.

    Only the headers of photos are read. Time and memory are estimated from small patches on the CPU, within seconds.

    Args:
        config: options of the run.
        shown: options to print instead of `config`, if the photos of the run will be at other paths.

    Raises:
        ConfigurationError: options, photos or the output folder are invalid.
    """
    check_output(Path(config.output_dir))
    if config.threads:
        torch.set_num_threads(config.threads)
    model = setup.prepare_networks(replace(config, compile=False), setup.build_model(config))
    by_role = setup.open_all_sources(config, RestorerContract.of(model.restorer).channels)
    setup.build_dataset(config, by_role)  # raises if pairs do not match
    need = memory_need(config, model, [source for sources in by_role.values() for source in sources])
    samples = config.total_batch_size or config.batch_size * config.gradient_accumulation_steps
    seconds = seconds_per_sample(config, model) * samples
    duration = f"about {duration_text(seconds * config.steps)} on this CPU"
    if config.minutes:
        duration = f"{config.minutes:g} minutes"
    lines = [yaml.safe_dump(asdict(replace(shown or config, dry_run=False)), sort_keys=False)]
    for name, network in {"restorer": model.restorer, **model.networks}.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        lines.append(f"# {name.replace('_', ' ')}: {count:,} parameters")
    lines += [f"# {role}: " + ", ".join(map(_photos, sources)) for role, sources in by_role.items() if sources]
    lines += [
        f"# memory of a process: {need}; {free_memory(torch.device('cpu')) / 2**30:.2f} GiB are free on this machine",
        f"# time: {duration} in one process, {seconds:.2f} s per step of {samples} samples",
    ]
    return "\n".join(lines)
