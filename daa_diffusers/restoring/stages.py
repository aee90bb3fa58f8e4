"""Stages of restoring one photo file: reading, restoring, writing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import check_writable, replacing, shortened
from ..photos import open_photo, save_photo
from ..photos.registry import BY_NAME
from ..photos.saving import own_format
from ..photos.stored import StoredPhoto, with_bits
from .allocator import return_freed_memory
from .options import Options
from .outputs import Job

if TYPE_CHECKING:
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

Record = dict[str, Any]
CELL = 480  # largest side in pixels of an image on a sheet


@dataclasses.dataclass
class StagedPhoto:
    """A photo between two stages.

    Args:
        photo: the photo as read.
        pixels: restored pixels; None before `restore`.
        guard: the guard's verdict as a dictionary; None without a guard.
        seconds: time taken by the stages so far.
    """

    photo: StoredPhoto
    pixels: np.ndarray | None = None
    guard: dict[str, Any] | None = None
    seconds: float = 0.0


def restore_one(pipeline: DAARestorationPipeline, job: Job, options: Options) -> Record:
    """Restores one photo and writes its output, which gets the photo's permissions and modification time.

    Returns:
        "width", "height", "format", "bits", "seconds", "notes" and "guard", as in the records of `work.restore_all`.

    Raises:
        UnreadablePhotoError, ConfigurationError, OSError, FloatingPointError: errors of reading, restoring or writing.
        FileExistsError: another process has written the output in the meantime.
    """
    return write(restore(pipeline, read(job, options), options), job, options)


def read(job: Job, options: Options) -> StagedPhoto:
    """Reads the photo of a job, converted to the bit depth for restoring.

    Raises:
        UnreadablePhotoError, ConfigurationError: as for `open_photo`.
        OSError: the file or the folder of its output cannot be used.
    """
    start = time.perf_counter()
    check_writable(Path(job.target).parent)  # to fail before the photo is restored
    photo = open_photo(job.source, max_megapixels=options.max_megapixels)
    if options.bits == 16 and 16 in BY_NAME[options.format or own_format(photo)].depths:
        # so that restoring rounds to 16 bits
        alpha = None if photo.alpha is None else with_bits(photo.alpha, 16)
        photo = dataclasses.replace(photo, pixels=with_bits(photo.pixels, 16), alpha=alpha)
    return StagedPhoto(photo, seconds=time.perf_counter() - start)


def restore(pipeline: DAARestorationPipeline, staged: StagedPhoto, options: Options) -> StagedPhoto:
    """Sets the restored pixels; errors are those of the pipeline."""
    start = time.perf_counter()
    return_freed_memory()  # memory used for reading
    result: Any = pipeline(
        staged.photo.pixels,
        output_type="np",
        tile=options.tile,
        strength=options.strength,
        self_ensemble=options.self_ensemble,
        guard=options.guard,
    )
    staged.pixels = result.images[0]
    staged.guard = dataclasses.asdict(result.guard[0]) if result.guard else None
    return_freed_memory()
    staged.seconds += time.perf_counter() - start
    return staged


def write(staged: StagedPhoto, job: Job, options: Options) -> Record:
    """Writes a restored photo; result and errors are those of `restore_one`."""
    start = time.perf_counter()
    photo, restored, folder = staged.photo, staged.pixels, Path(job.target).parent
    assert restored is not None
    if options.compare is not None:
        _write_sheet(photo, restored, job, Path(options.compare))
    folder.mkdir(parents=True, exist_ok=True)
    if not options.overwrite and os.path.lexists(job.target):
        raise FileExistsError(f"{job.target!r} exists")
    with replacing(job.target, like=job.source) as temporary:
        if _can_be_copied(photo, restored, options):
            shutil.copyfile(job.source, temporary)  # encoding the photo again would only lose quality
            format_, bits = own_format(photo), photo.bits
            notes: tuple[str, ...] = ("nothing to restore: the file was copied",)
        else:
            # drop the degraded pixels, which frees memory for the encoder
            staged.photo = photo = dataclasses.replace(photo, pixels=restored)
            saved = save_photo(
                temporary,
                photo,
                format=options.format,
                bits=options.bits,
                quality=options.quality,
                strip_location=options.strip_location,
                overwrite=True,  # the temporary file exists
            )
            format_, bits, notes = saved.format, saved.bits, saved.notes
    return {
        "width": restored.shape[1],
        "height": restored.shape[0],
        "format": format_,
        "bits": bits,
        "seconds": round(staged.seconds + time.perf_counter() - start, 3),
        "notes": list(notes),
        "guard": staged.guard,
    }


def _can_be_copied(photo: StoredPhoto, restored: np.ndarray, options: Options) -> bool:
    """Whether the output would equal the photo's file, which is then copied."""
    return (
        options.bits in (None, photo.bits)
        and options.quality is None
        and not options.strip_location
        and photo.format != "RAW"
        and options.format in (None, own_format(photo))
        and np.array_equal(photo.pixels, restored)
    )


def _write_sheet(photo: StoredPhoto, restored: np.ndarray, job: Job, folder: Path) -> None:
    """Writes a sheet with the whole photo and its enlarged center, before and after."""
    from ..evaluation.sheets import contact_sheet
    from ..photos.stored import upright

    images = [upright(pixels, photo.orientation) for pixels in (photo.pixels, restored)]
    rows = [
        [np.ascontiguousarray(with_bits(np.ascontiguousarray(part(image)), 8)) for image in images]
        for part in (_reduced, _center)
    ]
    name = os.path.basename(job.target)
    target = folder / shortened(name, ".png", append=True)
    number = 1
    while target.exists():  # photos of different folders may have the same name
        number += 1
        target = folder / shortened(name, f".{number}.png", append=True)
    contact_sheet(rows, ("before", "after"), (), target, cell=CELL, title=os.path.basename(job.source))


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """Returns the whole photo (H, W, C) at about twice the side of a cell; the sheet resizes it with a filter."""
    step = max(1, max(pixels.shape[:2]) // (2 * CELL))
    return pixels[::step, ::step]


def _center(pixels: np.ndarray) -> np.ndarray:
    """Returns the center of the photo (H, W, C), which the sheet enlarges three times."""
    height, width = (min(side, CELL // 3) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
