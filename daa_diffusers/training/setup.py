"""Construction of networks, sources, samples and the optimizer from options."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..degradations.base import degradation_from_config
from ..degradations.fitting.inspection import Inspection
from ..errors import ConfigurationError
from ..hub.resolving import resolve
from ..models.registry import new_restorer
from ..models.restorer import RestorerContract
from ..objectives.base import Objective
from ..objectives.registry import build_objective
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from ..sources.sampling import TrainingPatches
from ..sources.specs import PhotoFolder, PhotoSource, check_sources, open_source
from .adapter_training import add_adapter
from .config import TrainingConfig
from .optimizers import OPTIMIZERS

logger = logging.getLogger(__name__)

Sources = Mapping[str, Sequence[PhotoSource]]  # by role
Photos = dict[str, list[dict[str, Any]]]  # record of the photos of a run, by role


@dataclass(frozen=True)
class Inputs:
    """Initial restorer and photos of a run, opened once and shared.

    Attributes:
        restorer: the initial restorer.
        sources: opened sources, by role.
        inspections: results of `real_photos.inspect_all` for the real photos; None: not inspected yet.
    """

    restorer: nn.Module
    sources: dict[str, list[PhotoSource]]
    inspections: Sequence[Inspection] | None = None


def build_restorer(config: TrainingConfig) -> nn.Module:
    """Builds the initial restorer of a run; new weights are a function of `config.seed`."""
    torch.manual_seed(config.seed)
    if not config.init_from:
        return new_restorer(config.restorer, value_range=config.value_range)
    resolve(config.init_from, "init_from")
    pipeline = DAARestorationPipeline.from_pretrained(config.init_from, trust_remote_code=config.trust_remote_code)
    restorer = pipeline.restorer.float()
    add_adapter(config, restorer)
    return restorer


def build_model(config: TrainingConfig, restorer: nn.Module | None = None) -> Objective:
    """Builds the objective of a run with its restorer; new weights are a function of `config.seed`.

    Args:
        config: options of the run.
        restorer: result of `build_restorer`, if already built.

    Raises:
        ConfigurationError: an option of the objective, or `patch`, is invalid.
    """
    if restorer is None:
        restorer = build_restorer(config)
    else:
        torch.manual_seed(config.seed)
    model = build_objective(config.objective, restorer)
    objective = config.objective["type"]
    for name, module in {"restorer": restorer, **model.networks, objective: model}.items():
        multiple = RestorerContract.of(module).size_multiple
        if config.patch % multiple:
            raise ConfigurationError(f"`patch` must be a multiple of {multiple} for this {name}, got {config.patch}")
    if config.patch < model.smallest_side:
        raise ConfigurationError(f"`patch` must be at least {model.smallest_side} for {objective}, got {config.patch}")
    return model.train()


def open_sources(config: TrainingConfig, option: str, channels: int) -> list[PhotoSource]:
    """Opens the sources that an option, such as "real", names."""
    return [open_source(spec, channels=channels, argument=option) for spec in getattr(config, option)]


def open_all_sources(
    config: TrainingConfig, channels: int, *, real: list[PhotoSource] | None = None
) -> dict[str, list[PhotoSource]]:
    """Opens the sources of a run, by role, and checks them by `sources.specs.check_sources`.

    Args:
        config: options of the run.
        channels: number of channels of the restorer.
        real: sources of the role "real", if already open.

    Raises:
        ConfigurationError: a source cannot be opened, holds no photos, or fails a check.
    """
    roles = ["clean", "paired_degraded", "paired_clean"]
    if config.reads("real") or config.prepares:
        roles.append("real")
    if config.reads("real"):
        roles.append("unpaired_clean")
    opened = {"real": real}
    sources = {role: opened.get(role) or open_sources(config, role, channels) for role in roles}
    logger.info("preparing: checking the photos")
    check_sources(sources, config.patch)
    return sources


def build_dataset(
    config: TrainingConfig, sources: Sources, length: int = 1, *, with_real: bool = False
) -> TrainingPatches:
    """Builds the numbered training samples of a run; sample n is the same in every process and at every read.

    Args:
        config: options of the run.
        sources: result of `open_all_sources`.
        length: number of samples.
        with_real: whether samples have a real photo even if the objective reads none.

    Raises:
        ConfigurationError: paired photos do not match.
    """
    unpaired = sources.get("unpaired_clean")
    if config.reads("unpaired_clean") and not unpaired:  # one choice for all processes, not from the batch
        unpaired = sources["clean"] or sources["paired_clean"]
    return TrainingPatches(
        sources["clean"],
        degradation_from_config(config.degradation) if config.degradation and config.clean else None,
        real=sources["real"] if with_real or config.reads("real") else None,
        unpaired_clean=unpaired,
        paired=list(zip(sources["paired_degraded"], sources["paired_clean"], strict=True)),
        patch=config.patch,
        length=length,
        seed=config.seed,
        clean_scale=config.clean_scale,
        clean_color=config.clean_color,
        quarter_turns=config.quarter_turns,
    )


def build_optimizer(
    config: TrainingConfig, model: Objective, device: torch.device | None = None
) -> torch.optim.Optimizer:
    """Builds one optimizer for all networks (docs/method.md, step 6); Adam's updates are fused on CUDA."""
    groups = [{"params": [p for p in model.restorer.parameters() if p.requires_grad], "lr": config.learning_rate}]
    for network in model.networks.values():
        rate = config.predictor_learning_rate or config.learning_rate
        groups.append({"params": list(network.parameters()), "lr": rate})
    fused = True if device is not None and device.type == "cuda" else None
    return OPTIMIZERS[config.optimizer](groups, lr=config.learning_rate, fused=fused)


def prepare_networks(config: TrainingConfig, model: Objective) -> Objective:
    """Sets the precision, gradient checkpointing and compilation of the networks.

    Raises:
        ConfigurationError: a network does not support gradient checkpointing.
    """
    model = model.to(dtype=getattr(torch, config.dtype))
    for network in (model.restorer, *model.networks.values()):
        if config.gradient_checkpointing:
            if RestorerContract.of(network).has_gradient_checkpointing:
                network.enable_gradient_checkpointing()  # type: ignore[operator]
            elif network is model.restorer:  # the other networks of most objectives are small
                raise ConfigurationError(f"`gradient_checkpointing`: {type(network).__name__} does not support it")
        if config.compile:
            network.compile()
    return model


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Returns the total size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _recorded_name(source: PhotoSource, label: Path | str) -> str:
    """Returns the name of a photo or shard for records, relative to its source."""
    if isinstance(label, str):
        return label
    return label.relative_to(source.folder).as_posix() if isinstance(source, PhotoFolder) else label.name


def training_photos(dataset: TrainingPatches, real: Sequence[PhotoSource] = ()) -> Photos:
    """Returns a record of the photos of a run for the model card, by role.

    Args:
        dataset: samples of the run.
        real: sources of the real photos, for runs that only prepare files from them: `dataset` then has none.

    Returns:
        For every source its name ("folder"), number of "photos" (None for a stream of unknown length), "fingerprint",
        and the photos and shards "skipped" so far (name -> reason).
    """
    pairs = dataset.paired or []
    roles = {
        "clean": dataset.clean,
        "real": dataset.real or real,
        "unpaired_clean": dataset.unpaired_clean,
        "paired_degraded": [degraded for degraded, _ in pairs],
        "paired_clean": [clean for _, clean in pairs],
    }
    return {
        role: [
            {
                "folder": source.name,
                "photos": source.count,
                "fingerprint": source.fingerprint(),
                "skipped": {_recorded_name(source, label): reason for label, reason in source.skipped.items()},
            }
            for source in sources
        ]
        for role, sources in roles.items()
        if sources
    }
