"""Transfers of pixels to a CUDA device and back: in the photo's own dtype, through page-locked memory, part by part."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

# While one part is transferred the next one is copied within the host's memory. torch keeps page-locked memory for
# reuse, so that parts of one size are allocated once.
PART_BYTES = 8 * 2**20


def uploaded(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Pixels (C, H, W) on `device`; on a CUDA device in interleaved order, and without waiting for the copy."""
    if device.type != "cuda" or pixels.device.type != "cpu":
        return pixels.to(device)
    return upload(pixels, device)


def downloaded(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The inverse, which waits: pixels (C, H, W) on `device`, from a CUDA device in interleaved order."""
    if device.type != "cpu" or pixels.device.type != "cuda":
        return pixels.to(device)
    return download(pixels)


def upload(pixels: torch.Tensor, device: torch.device, pinned: bool = True) -> torch.Tensor:
    """`uploaded` from the host to `device`; `pinned` False: through pageable memory, for devices without the other."""
    rows = pixels.permute(1, 2, 0)  # (H, W, C), the order of a photo in memory
    landed = torch.empty(rows.shape, dtype=rows.dtype, device=device)
    for part in _parts(rows):
        staged = torch.empty(rows[part].shape, dtype=rows.dtype, pin_memory=pinned).copy_(rows[part])
        landed[part].copy_(staged, non_blocking=True)  # torch keeps `staged` until the copy is done
    return landed.permute(2, 0, 1)


def download(pixels: torch.Tensor, pinned: bool = True) -> torch.Tensor:
    """`downloaded` to the host; `pinned` as for `upload`. The result is ordinary memory."""
    rows = pixels.permute(1, 2, 0).contiguous()  # (H, W, C)
    landed = _ordinary_memory(rows)
    on_the_way = []
    for part in _parts(rows):
        staged = torch.empty(rows[part].shape, dtype=rows.dtype, pin_memory=pinned)
        staged.copy_(rows[part], non_blocking=True)
        on_the_way.append((part, staged, _event(rows.device)))
    for part, staged, arrived in on_the_way:
        if arrived is not None:
            arrived.synchronize()
        landed[part].copy_(staged)
    return landed.permute(2, 0, 1)


def _ordinary_memory(rows: torch.Tensor) -> torch.Tensor:
    """Memory of the host for a copy: numpy's, in huge pages, which are mapped in a fraction of the time."""
    if rows.dtype == torch.bfloat16:  # numpy has no such type
        return torch.empty(rows.shape, dtype=rows.dtype)
    return torch.from_numpy(np.empty(rows.shape, torch.empty(0, dtype=rows.dtype).numpy().dtype))


def _event(device: torch.device) -> torch.cuda.Event | None:
    """Marks what is queued on a CUDA device so far; None on other devices, where copies wait."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _parts(rows: torch.Tensor) -> Iterator[slice]:
    """Ranges of rows (H, W, C) of `PART_BYTES` each, at least a row."""
    step = max(1, PART_BYTES // (rows[0].numel() * rows.element_size()))
    yield from (slice(start, start + step) for start in range(0, len(rows), step))


def weights_in_channels_last(module: nn.Module) -> None:
    """Orders the weights of 2D convolutions as their inputs are, in place: else each pass orders them on the device."""
    for layer in module.modules():
        weight = layer._parameters.get("weight") if isinstance(layer, nn.Conv2d) else None
        if weight is not None:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
