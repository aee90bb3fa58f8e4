"""Preparation of a run from its real photos: fitted degradations, pseudo-clean photos and residuals."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..degradations.base import Degradation, degradation_from_config
from ..degradations.config_files import read_degradation, write_degradation
from ..degradations.draws import generator_for
from ..degradations.filters import gaussian_filter
from ..degradations.fitting.choosing import Choice, check_choices, inspect_photos
from ..degradations.fitting.noise import Restorer, TooStrongError, fit_noise
from ..degradations.fitting.profile import MIN_PHOTOS, Profile
from ..degradations.fitting.rain import fit_rain
from ..degradations.fitting.shake import fit_shake
from ..degradations.mixture import Mixture
from ..degradations.transplant import Transplant, write_residual
from ..errors import ConfigurationError
from ..files import replacing, write_text
from ..objectives.base import Objective
from ..photos.pixels import center_crop, unit_float
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from ..sources.folders import PhotoFolder, PhotoSource
from ..sources.sampling import TrainingPatches
from .config import TrainingConfig
from .held_out import pairs_apart

logger = logging.getLogger(__name__)

NOISE_FILE, RAIN_FILE, SHAKE_FILE = "noise.yaml", "rain.yaml", "shake.yaml"
SKIPPED = "left_out.json"  # real photos whose noise cannot be measured: for each source, index and reason
PSEUDO_CLEAN = "pseudo_clean"
RESIDUALS = "residuals"
MOST_PHOTOS = 64  # number of photos that are restored for `pseudo_clean` and `transplant`, over all sources
MOST_SIDE = 768  # side in pixels of their center crops
SPREAD = 1.5  # see FittedNoise
GAIN = (1.0, 1.5)  # see Transplant
MEASURED_PHOTOS = 9  # number of photos that an objective measures, over all sources
MEASURED_SIDE = 256  # side in pixels of their center crops
MEASURED_PATCHES = 16  # number of clean patches for the measurements
STREAK_BLUR = 10.0  # pixels, standard deviation of the blur that separates light, haze and color from streaks


def prepare_files(config: TrainingConfig, restorer: nn.Module, folder: Path, real: Sequence[PhotoSource]) -> None:
    """Writes the files for `fit_*`, `pseudo_clean` and `transplant` into the run's folder; existing ones are kept.

    Args:
        config: options of the run.
        restorer: initial restorer; its train/eval mode is not changed.
        folder: folder of the run.
        real: real photos.

    Raises:
        ConfigurationError: no photo is suitable (`fitting.choosing.check_choices`), or the noise of the real photos
            cannot be estimated.
    """
    if not config.prepares:
        return
    if config.fit_noise and not (folder / NOISE_FILE).exists():
        _skip_unfit(real, folder / SKIPPED)
        _fit(real, as_function(restorer) if config.init_from else None, folder / NOISE_FILE)
    if config.fit_rain and not (folder / RAIN_FILE).exists():
        _fit_other(fit_rain(real, as_function(restorer)), folder / RAIN_FILE, "rain")
    if config.fit_shake and not (folder / SHAKE_FILE).exists():
        _fit_other(fit_shake(real), folder / SHAKE_FILE, "camera shake")
    if config.pseudo_clean:
        _restore_all(as_function(restorer), real, folder / PSEUDO_CLEAN, _write_restored)
    if config.transplant:
        write = _write_streaks if config.transplant_kind == "streaks" else _write_removed
        _restore_all(as_function(restorer), real, folder / RESIDUALS, write)


def measure_for(model: Objective, real: Sequence[PhotoSource], dataset: TrainingPatches) -> dict[str, Any]:
    """Measures the photos for the objective, see `Objective.measure`; deterministic for the run's seed.

    Raises:
        ConfigurationError: the restorer or the photos are unsuitable for the objective.
    """
    photos = measured_photos(real)
    (clean,) = pairs_apart(dataset, "objective", MEASURED_PATCHES, MEASURED_PATCHES)
    return model.measure(photos, clean["clean"], generator_for(dataset.seed, "objective", "measure"))


def measured_photos(real: Sequence[PhotoSource]) -> Iterator[torch.Tensor]:
    """Yields center crops (C, H, W) in [0, 1] of a few photos, equally many of each source."""
    share = max(1, MEASURED_PHOTOS // max(1, len(real)))
    return (unit_float(center_crop(photo, MEASURED_SIDE)) for source in real for _, photo in source.sample(share))


def use_files(config: TrainingConfig, dataset: TrainingPatches, folder: Path) -> None:
    """Changes `dataset` to use the files of `prepare_files`."""
    learned: list[tuple[float, Degradation]] = []
    if config.fit_noise and (folder / SKIPPED).exists() and dataset.real:
        _skip(dataset.real, [Choice(0, {int(i): why for i, why in one.items()}) for one in _read(folder / SKIPPED)])
    fits = (config.fit_noise, NOISE_FILE), (config.fit_rain, RAIN_FILE), (config.fit_shake, SHAKE_FILE)
    for share, name in fits:
        if share and (folder / name).exists():  # no file if the noise is too strong to be measured, or without rain
            learned.append((share, degradation_from_config(read_degradation(folder / name))))
    if config.transplant:
        learned.append((config.transplant, Transplant(str(folder / RESIDUALS), GAIN, config.quarter_turns)))
    if learned:
        assert dataset.degradation is not None  # checked with the options
        rest = round(1 - sum(share for share, _ in learned), 9)
        dataset.degradation = Mixture([*learned, *([(rest, dataset.degradation)] if rest else [])])
    if config.pseudo_clean:
        first = dataset.clean[0]
        restored = PhotoFolder(folder / PSEUDO_CLEAN, channels=first.channels, argument="pseudo_clean")
        dataset.clean.append(restored)
        if dataset.unpaired_clean and not config.unpaired_clean:
            dataset.unpaired_clean.append(restored)


def _skip_unfit(sources: Sequence[PhotoSource], path: Path) -> None:
    """Skips real photos whose noise cannot be measured, and writes them to `path` for a resumed run."""
    choices = [inspect_photos(source) for source in sources]
    check_choices(sources, choices)
    write_text(path, json.dumps([choice.unfit for choice in choices], indent=1) + "\n")
    _skip(sources, choices)


def _skip(sources: Sequence[PhotoSource], choices: Sequence[Choice]) -> None:
    for source, choice in zip(sources, choices, strict=True):
        for index, reason in choice.unfit.items():
            source.skip(index, reason)


def _read(path: Path) -> list[dict[str, str]]:
    return json.loads(path.read_text(encoding="utf-8"))


def _fit(sources: Sequence[PhotoSource], restore: Restorer | None, path: Path) -> None:
    """Fits the noise of every source and writes their mixture with equal weights.

    If a source has few photos, one noise is fitted to all sources together. Nothing is written if the noise is too
    strong to be measured.
    """
    are_many = all(source.count is None or source.count >= MIN_PHOTOS for source in sources)
    logger.info("preparing: estimating the noise of the real photos")
    try:
        profiles = [fit_noise(source, restore) for source in sources] if are_many else [fit_noise(sources, restore)]
    except TooStrongError as error:
        logger.warning(
            "the noise of the real photos is too strong to be measured; the run uses `degradation` alone: %s",
            error,
        )
        return
    comment = "\n\n".join(profile.describe() for profile in profiles)
    logger.info("noise of the real photos:\n%s", comment)
    noisy = [profile for profile in profiles if profile.degradation is not None]
    degradations = [profile.to_degradation(spread=SPREAD) for profile in noisy or profiles]
    one = degradations[0] if len(degradations) == 1 else Mixture([(1, degradation) for degradation in degradations])
    write_degradation(one.to_config(), path, comment)


def _fit_other(profile: Profile, path: Path, what: str) -> None:
    """Writes the fitted degradation; nothing if the photos have none."""
    logger.info("%s of the real photos:\n%s", what, profile.describe())
    try:
        profile.save(path)
    except ConfigurationError as error:
        logger.warning("the run uses `degradation` alone: %s", error)


def as_function(restorer: nn.Module) -> Restorer:
    """Returns a function that restores a photo (C, H, W) in [0, 1] with the pipeline."""
    pipeline = DAARestorationPipeline(restorer)
    pipeline.set_progress_bar_config(disable=True)

    def restore(photo: torch.Tensor) -> torch.Tensor:
        (restored,) = pipeline(photo, output_type="pt", return_dict=False)
        return torch.as_tensor(restored[0]).float().cpu()

    return restore


def _restore_all(
    restore: Restorer,
    sources: Sequence[PhotoSource],
    folder: Path,
    write: Callable[[torch.Tensor, torch.Tensor, Path], None],
) -> None:
    """Restores center crops of some photos of every source, and writes a PNG file for each."""
    logger.info("preparing: restoring the real photos (%s)", folder.name)
    folder.mkdir(exist_ok=True)
    share = max(1, MOST_PHOTOS // len(sources))
    for number, source in enumerate(sources):
        paths = {index: folder / f"{number:02d}-{index:06d}.png" for index in source.spread(share)}
        missing = {index: path for index, path in paths.items() if not path.exists()}
        for index, photo in source.sample(share, missing.__contains__):
            real = unit_float(center_crop(photo, MOST_SIDE))
            write(real, restore(real), missing[index])


def _write_restored(real: torch.Tensor, restored: torch.Tensor, path: Path) -> None:
    pixels = (restored.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (H, W, C)
    with replacing(path) as temporary:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")


def _write_streaks(real: torch.Tensor, restored: torch.Tensor, path: Path) -> None:
    removed = real - restored
    write_residual((removed - gaussian_filter(removed[None], STREAK_BLUR)[0]).clamp(min=0), path)


def _write_removed(real: torch.Tensor, restored: torch.Tensor, path: Path) -> None:
    write_residual(real - restored, path)
