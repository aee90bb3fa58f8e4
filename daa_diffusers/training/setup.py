"""From options to objects: networks, data, optimizer, and the output folder that belongs to one run."""

import json
import logging
import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.degradations import degradation_from_config
from ..data.photos import PhotoFolder
from ..data.sampling import TrainingPatches
from ..errors import ConfigurationError
from ..models.daa_unet import DAAUNet2DConditionModel
from ..models.restoration_unet import RestorationUNet
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from .adaptation import NoiseSpaceAdaptation
from .config import TrainingConfig

logger = logging.getLogger(__name__)

RECORDED_PACKAGES = ("daa-diffusers", "torch", "diffusers", "accelerate", "numpy", "safetensors")


def build_model(config: TrainingConfig) -> NoiseSpaceAdaptation:
    """The joint module; new weights are a function of `config.seed`."""
    torch.manual_seed(config.seed)
    if config.init_from:
        restorer = DAARestorationPipeline.from_pretrained(config.init_from).restorer.float()
    else:
        restorer = RestorationUNet.from_preset(config.restorer, value_range=config.value_range)
    unet = None
    if config.variant != "vanilla":
        if config.noise_predictor_from:
            unet = DAAUNet2DConditionModel.from_pretrained(config.noise_predictor_from)
        else:
            unet = DAAUNet2DConditionModel.from_preset(config.noise_predictor, **config.noise_predictor_options)
    model = NoiseSpaceAdaptation(
        restorer,
        unet,
        variant=config.variant,
        channel_shuffle=config.channel_shuffle,
        residual_swap=config.residual_swap,
        weight=config.weight,
        weight_schedule=config.weight_schedule,
        margin=config.margin,
        charbonnier_eps=config.charbonnier_eps,
        timestep_range=config.timestep_range,
    )
    for name, part in (("restorer", restorer), ("noise_predictor", unet)):
        multiple = getattr(part, "size_multiple", 1)
        if config.patch % multiple:
            raise ConfigurationError(f"`patch` must be a multiple of {multiple} for this {name}, got {config.patch}")
    return model.train()


def _folders(config: TrainingConfig, option: str, channels: int) -> list[PhotoFolder] | None:
    cache_bytes = int(config.cache_gib * 2**30)
    folders = [
        PhotoFolder(folder, channels=channels, cache_bytes=cache_bytes, argument=option)
        for folder in getattr(config, option)
    ]
    return folders or None


def build_dataset(config: TrainingConfig, channels: int, length: int) -> TrainingPatches:
    """The numbered training samples of a run; sample n is the same whoever asks for it, and when."""
    paired = None
    if config.paired_clean:
        degraded = _folders(config, "paired_degraded", channels) or []
        paired = list(zip(degraded, _folders(config, "paired_clean", channels) or [], strict=True))
    adapts = config.variant != "vanilla"
    return TrainingPatches(
        _folders(config, "clean", channels) or [],
        degradation_from_config(config.degradation) if config.degradation and config.clean else None,
        real=_folders(config, "real", channels) if adapts else None,
        unpaired_clean=_folders(config, "unpaired_clean", channels) if adapts else None,
        paired=paired,
        patch=config.patch,
        length=length,
        seed=config.seed,
    )


def build_optimizer(config: TrainingConfig, model: NoiseSpaceAdaptation) -> torch.optim.Optimizer:
    """One Adam over both networks (METHOD, step 6)."""
    groups = [{"params": list(model.restorer.parameters()), "lr": config.learning_rate}]
    if model.unet is not None:
        rate = config.predictor_learning_rate or config.learning_rate
        groups.append({"params": list(model.unet.parameters()), "lr": rate})
    return torch.optim.Adam(groups, lr=config.learning_rate)


def parameter_count(module: nn.Module | None) -> int:
    """Number of parameters; 0 for None."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def training_photos(dataset: TrainingPatches) -> dict[str, list[dict[str, Any]]]:
    """What a run was trained on, for the model card: folders by role, with counts, fingerprints and skipped files."""
    pairs = dataset.paired or []
    roles = {
        "clean": dataset.clean,
        "real": dataset.real,
        "unpaired_clean": dataset.unpaired_clean,
        "paired_degraded": [degraded for degraded, _ in pairs],
        "paired_clean": [clean for _, clean in pairs],
    }
    return {
        role: [
            {
                "folder": f.folder.name,
                "photos": len(f),
                "fingerprint": f.fingerprint(),
                "skipped": [p.name for p in f.skipped],
            }
            for f in folders
        ]
        for role, folders in roles.items()
        if folders
    }


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` beside `path` and renames it, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def claim_output(config: TrainingConfig) -> dict[str, Any]:
    """Makes `config.output_dir` this run's, or finds that it already is; returns its record (`run.json`).

    Raises:
        ConfigurationError: the folder belongs to a run with other options (each is named), or holds foreign files.
    """
    folder = Path(config.output_dir)
    record = folder / "run.json"
    # through JSON, because tuples come back as lists
    identity = json.loads(json.dumps(config.identity()))
    if record.exists():
        known = json.loads(record.read_text())
        differences = [
            f"{name}: {known['options'].get(name)!r} there, {identity.get(name)!r} now"
            for name in sorted(set(known["options"]) | set(identity))
            if known["options"].get(name) != identity.get(name)
        ]
        if differences:
            raise ConfigurationError(
                f"`output_dir` {str(folder)!r} belongs to a run with other options; choose another folder or the same "
                "options:\n- " + "\n- ".join(differences)
            )
        return known
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            f"`output_dir` must be a new or empty folder, or one of the same run, got {str(folder)!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    known = {"options": identity, "steps": None, "git_commit": _git_commit(), "versions": _versions()}
    write_atomically(record, json.dumps(known, indent=2))
    return known


def _versions() -> dict[str, str]:
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
