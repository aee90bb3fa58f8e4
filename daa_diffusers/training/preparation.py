"""Preparation of a run from its real photos: fitted degradations, pseudo-clean photos and residuals.

`FITS` has an entry for each degradation that is fitted; `prepare_files` lists what is restored.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..degradations.base import Degradation, degradation_from_config
from ..degradations.blur import MotionBlur
from ..degradations.config_files import read_degradation, write_degradation
from ..degradations.filters import gaussian_filter
from ..degradations.fitting.inspection import MAX_PHOTOS, Inspection
from ..degradations.fitting.noise import Restorer, TooStrongError, fit_noise
from ..degradations.fitting.profile import MIN_PHOTOS, Profile
from ..degradations.fitting.rain import fit_rain
from ..degradations.fitting.shake import fit_shake
from ..degradations.mixture import Mixture
from ..degradations.transplant import Transplant, write_residual
from ..errors import ConfigurationError
from ..evaluation.folders import restore
from ..files import replacing, write_text
from ..hub.record_files import degradations_in
from ..photos.pixels import center_crop, unit_float
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from ..sources.folders import PhotoFolder, PhotoSource
from ..sources.sampling import TrainingPatches
from .config import TrainingConfig
from .real_photos import INSPECTION, inspect_all, log_limited, per_source

logger = logging.getLogger(__name__)

# Files and folders in the folder of the run.
NOISE_FILE, RAIN_FILE, SHAKE_FILE = "noise.yaml", "rain.yaml", "shake.yaml"
# Unfit real photos, whose noise cannot be measured and which the run skips: for each source, index -> reason.
SKIPPED = "left_out.json"
PSEUDO_CLEAN = "pseudo_clean"
RESIDUALS = "residuals"
WRITTEN = (NOISE_FILE, RAIN_FILE, SHAKE_FILE, SKIPPED, PSEUDO_CLEAN, RESIDUALS)

FIT, RESTORATION = 0.12, 0.1  # maximum fractions of a time budget: fit of one degradation, restoration of photos
SPREAD = 1.5  # `FittedNoise.spread`: factor by which the range of noise levels is widened
GAIN = (1.0, 1.5)  # `Transplant.gain`: range of the factor of a residual
MOST_PHOTOS = 64  # maximum number of photos to restore for `pseudo_clean` and `transplant`, over all sources
MOST_SIDE = 768  # side in pixels of their center crops
STREAK_BLUR = 10.0  # standard deviation in pixels of the blur that separates light, haze and color from streaks


@dataclass(frozen=True)
class _Run:
    """What the files are made from: the arguments of `prepare_files`, with the restorer as a function."""

    config: TrainingConfig
    restore: Restorer
    folder: Path
    real: Sequence[PhotoSource]
    seconds_of: Callable[[float], float | None]
    inspections: Sequence[Inspection] | None


def as_function(restorer: nn.Module) -> Restorer:
    """Returns a function that restores a photo (C, H, W) in [0, 1] with the pipeline."""
    pipeline = DAARestorationPipeline(restorer)
    pipeline.set_progress_bar_config(disable=True)
    return lambda photo: restore(pipeline, photo).float()


# --- fitted degradations; nothing is written if the photos do not have the degradation ---


def _fit_noise(run: _Run) -> None:
    """Skips unfit photos, fits a noise degradation to every source, and writes their mixture with equal weights.

    If a source has few photos, one degradation is fitted to all sources together. Sources without noise are left out
    of the mixture. Nothing is written if the noise is too strong to be measured.

    Raises:
        ConfigurationError: no source has noise, or one has too few usable photos.
    """
    inspections = run.inspections
    if inspections is None:
        inspections = inspect_all(run.real, run.seconds_of(INSPECTION))
    write_text(run.folder / SKIPPED, json.dumps([inspection.unfit for inspection in inspections], indent=1) + "\n")
    _skip_unfit(run.real, run.folder)
    restorer = run.restore if run.config.init_from else None  # a new restorer removes no noise
    seconds = run.seconds_of(FIT)
    are_many = all(source.count is None or source.count >= MIN_PHOTOS for source in run.real)
    logger.info("preparing: estimating the noise of the real photos")
    try:
        if are_many:
            profiles = [fit_noise(source, restorer, per_source(seconds, run.real)) for source in run.real]
        else:
            profiles = [fit_noise(run.real, restorer, seconds)]
    except TooStrongError as error:
        message = "the noise of the real photos is too strong to be measured; the run uses `degradation` alone: %s"
        logger.warning(message, error)
        return
    comment = "\n\n".join(profile.describe() for profile in profiles)
    logger.info("noise of the real photos:\n%s", comment)
    used = sum(profile.photos + len(profile.skipped) for profile in profiles)  # skipped photos were examined as well
    log_limited("noise is fitted to", used, run.real, MAX_PHOTOS, seconds)
    noisy = [profile for profile in profiles if profile.degradation is not None]
    # if none is noisy, `to_degradation` raises the error
    fitted: list[Degradation] = [profile.to_degradation(spread=SPREAD) for profile in noisy or profiles]
    degradation = fitted[0] if len(fitted) == 1 else Mixture([(1, each) for each in fitted])
    write_degradation(degradation.to_config(), run.folder / NOISE_FILE, comment)


def _skip_unfit(sources: Sequence[PhotoSource], folder: Path) -> None:
    """Skips the photos in `SKIPPED`, of each source."""
    unfit = json.loads((folder / SKIPPED).read_text(encoding="utf-8"))
    for source, reasons in zip(sources, unfit, strict=True):
        for index, reason in reasons.items():  # indices are text in JSON
            source.skip(int(index), reason)


def _fit_rain(run: _Run) -> None:
    _write_fit(fit_rain(run.real, run.restore, run.seconds_of(FIT)), run.folder / RAIN_FILE, "rain")


def _fit_shake(run: _Run) -> None:
    shake = fit_shake(run.real, run.seconds_of(FIT), _motion_blur_of(run.config), run.config.fit_shake)
    _write_fit(shake, run.folder / SHAKE_FILE, "camera shake")


def _motion_blur_of(config: TrainingConfig) -> MotionBlur:
    """Returns the motion blur in `degradation`, which has at most one; the default one if it has none."""
    for part in degradations_in(config.degradation):
        degradation = degradation_from_config(part)
        if isinstance(degradation, MotionBlur):
            return degradation
    logger.warning("`degradation` has no motion_blur: the fitted shake has default tone curve, highlights and noise")
    return MotionBlur()


def _write_fit(profile: Profile, path: Path, what: str) -> None:
    """Writes a fitted degradation; writes nothing if the photos do not have it."""
    logger.info("%s of the real photos:\n%s", what, profile.describe())
    try:
        profile.save(path)
    except ConfigurationError as error:
        logger.warning("the run uses `degradation` alone: %s", error)


# File -> option with the share of the samples, and function that writes the file.
FITS: dict[str, tuple[str, Callable[[_Run], None]]] = {
    NOISE_FILE: ("fit_noise", _fit_noise),
    RAIN_FILE: ("fit_rain", _fit_rain),
    SHAKE_FILE: ("fit_shake", _fit_shake),
}


# --- restored photos ---


def _restore_all(
    run: _Run,
    name: str,
    write: Callable[[torch.Tensor, torch.Tensor, Path], None],
    chosen: Sequence[Sequence[int]] | None,
) -> list[list[int]]:
    """Restores center crops of some photos of every source, and writes a PNG file for each; existing ones are kept.

    Args:
        run: what they are made from.
        name: name of the folder of the files.
        write: function `(real, restored, path)` that writes a file; both crops are (C, H, W).
        chosen: indices of the photos of every source, from an earlier call; None: as many as the time limit allows,
            and at least `MIN_PHOTOS` in total if there are as many.

    Returns:
        Indices of the restored photos of every source.
    """
    logger.info("preparing: restoring the real photos (%s)", name)
    folder, sources = run.folder / name, run.real
    folder.mkdir(exist_ok=True)
    most = max(1, MOST_PHOTOS // len(sources))
    if chosen is not None and len(chosen) != len(sources):  # the run's sources were changed
        chosen = None
    limit = per_source(run.seconds_of(RESTORATION), sources) if chosen is None else None
    written: list[Path] = []

    def enough() -> bool:
        return len(written) >= MIN_PHOTOS

    restored: list[list[int]] = []
    for number, source in enumerate(sources):
        wanted = set(source.spread(most) if chosen is None else chosen[number])
        paths = {index: folder / f"{number:02d}-{index:06d}.png" for index in wanted}
        missing = {index: path for index, path in paths.items() if not path.exists()}
        for index, photo in source.sample(most, missing.__contains__, seconds=limit, enough=enough):
            real = unit_float(center_crop(photo, MOST_SIDE))
            write(real, run.restore(real), missing[index])
            written.append(missing[index])
        restored.append(sorted(index for index, path in paths.items() if path.exists()))
    log_limited(f"{name}:", sum(map(len, restored)), sources, most, limit)
    return restored


def _write_restored(real: torch.Tensor, restored: torch.Tensor, path: Path) -> None:
    """Writes the restored photo."""
    pixels = (restored.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (H, W, C)
    with replacing(path) as temporary:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")


def _write_residual(real: torch.Tensor, restored: torch.Tensor, path: Path) -> None:
    """Writes what the restorer removed."""
    write_residual(real - restored, path)


def _write_streaks(real: torch.Tensor, restored: torch.Tensor, path: Path) -> None:
    """Writes the part of what the restorer removed that is brighter than its surroundings."""
    removed = real - restored
    write_residual((removed - gaussian_filter(removed[None], STREAK_BLUR)[0]).clamp(min=0), path)


# --- all of them ---


def prepare_files(
    config: TrainingConfig,
    restorer: nn.Module,
    folder: Path,
    real: Sequence[PhotoSource],
    *,
    seconds_of: Callable[[float], float | None] = lambda fraction: None,
    inspections: Sequence[Inspection] | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the files for `fit_*`, `pseudo_clean` and `transplant` into the run's folder; existing files are kept.

    Args:
        config: options of the run.
        restorer: initial restorer; its train/eval mode is not changed.
        folder: folder of the run.
        real: real photos.
        seconds_of: function that maps the maximum fraction of the time budget for a stage to its time limit in seconds,
            from now; None: no limit. Each stage uses as many photos as fit into its time.
        inspections: result of `inspect_all` for `real`, if already inspected.
        prepared: result of an earlier call for the same run, whose photos are used again.

    Returns:
        JSON-plain record of the fits ("fitted") and of the restored photos, as indices by source ("pseudo_clean" and
        "residuals"); empty if nothing is prepared.

    Raises:
        ConfigurationError: fewer than 3 photos are usable for a fit, or the noise of more than half of the inspected
            ones cannot be measured (`check_inspections`). Too strong noise, and photos without rain or shake, are only
            logged as warnings.
    """
    if not config.prepares:
        return {}
    run = _Run(config, as_function(restorer), folder, real, seconds_of, inspections)
    before = prepared or {}
    record: dict[str, Any] = {"fitted": [file for file, (option, _) in FITS.items() if getattr(config, option)]}
    for file in record["fitted"]:
        if file not in before.get("fitted", ()) and not (folder / file).exists():
            FITS[file][1](run)
    if config.pseudo_clean:
        record[PSEUDO_CLEAN] = _restore_all(run, PSEUDO_CLEAN, _write_restored, before.get(PSEUDO_CLEAN))
    if config.transplant:
        write = _write_streaks if config.transplant_kind == "streaks" else _write_residual
        record[RESIDUALS] = _restore_all(run, RESIDUALS, write, before.get(RESIDUALS))
    return record


def use_files(config: TrainingConfig, dataset: TrainingPatches, folder: Path) -> None:
    """Adds the degradations and clean photos in the files of `prepare_files` to `dataset`; skips unfit real photos."""
    learned: list[tuple[float, Degradation]] = []
    if config.fit_noise and (folder / SKIPPED).exists() and dataset.real:
        _skip_unfit(dataset.real, folder)
    for file, (option, _) in FITS.items():
        share = getattr(config, option)
        if share and (folder / file).exists():  # not written if the photos have none, or too strong noise
            learned.append((share, degradation_from_config(read_degradation(folder / file))))
    if config.transplant:
        learned.append((config.transplant, Transplant(str(folder / RESIDUALS), GAIN, config.quarter_turns)))
    if learned:
        assert dataset.degradation is not None  # checked with the options
        rest = round(1 - sum(share for share, _ in learned), 9)  # 0 in spite of rounding errors
        if rest:
            learned.append((rest, dataset.degradation))
        dataset.degradation = Mixture(learned)
    if config.pseudo_clean:
        channels = dataset.clean[0].channels
        restored = PhotoFolder(folder / PSEUDO_CLEAN, channels=channels, argument="pseudo_clean")
        dataset.clean.append(restored)
        if dataset.unpaired_clean and not config.unpaired_clean:  # then they are the clean photos of pairs
            dataset.unpaired_clean.append(restored)
