"""Evaluation of restorers and the untouched input on a folder of photos, with or without ground truth."""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from tqdm import tqdm

from ..degradations.draws import generator_for
from ..degradations.fitting.photo_noise import BLOCK
from ..degradations.fitting.suitability import signs_of
from ..errors import ConfigurationError
from ..models.restorer import RestorerContract, in_eval_mode
from ..photos.pixels import center_crop
from ..pipelines.image_processor import pad_to_multiple
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from . import label_free as without_labels
from .named_metrics import LABEL_FREE, PSNR_CAP, WITH_CLEAN, Column, Metric, Space, metric_by_name
from .photo_pairs import PhotoPairs
from .result import IDENTITY, Evaluation, Restorers

logger = logging.getLogger(__name__)

LABEL_FREE_SIDE = 512  # side in pixels of the center crop in which the remaining noise is estimated
NOISE_DRAWS = 1  # draws of noise per photo


def evaluate_folder(
    restorers: Restorers,
    degraded: str | os.PathLike[str],
    clean: str | os.PathLike[str] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    space: Space = "rgb",
    as_uint8: bool = True,
    crop_border: int = 0,
    shift: int = 5,
    label_free: bool | None = None,
    clean_name: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Restores every photo of a folder with every restorer, and scores each result.

    One photo is in memory at a time. A photo is skipped in all rows, with the reason in `skipped`, if it cannot be
    read, differs in size from its clean counterpart, or is not supported by a restorer or metric.

    Args:
        restorers: name of a row -> pipeline. The row "identity", the untouched input, is always added.
        degraded: folder of photos, searched recursively.
        clean: folder of their ground truth, if any.
        metrics: names, as for `named_metrics.metric_by_name`. None: ("psnr", "ssim") with `clean`, else ().
        space: "rgb", or "y" for PSNR and SSIM on MATLAB's Y channel (deraining).
        as_uint8: round to 8 bit first, as in a saved file.
        crop_border: number of pixels at each border that `metrics` ignore.
        shift: largest shift of "psnr_shift" in pixels.
        label_free: also measure residuals and estimate the remaining noise (`evaluation.label_free`), which takes
            two more passes of each restorer. None: only without `clean`.
        clean_name: rule for pairs whose names differ, see `PhotoPairs`.
        seed: seed of the noise that `label_free` draws.
        progress: show a progress bar.

    Raises:
        ConfigurationError: an invalid argument, a missing or empty folder, photos without a counterpart
            (they are listed), a metric without available weights, or no photo that can be scored.
        ImportError: the package of a metric is not installed; the message names the extra.

    Examples:
        >>> import tempfile
        >>> from daa_diffusers import DAARestorationPipeline, RestorationUNet
        >>> from daa_diffusers.evaluation.folders import evaluate_folder
        >>> from daa_diffusers.sources.demo_photos import demo_photos
        >>> photos = demo_photos(tempfile.mkdtemp())
        >>> pipe = DAARestorationPipeline(RestorationUNet(width=4, depth=2))
        >>> result = evaluate_folder({"restored": pipe}, photos.real_val_noisy, photos.real_val_clean)
        >>> list(result.rows), [column.name for column in result.columns]
        (['identity', 'restored'], ['psnr', 'ssim'])
    """
    label_free = clean is None if label_free is None else label_free
    named_metrics, protocol = plan_evaluation(
        clean is not None,
        metrics=metrics,
        space=space,
        as_uint8=as_uint8,
        crop_border=crop_border,
        shift=shift,
        label_free=label_free,
    )
    rows = _check_restorers(restorers)
    pairs = PhotoPairs(degraded, clean, clean_name)
    with _without_progress_bars(rows):
        return _scored(pairs, rows, named_metrics, protocol, crop_border, seed if label_free else None, progress)


def _scored(
    pairs: PhotoPairs,
    rows: Restorers,
    metrics: Sequence[Metric],
    protocol: str,
    crop_border: int,
    seed: int | None,
    progress: bool,
) -> Evaluation:
    """Scores all photos in all rows; with a `seed`, also without labels."""
    columns: tuple[Column, ...] = (*metrics, *(() if seed is None else LABEL_FREE))
    photos: list[str] = []
    scores: dict[str, dict[str, list[float]]] = {row: {column.name: [] for column in columns} for row in rows}
    skipped: dict[str, str] = {}
    unmeasured: dict[str, str] = {}
    for index, name in enumerate(tqdm(pairs.names, desc="photos", disable=not progress)):
        try:
            degraded, clean = pairs.read(index)
            noise = None if seed is None else _noise(degraded, seed, name)
            photo_scores = {
                row: _score(row, pipeline, degraded, clean, metrics, crop_border, noise)
                for row, pipeline in rows.items()
            }
        except (ValueError, FloatingPointError) as error:
            skipped[name] = str(error)
            logger.warning("`degraded`: skipping %s: %s", name, error)
            continue
        photos.append(name)
        if seed is not None and (reason := signs_of(degraded, pairs.jpeg_quality(index)).not_additive):
            unmeasured[name] = reason
        for row, values in photo_scores.items():
            for column, value in values.items():
                scores[row][column].append(value)
    if not photos:
        first = next(iter(skipped))
        raise ConfigurationError(
            f"`degraded`: none of the {len(pairs)} photos can be scored, e.g. {first}: {skipped[first]}"
        )
    return Evaluation(columns, tuple(photos), scores, skipped, protocol, pairs, rows, unmeasured)


def plan_evaluation(
    has_clean: bool,
    *,
    metrics: Sequence[str] | None,
    space: Space,
    as_uint8: bool = True,
    crop_border: int = 0,
    shift: int = 5,
    label_free: bool,
) -> tuple[tuple[Metric, ...], str]:
    """Returns the metrics of `evaluate_folder` and its protocol as text, without reading a photo.

    Arguments and errors are those of `evaluate_folder`.
    """
    if metrics is None:
        metrics = ("psnr", "ssim") if has_clean else ()
    if isinstance(metrics, str) or len(set(metrics)) < len(metrics):
        raise ConfigurationError(f"`metrics` must be a list of different names, got {metrics!r}")
    if space not in ("rgb", "y"):
        raise ConfigurationError(f'`space` must be "rgb" or "y", got {space!r}')
    with_clean = [name for name in metrics if name in WITH_CLEAN]
    if with_clean and not has_clean:
        names = ", ".join(with_clean)
        raise ConfigurationError(f"`metrics`: {names} compare with clean photos, and `clean` is not given")
    chosen = tuple(metric_by_name(name, space=space, as_uint8=as_uint8, shift=shift) for name in metrics)
    if not chosen and not label_free:
        raise ConfigurationError("`metrics` is empty and `label_free` off: nothing would be measured")
    if isinstance(crop_border, bool) or not isinstance(crop_border, int) or crop_border < 0:
        raise ConfigurationError(f"`crop_border` must be a whole number of pixels, at least 0, got {crop_border!r}")
    return chosen, _protocol(chosen, space, as_uint8, crop_border, label_free)


def restore(pipeline: DAARestorationPipeline | None, degraded: torch.Tensor) -> torch.Tensor:
    """Restores a photo (C, H, W) in [0, 1], on the CPU; without a pipeline, returns it unchanged."""
    if pipeline is None:
        return degraded
    (images,) = pipeline(degraded, output_type="pt", return_dict=False)
    return torch.as_tensor(images[0]).cpu()


def _score(
    row: str,
    pipeline: DAARestorationPipeline | None,
    degraded: torch.Tensor,
    clean: torch.Tensor | None,
    metrics: Sequence[Metric],
    crop_border: int,
    noise: torch.Tensor | None,
) -> dict[str, float]:
    """Scores one photo in one row; with `noise` (K, 1, C, h, w), from `_noise`, label-free scores are included."""
    restored = restore(pipeline, degraded)
    inner = _inside(restored, crop_border)
    reference = None if clean is None else _inside(clean, crop_border)
    values = {metric.name: metric.score(inner, reference) for metric in metrics}
    if noise is not None:
        values |= {
            "residual_whiteness": float(without_labels.residual_whiteness(degraded, restored)),
            "signal_correlation": float(without_labels.residual_signal_correlation(degraded, restored)),
            "colour_drift": float(without_labels.colour_drift(degraded, restored)),
            "noise_left": _noise_left(pipeline, degraded, noise),
        }
    for name, value in values.items():
        if math.isnan(value):
            raise ValueError(f"`{name}` of row {row!r} is not a number")
    return values


def _noise(degraded: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    """Draws noise (K, 1, C, h, w) like that of the photo's center."""
    photo = center_crop(degraded, LABEL_FREE_SIDE)
    if min(photo.shape[1:]) < 2 * BLOCK:
        raise ValueError(f"smaller than {2 * BLOCK} pixels: {photo.shape[2]} x {photo.shape[1]}")
    generator = generator_for(seed, "evaluation", "photo noise", name)
    noise = without_labels.Noise.of(photo)
    return torch.stack([noise.sample(photo, generator) for _ in range(NOISE_DRAWS)])[:, None]


def _noise_left(pipeline: DAARestorationPipeline | None, degraded: torch.Tensor, noise: torch.Tensor) -> float:
    """Estimates the mean squared error of the restored photo, relative to that of the untouched one."""
    if pipeline is None:
        return 1.0
    restorer = pipeline.restorer
    contract = RestorerContract.of(restorer)

    def unclamped(photo: torch.Tensor) -> torch.Tensor:  # (1, C, h, w); the pipeline refuses values outside [0, 1]
        height, width = photo.shape[2:]
        # each color separately, or repeated grayscale, like the pipeline
        batch = photo.transpose(0, 1) if pipeline.channels == 1 else photo.expand(-1, pipeline.channels, -1, -1)
        padded = pad_to_multiple(contract.to_range(batch), contract.size_multiple)
        restored = restorer(padded.to(pipeline.device, pipeline.dtype))[..., :height, :width]
        restored = contract.from_range(restored.cpu().float())
        if pipeline.channels == 1:
            return restored.transpose(0, 1)
        return restored if photo.shape[1] == pipeline.channels else restored.mean(1, keepdim=True)

    with in_eval_mode(restorer):
        gain = float(without_labels.estimated_gain(unclamped, center_crop(degraded, LABEL_FREE_SIDE)[None], noise))
    return 10 ** (-gain / 10)


def _inside(photo: torch.Tensor, border: int) -> torch.Tensor:
    """Crops `border` pixels at each border; raises ValueError if no pixels are left."""
    height, width = photo.shape[1:]
    if min(height, width) <= 2 * border:
        raise ValueError(f"{width} x {height} pixels are too few for a `crop_border` of {border}")
    return photo[:, border : height - border, border : width - border]


def _check_restorers(restorers: Restorers) -> dict[str, DAARestorationPipeline | None]:
    """Returns the rows, with the untouched input first; raises ConfigurationError for invalid ones."""
    if not isinstance(restorers, Mapping):
        raise ConfigurationError(f"`restorers` must map row names to pipelines, got {type(restorers).__name__}")
    if restorers.get(IDENTITY) is not None:
        raise ConfigurationError(f"`restorers`: the row {IDENTITY!r} is the untouched input and takes no pipeline")
    for row, pipeline in restorers.items():
        if pipeline is not None and not isinstance(pipeline, DAARestorationPipeline):
            raise ConfigurationError(
                f"`restorers[{row!r}]` must be a DAARestorationPipeline or None, got {type(pipeline).__name__}"
            )
    return {IDENTITY: None, **restorers}


def _protocol(metrics: Sequence[Metric], space: Space, as_uint8: bool, crop_border: int, label_free: bool) -> str:
    """Describes how the numbers are computed. Do not reword: records are only extended under the same protocol."""
    sentences = []
    if metrics:
        names = "; ".join(metric.protocol for metric in metrics)
        colors = {"rgb": "RGB", "y": "the Y channel (BT.601, MATLAB's)"}[space]
        depth = "rounded to 8 bit" if as_uint8 else "floating point"
        border = f"without {crop_border} pixels of border" if crop_border else "with the border"
        sentences.append(f"Mean of per-image scores on {colors}, {depth}, {border}: {names}.")
    if any(metric.name.startswith("psnr") for metric in metrics):
        cap = f"{PSNR_CAP:g} dB"
        sentences.append(f"A PSNR above {cap} (identical images: infinite) counts as {cap} in means.")
    if label_free:
        sentences.append(
            "Label-free values per image in floating point; the noise that is left is estimated in the middle "
            f"{LABEL_FREE_SIDE} pixels."
        )
    return " ".join(sentences)


@contextmanager
def _without_progress_bars(rows: Restorers) -> Iterator[None]:
    """Context in which the pipelines show no progress bars."""
    pipelines = [pipeline for pipeline in rows.values() if pipeline is not None]
    before = [getattr(pipeline, "_progress_bar_config", {}) for pipeline in pipelines]
    try:
        for pipeline in pipelines:
            pipeline.set_progress_bar_config(disable=True)
        yield
    finally:
        for pipeline, config in zip(pipelines, before, strict=True):
            pipeline.set_progress_bar_config(**config)
