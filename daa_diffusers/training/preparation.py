"""Preparation of a run from its real photos: fitted degradations, pseudo-clean photos and residuals."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..degradations.base import Degradation, degradation_from_config
from ..degradations.blur import MotionBlur
from ..degradations.config_files import read_degradation, write_degradation
from ..degradations.draws import generator_for
from ..degradations.filters import gaussian_filter
from ..degradations.fitting.choosing import MAX_PHOTOS, Choice, check_choices, inspect_photos
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
# Unfit real photos, whose noise cannot be measured and which the run skips: for each source, index -> reason.
SKIPPED = "left_out.json"
PSEUDO_CLEAN = "pseudo_clean"
RESIDUALS = "residuals"
WRITTEN = (NOISE_FILE, RAIN_FILE, SHAKE_FILE, SKIPPED, PSEUDO_CLEAN, RESIDUALS)  # in the folder of the run
MOST_PHOTOS = 64  # maximum number of photos to restore for `pseudo_clean` and `transplant`, over all sources
MOST_SIDE = 768  # side in pixels of their center crops
SPREAD = 1.5  # `FittedNoise.spread`: factor by which the range of noise levels is widened
GAIN = (1.0, 1.5)  # `Transplant.gain`: range of the factor of a residual
MEASURED_PHOTOS = 9  # number of photos for the measurements of objectives and of `training.choosing`, over all sources
MEASURED_SIDE = 256  # side in pixels of their center crops
MEASURED_PATCHES = 16  # number of clean patches for the measurements
# Maximum fractions of a time budget: inspection of the noise, fit of one degradation, restoration of photos.
INSPECTION, FIT, RESTORATION = 0.1, 0.12, 0.1
STREAK_BLUR = 10.0  # standard deviation in pixels of the blur that separates light, haze and color from streaks


def prepare_files(
    config: TrainingConfig,
    restorer: nn.Module,
    folder: Path,
    real: Sequence[PhotoSource],
    *,
    seconds_of: Callable[[float], float | None] = lambda fraction: None,
    choices: Sequence[Choice] | None = None,
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
        choices: result of `inspect_all` for `real`, if already inspected.
        prepared: result of an earlier call for the same run, whose photos are used again.

    Returns:
        JSON-plain record of the fits ("fitted") and of the restored photos, as indices by source ("pseudo_clean" and
        "residuals").

    Raises:
        ConfigurationError: fewer than 3 photos are usable for a fit, or the noise of more than half of the inspected
            ones cannot be measured (`fitting.choosing.check_choices`). Too strong noise, and photos without rain or
            shake, are only logged as warnings.
    """
    if not config.prepares:
        return {}
    before = prepared or {}
    # 1. fits; nothing is written if the photos do not have the degradation
    due = [file for file in _fits(config) if file not in before.get("fitted", ()) and not (folder / file).exists()]
    if NOISE_FILE in due:
        _skip_unfit(real, folder / SKIPPED, choices, seconds_of(INSPECTION))
        # a new restorer removes no noise; a fit of rain always has `init_from`
        restore = as_function(restorer) if config.init_from else None
        _fit_noise(real, restore, folder / NOISE_FILE, seconds_of(FIT))
    if RAIN_FILE in due:
        _write_fit(fit_rain(real, as_function(restorer), seconds_of(FIT)), folder / RAIN_FILE, "rain")
    if SHAKE_FILE in due:
        made = degradation_from_config(config.degradation or {"type": "motion_blur"})
        like = made if isinstance(made, MotionBlur) else MotionBlur()
        shake = fit_shake(real, seconds_of(FIT), like)
        _write_fit(shake, folder / SHAKE_FILE, "camera shake")
        counts = [source.count for source in real]
        if shake.psfs and (None in counts or sum(map(len, real)) > shake.photos + len(shake.skipped)):
            logger.warning(
                "the shake of %d real photos is used; photos with other shake may become worse, unless `fit_shake` is "
                "at most 0.5",
                len(shake.psfs),
            )
    record: dict[str, Any] = {"fitted": list(_fits(config))}

    # 2. restored photos
    def restore_into(name: str, write: Callable[[torch.Tensor, torch.Tensor, Path], None]) -> None:
        seconds, restore = seconds_of(RESTORATION), as_function(restorer)
        record[name] = _restore_all(restore, real, folder / name, write, before.get(name), seconds)

    if config.pseudo_clean:
        restore_into(PSEUDO_CLEAN, _write_restored)
    if config.transplant:
        restore_into(RESIDUALS, _write_streaks if config.transplant_kind == "streaks" else _write_residual)
    return record


def _fits(config: TrainingConfig) -> dict[str, float]:
    """Returns the file of each degradation that is fitted, and its share of the samples."""
    shares = {NOISE_FILE: config.fit_noise, RAIN_FILE: config.fit_rain, SHAKE_FILE: config.fit_shake}
    return {file: share for file, share in shares.items() if share}


def measure_for(model: Objective, real: Sequence[PhotoSource], dataset: TrainingPatches) -> dict[str, Any]:
    """Calls `Objective.measure` on some photos; deterministic for the run's seed.

    Raises:
        ConfigurationError: the restorer or the photos are unsuitable for the objective.
    """
    (pairs,) = pairs_apart(dataset, "objective", count=MEASURED_PATCHES, at_once=MEASURED_PATCHES)
    generator = generator_for(dataset.seed, "objective", "measure")
    return model.measure(measured_photos(real), pairs["clean"], generator)


def measured_photos(real: Sequence[PhotoSource]) -> Iterator[torch.Tensor]:
    """Returns center crops (C, H, W) in [0, 1] of a few photos, the same number from each source."""
    per_source = max(1, MEASURED_PHOTOS // max(1, len(real)))
    for source in real:
        for _, photo in source.sample(per_source):
            yield unit_float(center_crop(photo, MEASURED_SIDE))


def use_files(config: TrainingConfig, dataset: TrainingPatches, folder: Path) -> None:
    """Adds the degradations and clean photos in the files of `prepare_files` to `dataset`; skips unfit real photos."""
    learned: list[tuple[float, Degradation]] = []
    if config.fit_noise and (folder / SKIPPED).exists() and dataset.real:
        recorded = json.loads((folder / SKIPPED).read_text(encoding="utf-8"))  # indices are text in JSON
        _skip(dataset.real, [{int(index): reason for index, reason in unfit.items()} for unfit in recorded])
    for file, share in _fits(config).items():
        if (folder / file).exists():  # not written if the photos have none, or too strong noise
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


def _skip_unfit(
    sources: Sequence[PhotoSource], path: Path, choices: Sequence[Choice] | None, seconds: float | None
) -> None:
    """Skips real photos whose noise cannot be measured, and writes them to `path` for a resumed run."""
    if choices is None:
        choices = inspect_all(sources, seconds)
    reasons = [choice.unfit for choice in choices]
    write_text(path, json.dumps(reasons, indent=1) + "\n")
    _skip(sources, reasons)


def inspect_all(sources: Sequence[PhotoSource], seconds: float | None) -> list[Choice]:
    """Calls `inspect_photos` for every source, within a total time limit if `seconds` is not None.

    Raises:
        ConfigurationError: there are too few photos, or more than half of the inspected ones are unsuitable.
    """
    logger.info("preparing: inspecting the noise of the real photos")
    choices = [inspect_photos(source, _per_source(seconds, sources)) for source in sources]
    check_choices(sources, choices)
    inspected = sum(choice.inspected for choice in choices)
    _log_limited("noise is inspected in", inspected, sources, MAX_PHOTOS, seconds)
    return choices


def _per_source(seconds: float | None, sources: Sequence[PhotoSource]) -> float | None:
    """Divides a time limit equally among sources; None: no limit."""
    return None if seconds is None else seconds / len(sources)


def _log_limited(what: str, used: int, sources: Sequence[PhotoSource], most: int, seconds: float | None) -> None:
    """Logs that a stage used only `used` photos, if it had a time limit and would use up to `most` of every source."""
    if seconds is not None and used < sum(len(source.spread(most)) for source in sources):
        has_stream = any(source.count is None for source in sources)
        photos = f"{used} photos of a stream" if has_stream else f"{used} of {sum(map(len, sources))} photos"
        logger.info("%s %s; a larger time budget allows more", what, photos)


def _skip(sources: Sequence[PhotoSource], reasons: Sequence[Mapping[int, str]]) -> None:
    """Skips photos of every source; `reasons` has a mapping from index to reason for every source."""
    for source, by_index in zip(sources, reasons, strict=True):
        for index, reason in by_index.items():
            source.skip(index, reason)


def _fit_noise(sources: Sequence[PhotoSource], restore: Restorer | None, path: Path, seconds: float | None) -> None:
    """Fits a noise degradation to every source and writes their mixture with equal weights.

    If a source has few photos, one degradation is fitted to all sources together. Sources without noise are left out
    of the mixture. Nothing is written if the noise is too strong to be measured.

    Raises:
        ConfigurationError: no source has noise, or one has too few usable photos.
    """
    are_many = all(source.count is None or source.count >= MIN_PHOTOS for source in sources)
    logger.info("preparing: estimating the noise of the real photos")
    try:
        if are_many:
            profiles = [fit_noise(source, restore, _per_source(seconds, sources)) for source in sources]
        else:
            profiles = [fit_noise(sources, restore, seconds)]
    except TooStrongError as error:
        message = "the noise of the real photos is too strong to be measured; the run uses `degradation` alone: %s"
        logger.warning(message, error)
        return
    comment = "\n\n".join(profile.describe() for profile in profiles)
    logger.info("noise of the real photos:\n%s", comment)
    used = sum(profile.photos + len(profile.skipped) for profile in profiles)  # skipped photos were examined as well
    _log_limited("noise is fitted to", used, sources, MAX_PHOTOS, seconds)
    noisy = [profile for profile in profiles if profile.degradation is not None]
    # if none is noisy, `to_degradation` raises the error
    fitted: list[Degradation] = [profile.to_degradation(spread=SPREAD) for profile in noisy or profiles]
    degradation = fitted[0] if len(fitted) == 1 else Mixture([(1, each) for each in fitted])
    write_degradation(degradation.to_config(), path, comment)


def _write_fit(profile: Profile, path: Path, what: str) -> None:
    """Writes a fitted degradation; writes nothing if the photos do not have it."""
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
    chosen: Sequence[Sequence[int]] | None,
    seconds: float | None,
) -> list[list[int]]:
    """Restores center crops of some photos of every source, and writes a PNG file for each; existing ones are kept.

    Args:
        write: function `(real, restored, path)` that writes a file; both crops are (C, H, W).
        chosen: indices of the photos of every source, from an earlier call; None: as many as the time limit allows.
        seconds: time limit without `chosen`; None: no limit.

    Returns:
        Indices of the restored photos of every source.
    """
    logger.info("preparing: restoring the real photos (%s)", folder.name)
    folder.mkdir(exist_ok=True)
    most = max(1, MOST_PHOTOS // len(sources))
    if chosen is not None and len(chosen) != len(sources):  # the run's sources were changed
        chosen = None
    limit = _per_source(seconds, sources) if chosen is None else None
    restored: list[list[int]] = []
    for number, source in enumerate(sources):
        wanted = set(source.spread(most) if chosen is None else chosen[number])
        paths = {index: folder / f"{number:02d}-{index:06d}.png" for index in wanted}
        missing = {index: path for index, path in paths.items() if not path.exists()}
        for index, photo in source.sample(most, missing.__contains__, seconds=limit):
            real = unit_float(center_crop(photo, MOST_SIDE))
            write(real, restore(real), missing[index])
        restored.append(sorted(index for index, path in paths.items() if path.exists()))
    _log_limited(f"{folder.name}:", sum(map(len, restored)), sources, most, limit)
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
