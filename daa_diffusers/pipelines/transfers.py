"""Transfers of pixels to a CUDA device and back, in parts, through page-locked memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

# Bytes per part. While one part is transferred, the next one is copied within host memory. torch keeps page-locked
# memory for reuse, so that parts of one size are allocated once.
PART_BYTES = 8 * 2**20


def to_device(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies pixels (C, H, W) to `device`; to CUDA in interleaved order, without waiting for the copy."""
    if device.type != "cuda" or pixels.device.type != "cpu":
        return pixels.to(device)
    return upload(pixels, device)


def from_device(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Inverse of `to_device`: copies pixels (C, H, W) to `device`, and waits for the copy."""
    if device.type != "cpu" or pixels.device.type != "cuda":
        return pixels.to(device)
    return download(pixels)


def upload(pixels: torch.Tensor, device: torch.device, pinned: bool = True) -> torch.Tensor:
    """Copies pixels (C, H, W) from the host to `device` in parts; `pinned`: through page-locked memory."""
    rows = pixels.permute(1, 2, 0)  # (H, W, C), the order of a photo in memory
    result = torch.empty(rows.shape, dtype=rows.dtype, device=device)
    for part in _parts(rows):
        staged = torch.empty(rows[part].shape, dtype=rows.dtype, pin_memory=pinned).copy_(rows[part])
        result[part].copy_(staged, non_blocking=True)  # torch keeps `staged` until the copy is done
    return result.permute(2, 0, 1)


def download(pixels: torch.Tensor, pinned: bool = True) -> torch.Tensor:
    """Copies pixels (C, H, W) from a device to pageable host memory in parts; `pinned` as for `upload`."""
    rows = pixels.permute(1, 2, 0).contiguous()  # (H, W, C)
    result = _pageable_memory(rows)
    pending = []
    for part in _parts(rows):
        staged = torch.empty(rows[part].shape, dtype=rows.dtype, pin_memory=pinned)
        staged.copy_(rows[part], non_blocking=True)
        pending.append((part, staged, _event(rows.device)))
    for part, staged, copied in pending:
        if copied is not None:
            copied.synchronize()
        result[part].copy_(staged)
    return result.permute(2, 0, 1)


def _pageable_memory(rows: torch.Tensor) -> torch.Tensor:
    """Allocates host memory by numpy, which uses huge pages: mapping them takes a fraction of the time."""
    if rows.dtype == torch.bfloat16:  # numpy has no such type
        return torch.empty(rows.shape, dtype=rows.dtype)
    dtype = torch.empty(0, dtype=rows.dtype).numpy().dtype  # as a numpy dtype
    return torch.from_numpy(np.empty(rows.shape, dtype))


def _event(device: torch.device) -> torch.cuda.Event | None:
    """Records an event on a CUDA device; None on other devices, where copies are synchronous."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _parts(rows: torch.Tensor) -> Iterator[slice]:
    """Ranges of rows (H, W, C) of `PART_BYTES` each, at least one row."""
    step = max(1, PART_BYTES // (rows[0].numel() * rows.element_size()))
    yield from (slice(start, start + step) for start in range(0, len(rows), step))


def weights_in_channels_last(module: nn.Module) -> None:
    """Converts weights of 2D convolutions to channels-last, in place; otherwise each pass converts them."""
    for layer in module.modules():
        weight = layer._parameters.get("weight") if isinstance(layer, nn.Conv2d) else None
        if weight is not None:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
