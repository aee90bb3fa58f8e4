"""What a run would need, without running it: `--dry_run`."""

from dataclasses import asdict, replace

import torch
import yaml

from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from . import setup
from .adaptation import NoiseSpaceAdaptation
from .config import TrainingConfig


def activation_bytes(model: NoiseSpaceAdaptation, channels: int, patch: int) -> int:
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


def describe(config: TrainingConfig) -> str:
    """The resolved options (YAML, can be passed back), parameter counts and the memory that a process needs."""
    model = setup.build_model(config)
    channels = DAARestorationPipeline(model.restorer).channels
    dataset = setup.build_dataset(config, channels, length=1)
    counts = {"restorer": setup.parameter_count(model.restorer), "noise predictor": setup.parameter_count(model.unet)}
    # weights, gradients and Adam's two moments, and the restorer's moving average, all float32
    fixed = 4 * (4 * sum(counts.values()) + counts["restorer"])
    activations = activation_bytes(model, channels, config.patch) * config.batch_size
    if config.mixed_precision != "no":
        activations //= 2
    photos = setup.training_photos(dataset)
    lines = [yaml.safe_dump(asdict(replace(config, dry_run=False)), sort_keys=False)]
    lines += [f"# {name}: {count:,} parameters" for name, count in counts.items() if count]
    lines += [f"# {role}: " + ", ".join(f"{f['photos']} photos" for f in folders) for role, folders in photos.items()]
    lines += [
        f"# memory a process: about {(fixed + activations) / 2**30:.2f} GiB "
        f"({fixed / 2**30:.2f} weights and optimizer, {activations / 2**30:.2f} activations) plus photos",
        f"# samples a step and process: {config.batch_size * config.gradient_accumulation_steps}",
    ]
    return "\n".join(lines)
