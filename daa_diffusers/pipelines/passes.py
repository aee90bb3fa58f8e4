"""Forward passes of the restorer over a batch: padding, precision, self-ensemble, strength."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from ..models.restorer import RestorerContract
from .image_processor import pad_to_multiple
from .strips import Strips

logger = logging.getLogger(__name__)


def restore_batch(
    restorer: nn.Module,
    batch: torch.Tensor,
    rows: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    strength: torch.Tensor | float = 1.0,
    self_ensemble: bool = False,
    inside: tuple[slice, slice] | None = None,
    mixed: torch.dtype | None = None,
    contract: RestorerContract | None = None,
) -> torch.Tensor:
    """Restores a batch: `x + strength (f(x) - x)`, with padding, and f in the restorer's dtype.

    Args:
        restorer: f, in eval mode.
        batch: x, (N, C, H, W), float32, in the restorer's range, any size.
        rows: (N,), index of the photo of each batch row, for messages.
        dtype: dtype of the restorer.
        strength: scalar, or (N,); 0 leaves a photo unchanged.
        self_ensemble: average f over the eight flips and rotations, each undone afterwards.
        inside: rows and columns to return (0 <= start < stop <= H or W); None: all.
        mixed: dtype of operations under `torch.autocast`; None: no autocast.
        contract: contract of the restorer, if already known.

    Returns:
        (N, C, H, W), or its part `inside`, float32.

    Raises:
        FloatingPointError: NaN or infinity in the result (for float16, also after another pass in float32).
        ValueError: the restorer does not return a tensor of its input's shape.
    """
    rows_inside, columns = inside or (slice(0, batch.shape[2]), slice(0, batch.shape[3]))
    contract = contract or RestorerContract.of(restorer)
    padded = pad_to_multiple(batch, contract.size_multiple)
    height, width = padded.shape[2:]
    margins = (rows_inside.start, height - rows_inside.stop, columns.start, width - columns.stop)
    run = _run_ensemble if self_ensemble else _run
    # smaller margins are padding, or not worth skipping
    skips = contract.skips_margins and max(margins) >= contract.size_multiple
    with torch.autocast(batch.device.type, dtype=mixed, enabled=mixed is not None):
        restored = run(restorer, padded.to(dtype), margins, skips)
    broken = ~_finite_rows(restored)
    if broken.any() and dtype == torch.float16:
        logger.warning("float16 overflowed in photo %s; restoring it again in float32", _photos_of(rows, broken))
        restored = restored.float()
        with _in_float32(restorer):
            restored[broken] = run(restorer, padded[broken], margins, skips)
        broken = ~_finite_rows(restored)
    if broken.any():
        raise FloatingPointError(f"`restorer` returned NaN or infinite pixels for photo {_photos_of(rows, broken)}")
    restored = restored.float()
    if isinstance(strength, float | int):
        if strength == 1:
            return restored
        strength = torch.full((len(batch),), strength)
    weight = strength.to(batch)[:, None, None, None]
    return torch.lerp(batch[:, :, rows_inside, columns], restored, weight)  # exact at 0 and 1


def restore_strips(
    restorer: nn.Module,
    strips: Strips,
    batches: Iterable[torch.Tensor],
    rows: Sequence[int],
    *,
    strength: torch.Tensor | float = 1.0,
    mixed: torch.dtype | None = None,
) -> Iterator[torch.Tensor]:
    """Restores photos of one size strip by strip, as `restore_batch` does at once; for restorers in float32.

    Args:
        restorer: restorer for which `strips` was made, in eval mode.
        strips: new state for the padded height of the photos.
        batches: strips of the photos, (N, C, h, W), float32, as planned by `plan_strips`.
        rows, strength, mixed: see `restore_batch`.

    Yields:
        The next restored rows, (N, C, h, W), float32, from the top; h may be 0, and padding rows follow at the end.

    Raises:
        FloatingPointError: NaN or infinity.
    """
    multiple = RestorerContract.of(restorer).size_multiple
    for batch in batches:
        with torch.autocast(batch.device.type, dtype=mixed, enabled=mixed is not None):
            pushed = strips.push(pad_to_multiple(batch, multiple))
        if pushed is None:
            yield batch[:, :, :0]
            continue
        degraded, restored = (x[..., : batch.shape[3]] for x in pushed)
        broken = ~_finite_rows(restored)
        if broken.any():
            raise FloatingPointError(f"`restorer` returned NaN or infinite pixels for photo {_photos_of(rows, broken)}")
        if isinstance(strength, torch.Tensor) or strength != 1:
            weight = torch.as_tensor(strength).expand(len(batch)).to(batch)[:, None, None, None]
            restored = torch.lerp(degraded, restored, weight)
        yield restored


Margins = tuple[int, int, int, int]  # pixels at the top, bottom, left and right that are cropped from the result


def _run(restorer: nn.Module, batch: torch.Tensor, margins: Margins, skips: bool) -> torch.Tensor:
    """Restores (N, C, H, W) and removes `margins`, by cropping or, with `skips`, in the restorer itself."""
    top, bottom, left, right = margins
    height, width = batch.shape[2:]
    if skips:
        return restorer(batch, margins=margins)
    restored = restorer(batch)
    if not isinstance(restored, torch.Tensor) or restored.shape != batch.shape:
        got = tuple(restored.shape) if isinstance(restored, torch.Tensor) else type(restored).__name__
        raise ValueError(f"`restorer` must return a tensor of its input's shape {tuple(batch.shape)}, got {got}")
    return restored[:, :, top : height - bottom, left : width - right]


def _run_ensemble(restorer: nn.Module, batch: torch.Tensor, margins: Margins, skips: bool) -> torch.Tensor:
    """Averages `_run` over the eight flips and rotations, each undone afterwards."""
    total: torch.Tensor | float = 0.0
    for transposed in (False, True):
        for axes in ((), (2,), (3,), (2, 3)):
            view = (batch.mT if transposed else batch).flip(axes)
            top, bottom, left, right = (*margins[2:], *margins[:2]) if transposed else margins
            if 2 in axes:
                top, bottom = bottom, top
            if 3 in axes:
                left, right = right, left
            view = view.contiguous(memory_format=torch.channels_last)
            restored = _run(restorer, view, (top, bottom, left, right), skips).float().flip(axes)
            total = total + (restored.mT if transposed else restored)
    assert isinstance(total, torch.Tensor)
    return total / 8


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers of a module."""
    return chain(module.parameters(), module.buffers())


def bytes_of(*modules: nn.Module | None) -> int:
    """Size in bytes of the parameters and buffers of modules."""
    tensors = chain.from_iterable(tensors_of(module) for module in modules if module is not None)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _photos_of(rows: Sequence[int], broken: torch.Tensor) -> str:
    return ", ".join(str(index) for index in sorted({rows[row] for row in broken.nonzero().flatten().tolist()}))


def _finite_rows(batch: torch.Tensor) -> torch.Tensor:
    # (N,) bool. NaN and infinity propagate through the sum, which is several times faster than testing each pixel.
    return batch.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite()


@contextmanager
def _in_float32(module: nn.Module) -> Iterator[None]:
    """Context in which float16 weights are in float32; the original tensors are restored afterwards."""
    kept = [(t, t.data) for t in tensors_of(module) if t.dtype == torch.float16]
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
