"""Tiled restoration in bounded memory: overlapping tiles, restored one by one and blended.

A pixel whose receptive field lies within a tile is restored exactly as in the whole photo. Tiles overlap by twice the
receptive radius and a little more. In the center of the overlap, both tiles are exact, and blending changes nothing.
For restorers without a known radius, such as those with global pooling, blending hides the seams.
"""

import contextlib
import logging
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.restorer import RestorerContract, round_up, unwrapped
from .limits import MIN_TILE

logger = logging.getLogger(__name__)

BLEND = 8  # pixels over which exact tiles are blended
PROBE = 128  # pixels, side of the input for measuring memory
SLACK = 1.25  # factor for workspace memory of convolutions, in addition to their tensors
# Automatic tile size: fraction of the free memory that a pass may use, and a limit on a CPU. Larger tiles overlap less,
# but their tensors exceed the CPU caches, and their memory is not reused (benchmarks/inference.py --tiles).
FREE_SHARE = 0.5
CPU_BYTES = 256 * 2**20

_MEASURED: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels of the photo.

    Attributes:
        start, stop: range of the restorer's input.
        first, last: range that the tile writes; its first `before` pixels are blended with the previous tile.
        before, after: widths of the blending; `after` pixels from `last` on are kept for the next tile.
    """

    start: int
    stop: int
    first: int
    last: int
    before: int = 0
    after: int = 0

    @property
    def inside(self) -> slice:
        """The part of the restorer's input that is written, or kept for blending with the next tile."""
        return slice(self.first - self.start, self.last + self.after - self.start)


def plan_spans(length: int, tile: int, multiple: int = 1, radius: int | None = None) -> list[Span]:
    """Plans tiles of equal size along an axis: as few as `tile` allows, and then as small as possible.

    Args:
        length: number of pixels, at least 1.
        tile: maximum side of a tile in pixels, rounded down to a multiple of `multiple`, at least two of them.
        multiple: size multiple of the restorer. Tiles start at multiples of it and are padded to them, so that pooling
            cells are those of the whole photo.
        radius: receptive radius of the restorer. If it is None or too large for `tile`, half of each tile overlaps, and
            the result is not exact.
    """
    # lengths are in cells of `multiple` pixels, except those of `margin` and `blend`
    cells = math.ceil(length / multiple)
    side = max(2, tile // multiple)
    if cells <= side:
        return [Span(0, length, 0, length)]
    # 1. overlap of two tiles: exact if both contain the receptive field of the blended pixels
    if is_exact(tile, multiple, radius):
        assert radius is not None
        margin, blend = radius, BLEND
        overlap = math.ceil((2 * margin + blend) / multiple)
    else:
        overlap = side // 2
        margin, blend = overlap * multiple // 4, max(1, overlap * multiple // 2)
    # 2. as few tiles as possible, then as small as possible
    count = math.ceil((cells - overlap) / (side - overlap))
    side = math.ceil((cells - overlap) / count) + overlap
    # 3. input ranges, and the positions of the blending
    starts = [min(k * (side - overlap), cells - side) * multiple for k in range(count)]
    stops = [min(start + side * multiple, length) for start in starts]
    blends = [stop - margin - blend for stop in stops[:-1]]  # where blending with the next tile starts
    return [
        Span(start, stop, first, last, before=blend if first else 0, after=blend if last < length else 0)
        for start, stop, first, last in zip(starts, stops, [0, *blends], [*blends, length], strict=True)
    ]


def is_exact(tile: int, multiple: int, radius: int | None) -> bool:
    """Whether tiles of this size give the same result as the whole photo: side >= 2 radius + 3 BLEND."""
    if radius is None:
        return False
    side = max(2, tile // multiple)
    return side - math.ceil((2 * radius + BLEND) / multiple) >= math.ceil(2 * BLEND / multiple)


class Mosaic:
    """Grid of tiles for photos of one size, with blending of their overlaps, in an order that needs little memory.

    Args:
        size: (H, W) of the photos.
        tile: maximum side of a tile; None: one tile.
        multiple, radius: see `plan_spans`.
    """

    def __init__(self, size: tuple[int, int], tile: int | None, multiple: int = 1, radius: int | None = None):
        self.spans = [plan_spans(length, tile or max(size) + multiple, multiple, radius) for length in size]
        self.size = size
        # Strips of tiles run along the shorter side: the overlap kept for the next strip has the length of that side.
        self.inner = 3 if size[1] <= size[0] else 2  # dimension of (N, C, H, W)
        self._tile_overlap: torch.Tensor | None = None  # of the previous tile of the strip
        self._strip_overlap: torch.Tensor | None = None  # of the previous strip

    def __len__(self) -> int:
        return len(self.spans[0]) * len(self.spans[1])

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        """(rows, columns) of each tile, in the order that `place` expects."""
        rows, columns = self.spans
        if self.inner == 3:
            yield from ((row, column) for row in rows for column in columns)
        else:
            yield from ((row, column) for column in columns for row in rows)

    def place(self, tile: torch.Tensor, rows: Span, columns: Span) -> torch.Tensor:
        """Blends a restored tile with the previous ones, and returns its pixels from `first` to `last`.

        Args:
            tile: restored tile, cropped to `rows.inside` and `columns.inside`, (N, C, h, w), floating point; modified.

        Returns:
            (N, C, rows.last - rows.first, columns.last - columns.first).
        """
        if len(self) == 1:
            return tile
        inner, outer = (columns, rows) if self.inner == 3 else (rows, columns)
        # blend with the previous tile of this strip, keep the overlap for the next one
        tile, self._tile_overlap = _blend(tile, self.inner, inner, self._tile_overlap)
        if not outer.before and not outer.after:
            return tile
        # blend with the previous strip, whose overlap runs along the whole side
        if self._strip_overlap is None:
            shape = [*tile.shape[:2], 0, 0]
            shape[self.inner], shape[5 - self.inner] = self.size[self.inner - 2], max(outer.before, outer.after)
            self._strip_overlap = tile.new_empty(shape)
        overlap = self._strip_overlap.narrow(self.inner, inner.first, inner.last - inner.first)
        tile, kept = _blend(tile, 5 - self.inner, outer, overlap)
        if kept is not None:
            overlap.copy_(kept)
        return tile


def _blend(
    tile: torch.Tensor, dim: int, span: Span, before: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Blends `before` into the tile along `dim`. Returns the tile without its last overlap, and that overlap."""
    if span.before:
        assert before is not None
        weight = torch.arange(1, span.before + 1, device=tile.device, dtype=tile.dtype) / (span.before + 1)
        start = tile.narrow(dim, 0, span.before)
        # start + weight (end - start): exact where both tiles agree
        start.copy_(torch.lerp(before, start.clone(), weight[:, None] if dim == 2 else weight))
    length = span.last - span.first
    kept = tile.narrow(dim, length, span.after).clone() if span.after else None
    return tile.narrow(dim, 0, length), kept


# --- the size of a tile ---


def auto_tile(pixel_bytes: float, device: torch.device, multiple: int = 1, is_global: bool = False) -> int:
    """Side of a square tile, a multiple of `multiple`, that fits into free memory at `pixel_bytes` per pixel.

    For restorers with global reach (`is_global`), tiles are as large as memory allows, on a CPU as well.
    """
    budget = FREE_SHARE * free_memory(device)
    if device.type == "cpu" and not is_global:
        budget = min(budget, CPU_BYTES)
    return max(MIN_TILE, 2 * multiple, int(math.sqrt(budget / pixel_bytes)) // multiple * multiple)


def bytes_per_pixel(restorer: nn.Module, channels: int, device: torch.device, dtype: torch.dtype) -> float:
    """Peak memory of a pass of `restorer`, in bytes per pixel of one batch row; measured once per restorer."""
    known, key = _MEASURED.setdefault(restorer, {}), (channels, device, dtype)
    if key not in known:
        known[key] = _measured_bytes(restorer, channels, device, dtype)
    return known[key]


def _measured_bytes(restorer: nn.Module, channels: int, device: torch.device, dtype: torch.dtype) -> float:
    multiple = RestorerContract.of(restorer).size_multiple
    side = round_up(PROBE, multiple)
    probe = torch.zeros(1, channels, side, side, device=device, dtype=dtype)
    with torch.no_grad(), LiveBytes() as live:
        unwrapped(restorer)(probe)
    # plus the batch and the result in float32
    return SLACK * live.peak / side**2 + 2 * 4 * channels


def free_memory(device: torch.device, groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Free memory of `device` in bytes, or of the host if the device does not report it.

    Args:
        device: torch device.
        groups: folder of the Linux control groups, which limit a container's memory.
    """
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    import psutil  # type: ignore[import-untyped]

    left = [psutil.virtual_memory().available]
    for folder, limit, usage, cache in (  # version 2, version 1
        (groups, "memory.max", "memory.current", "inactive_file"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such group, or no limit ("max")
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            left.append(max(0, most - used + int(statistics[cache])))  # the system drops cached files
    return min(left)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("not enough memory", "can't allocate memory", "out of memory")
    )


def halved(tile: int | None, size: tuple[int, int], multiple: int) -> int | None:
    """The next smaller tile for a photo of (H, W) after `tile` did not fit in memory; None if there is none."""
    side = min(tile or max(size), max(size)) // 2 // multiple * multiple
    return side if side >= max(MIN_TILE, 2 * multiple) else None


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of tensors allocated in it and not yet freed.

    Attributes:
        peak: maximum number of bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._now = 0, 0
        self._storages: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # otherwise torch would import its compiler
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._storages:
            return
        self._storages[storage._cdata] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self._now -= self._storages.pop(key)
