"""Steps of a pipeline call: verdicts of the guard, tiles, strips, passes of the restorer."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tqdm.auto import tqdm

from ..models.restorer import RestorerContract, round_up
from .canvases import blank, release_pages, shared_files
from .guard import Verdict, judge, sample_windows
from .image_processor import Photo, from_batch, to_batch
from .limits import check_strength, check_tile
from .passes import restore_batch, restore_strips
from .strips import STRIP_PIXELS, plan_strips, strips_of
from .tiling import FREE_SHARE, Mosaic, auto_tile, bytes_per_pixel, free_memory, halved, is_exact, is_out_of_memory
from .transfers import from_device, to_device

logger = logging.getLogger(__name__)

# Maximum pixels of a batch if no `batch_size` is given: larger batches are no faster on a CPU, and need more memory.
# Photos up to this size are divided into tiles on request only.
DEFAULT_BATCH_PIXELS = 2**20


def plan_batches(photos: Mapping[int, Photo], batch_size: int | None) -> list[dict[int, Photo]]:
    """Groups photos (by index) of one size into batches of at most `batch_size`, or of `DEFAULT_BATCH_PIXELS`."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, photo in photos.items():
        by_size.setdefault(photo.size, []).append(index)
    batches = []
    for (height, width), indices in by_size.items():
        cap = batch_size or max(1, DEFAULT_BATCH_PIXELS // (height * width))
        batches += [indices[start : start + cap] for start in range(0, len(indices), cap)]
    return [{index: photos[index] for index in indices} for indices in batches]


def check_options(batch_size: Any, tile: Any, strength: Any) -> None:
    """Raises ValueError if one of these pipeline arguments is invalid."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"`batch_size` must be a positive integer or None, got {batch_size!r}")
    check_tile(tile)
    check_strength(strength)


def checked_names(callback: Any, names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Checks and returns the tensor names for a callback: those of a diffusers callback class, else `names`.

    Raises:
        TypeError: the callback is not callable.
        ValueError: a name is not in `known`.
    """
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        names = callback.tensor_inputs
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback_on_step_end` must be callable, got {type(callback).__name__}")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"`callback_on_step_end_tensor_inputs` must be among {known}, got {unknown}")
    return names


def bar_of(pipeline: DiffusionPipeline, photos: Sequence[Photo], tile: int | Literal["auto"] | None) -> tqdm:
    """The pipeline's progress bar; disabled for a single pass, where it would cost time but never appear."""
    (height, width), delayed = photos[0].size, bool(pipeline._progress_bar_config.get("delay"))
    single = len(photos) == 1 and tile in (None, "auto") and height * width <= DEFAULT_BATCH_PIXELS
    return tqdm(total=1, disable=True) if single and delayed else pipeline.progress_bar(total=len(photos))


@contextmanager
def _counting_passes(progress_bar: tqdm, photos: int, passes: int) -> Iterator[None]:
    """Context in which the bar counts `passes` of each of some photos, not photos; an error undoes its progress."""
    shown, more = progress_bar.n, photos * (passes - 1)
    progress_bar.total += more
    try:
        yield
    except BaseException:
        progress_bar.total -= more
        progress_bar.n = shown
        raise


class Run:
    """State of one call of a pipeline. The restorer must be in eval mode.

    Args:
        pipeline: pipeline with a `restorer`.
        contract: contract of the restorer.
        tile, self_ensemble, image, out, callback, callback_inputs: see `DAARestorationPipeline.__call__`.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        contract: RestorerContract,
        tile: int | Literal["auto"] | None,
        self_ensemble: bool,
        image: Any,
        out: np.ndarray | None,
        callback: Callable[..., dict | None] | None,
        callback_inputs: Sequence[str],
    ):
        self.pipeline = pipeline
        self.restorer = pipeline.restorer
        self.contract = contract
        self.channels, self.value_range = contract.channels, contract.value_range
        self.multiple, self.radius = contract.size_multiple, contract.receptive_radius
        device = pipeline.device  # of the weights, unless they are offloaded
        self.device = device if device.type == "cuda" else pipeline._execution_device
        self.dtype, self.mixed = pipeline.dtype, pipeline.mixed_precision
        self.tile = tile
        self.self_ensemble = self_ensemble
        self.out, self.mapped = out, shared_files(image, out)
        # whole photos are moved in advance, unless a file may be larger than memory; otherwise tile by tile
        self.moves_photos = self.device.type == "cuda" and out is None and not self.mapped
        self.callback, self.callback_inputs = callback, callback_inputs
        self.step = 0

    # --- the guard ---

    def judge(self, photo: Photo, index: int) -> Verdict:
        """The guard's verdict on a photo, from windows of it."""
        windows = [photo.crop(rows, columns) for rows, columns in sample_windows(photo.size)]
        batch = to_batch(windows, self.channels, self.value_range, self.device)  # (windows * rows, C, h, w)
        precision = {"dtype": self.dtype, "mixed": self.mixed, "contract": self.contract}
        restored = restore_batch(self.restorer, batch, [index] * len(batch), **precision)

        def as_photo(x: torch.Tensor) -> torch.Tensor:  # (windows, colors, h, w) in [0, 1]
            x = self.contract.from_range(x)
            if self.channels == 1:
                return x.view(len(windows), -1, *x.shape[2:])  # color channels were restored separately
            return x.mean(1, keepdim=True) if photo.pixels.shape[0] == 1 else x  # gray was repeated

        return judge(as_photo(batch), as_photo(restored))

    # --- photos of one size ---

    def restore(self, photos: dict[int, Photo], strengths: Sequence[float], progress_bar: Any) -> dict[int, Photo]:
        """Restores photos of one size (by index): in strips, else in tiles, which are halved while memory runs out."""
        # for each batch row, the index of its photo, and its strength: (N,)
        rows = [index for index, photo in photos.items() for _ in range(photo.rows(self.channels))]
        weights = [strengths[index] for index in rows]
        strength = 1.0 if set(weights) == {1} else torch.tensor(weights)
        if not self.moves_photos:
            return self._restore_with_retries(photos, rows, strength, progress_bar)
        moved = {
            index: replace(photo, pixels=to_device(photo.pixels, self.device), alpha=None)
            for index, photo in photos.items()
        }
        restored = self._restore_with_retries(moved, rows, strength, progress_bar)
        return {
            index: replace(photo, pixels=from_device(restored[index].pixels, photo.device))
            for index, photo in photos.items()
        }

    def _restore_with_retries(self, photos, rows, strength, progress_bar) -> dict[int, Photo]:
        size = next(iter(photos.values())).size
        tile = self._tile(size, len(rows))
        if self._takes_strips(size, len(rows)):
            try:
                return self._restore_strips(photos, rows, strength, progress_bar)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("memory ran out in photo %s; restoring it in tiles", [*photos])
        while True:
            mosaic = Mosaic(size, tile, self.multiple, self.radius)
            if len(mosaic) > 1:
                self._warn_of_seams(tile)
            try:
                with _counting_passes(progress_bar, len(photos), len(mosaic)):
                    return self._restore_tiles(photos, rows, strength, mosaic, progress_bar)
            except (RuntimeError, MemoryError) as error:
                smaller = halved(tile, size, self.multiple)
                if self.tile is None or smaller is None or not is_out_of_memory(error):
                    raise
                logger.warning("memory ran out in photo %s; restoring it in tiles of %d px", [*photos], smaller)
            # outside the handler: the exception holds references to the tensors
            tile = smaller
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @cached_property
    def _bytes_per_pixel(self) -> float:
        return bytes_per_pixel(self.restorer, self.channels, self.device, self.dtype)

    # --- strips ---

    def _takes_strips(self, size: tuple[int, int], rows: int) -> bool:
        """Whether photos of one size with `rows` batch rows are restored in strips, which do not overlap."""
        if self.tile != "auto" or size[0] * size[1] < STRIP_PIXELS or self.self_ensemble:
            return False  # smaller photos would spend their time between the layers
        if self.device.type != "cpu" or self.dtype != torch.float32 or strips_of(self.restorer) is None:
            return False
        strip = plan_strips(size, self.multiple)[0]
        pixels = size[1] * (strip.stop - strip.start + (self.radius or 0))  # layers keep up to `radius` rows
        return self._bytes_per_pixel * rows * pixels <= FREE_SHARE * free_memory(self.device)

    def _restore_strips(self, photos, rows, strength, progress_bar) -> dict[int, Photo]:
        """Restores photos strip by strip."""
        group = list(photos.values())
        size, canvases = group[0].size, [blank(photo, self.out) for photo in group]
        kind = strips_of(self.restorer)
        assert kind is not None
        planned = plan_strips(size, self.multiple)

        def batches() -> Iterator[torch.Tensor]:
            for strip in planned:
                parts = [photo.crop(strip, slice(None)) for photo in group]
                yield to_batch(parts, self.channels, self.value_range, self.device)

        strips = kind(self.restorer, round_up(size[0], self.multiple))
        options = {"strength": strength, "mixed": self.mixed}
        first = 0
        with _counting_passes(progress_bar, len(photos), len(planned)):
            for restored in restore_strips(self.restorer, strips, batches(), rows, **options):
                restored = restored[:, :, : size[0] - first]  # without padding rows
                if restored.shape[2]:
                    restored = self._call_back(restored, [*photos])
                    last = first + restored.shape[2]
                    finished = from_batch(group, restored, self.channels, self.value_range)
                    for canvas, photo in zip(canvases, finished, strict=True):
                        canvas.pixels[:, first:last] = photo.pixels
                    first = last
                progress_bar.update(len(group))
                release_pages(self.mapped)
        return dict(zip(photos, canvases, strict=True))

    # --- tiles ---

    def _tile(self, size: tuple[int, int], rows: int) -> int | None:
        """Tile side for photos of one size with `rows` batch rows; None: no tiles."""
        pixels = size[0] * size[1]
        if self.tile != "auto":
            return self.tile
        if pixels <= DEFAULT_BATCH_PIXELS:
            return None
        side = auto_tile(self._bytes_per_pixel * rows, self.device, self.multiple, self.contract.is_global)
        return None if pixels <= side**2 else side

    def _warn_of_seams(self, tile: int | None) -> None:
        """Logs a warning if tiles of this side change the result."""
        if self.radius is not None and not is_exact(tile or 0, self.multiple, self.radius):
            logger.warning(
                "tiles of %s px are too small for the restorer's receptive radius of %s px: seams are blended, "
                "and pixels near them differ slightly from those of the whole photo",
                tile,
                self.radius,
            )
        if self.contract.is_global:
            logger.warning(
                "the restorer has global reach: tiles of %s px change the result slightly (tile=None avoids this)",
                tile,
            )

    def _restore_tiles(self, photos, rows, strength, mosaic: Mosaic, progress_bar) -> dict[int, Photo]:
        """Restores photos tile by tile; without tiles, in one pass."""
        group = list(photos.values())
        canvases = [blank(photo, self.out) for photo in group] if len(mosaic) > 1 or self.out is not None else []
        for vertical, horizontal in mosaic:
            region = slice(vertical.start, vertical.stop), slice(horizontal.start, horizontal.stop)
            tiles = [photo.crop(*region) for photo in group]
            batch = to_batch(tiles, self.channels, self.value_range, self.device)  # (N, C, h, w)
            batch = restore_batch(
                self.restorer,
                batch,
                rows,
                dtype=self.dtype,
                strength=strength,
                self_ensemble=self.self_ensemble,
                inside=(vertical.inside, horizontal.inside),
                mixed=self.mixed,
                contract=self.contract,
            )
            batch = self._call_back(batch, [*photos])
            finished = from_batch(group, mosaic.place(batch, vertical, horizontal), self.channels, self.value_range)
            # no update for a single pass, where a delayed bar never appears
            if progress_bar.total > 1 or not getattr(progress_bar, "delay", 0):
                progress_bar.update(len(group))
            if not canvases:
                return dict(zip(photos, finished, strict=True))
            for canvas, photo in zip(canvases, finished, strict=True):
                canvas.pixels[:, vertical.first : vertical.last, horizontal.first : horizontal.last] = photo.pixels
            release_pages(self.mapped)
        return dict(zip(photos, canvases, strict=True))

    def _call_back(self, batch: torch.Tensor, indices: list[int]) -> torch.Tensor:
        if self.callback is not None:
            local = {"restored": batch, "indices": torch.tensor(indices)}
            kwargs = {name: local[name] for name in self.callback_inputs}
            batch = (self.callback(self.pipeline, self.step, 0, kwargs) or {}).get("restored", batch)
        self.step += 1
        return batch
