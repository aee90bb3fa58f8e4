"""Probing of foreign networks by running them: channels, sizes and receptive field."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..models.restorer import in_eval_mode, round_up

logger = logging.getLogger(__name__)

SIDE = 64  # side of the test photos in pixels; larger if the size multiple or the minimum size requires it
MULTIPLES = (2, 4, 8, 16, 32, 64, 128)  # size multiples to try after a failure
# Measurement of the receptive field.
REACH_SIDES = (64, 128, 256)  # sides of the test photos in pixels
REACH_BYTES = 2**30  # memory limit
FAINT = 1e-20  # fraction of the strongest influence below which an input has none; masked attention leaks about 1e-44
BLOCK = 8  # smallest side of the block of output pixels, which covers all phases of strides and windows

# Layers that pool over the whole photo (SE and SCA blocks, statistics), so that tiles change the result.
GLOBAL_LAYERS = (
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm
)  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """Traits of a network; the fields are those of `ForeignRestorer`'s config.

    `minimum_size`, `receptive_radius` and `is_global` may be None: not measured yet.
    """

    channels: int = 3
    value_range: tuple[float, float] = (0.0, 1.0)
    size_multiple: int = 1
    minimum_size: int | None = None
    square: bool = False
    noise_level: float | None = None
    output_item: int | str | None = None
    receptive_radius: int | None = None
    is_global: bool | None = None


def call(network: nn.Module, photos: torch.Tensor, noise_level: float | None, item: int | str | None) -> Any:
    """Calls a network on photos (B, C, H, W), and returns its output, or one item of the output.

    For networks with the noise level as input (DRUNet, FDnCNN), it is appended as a constant channel.
    """
    if noise_level is not None:
        photos = torch.cat([photos, torch.full_like(photos[:, :1], noise_level)], dim=1)
    output = network(photos)
    return output if item is None else output[item]


def probe(network: nn.Module, traits: Traits) -> Traits:
    """Runs `network` on random photos, and returns `traits` completed by measurements.

    Raises:
        ValueError: the network holds NaN, fails, changes the size, does not return a tensor, is not deterministic,
            mixes the photos of a batch, or needs a trait that is not declared (the message states which).
    """
    check_weights(network)
    with in_eval_mode(network), torch.no_grad():
        measured = _Runs(network, traits).check()
    if measured.is_global is None:
        radius, is_global = measure_reach(network, measured)
        if measured.receptive_radius is None:
            measured = replace(measured, receptive_radius=radius)
        measured = replace(measured, is_global=is_global)
    return measured


def check_weights(network: nn.Module) -> None:
    """Raises ValueError if a parameter or buffer holds NaN, or a parameter infinity."""
    broken = [name for name, t in network.named_parameters() if t.is_floating_point() and not torch.isfinite(t).all()]
    broken += [name for name, t in network.named_buffers() if torch.isnan(t).any()]  # masks may be infinite
    if broken:
        names = ", ".join(broken[:4])
        raise ValueError(f"the network has NaN or infinite weights: {names}; the checkpoint is damaged")


class _Runs:
    """Runs of a network in eval mode and without gradients, for `probe`."""

    def __init__(self, network: nn.Module, traits: Traits):
        self.network = network
        self.traits = traits
        first = next((t for t in network.parameters() if t.is_floating_point()), torch.empty(0))
        self.device, self.dtype = first.device, first.dtype

    def check(self) -> Traits:
        """Runs all checks, and returns the traits with the minimum size."""
        traits = self.traits
        side = self.side()
        wide = side if traits.square else side + traits.size_multiple
        photos = self.photos(2, side, wide)
        restored = self._first_run(photos)
        if not torch.isfinite(restored).all():
            raise ValueError("the network returns NaN or infinity for a photo of random pixels in `value_range`")
        self._check_determinism(photos, restored)
        self._check_sizes(side)
        return replace(traits, minimum_size=traits.minimum_size or self._smallest(side))

    def photos(self, batch: int, height: int, width: int) -> torch.Tensor:
        """Photos (B, C, H, W) of random pixels in the value range, each darker than the previous one."""
        low, high = self.traits.value_range
        draw = torch.Generator().manual_seed(0)
        photos = torch.rand(batch, self.traits.channels, height, width, generator=draw)
        photos *= torch.linspace(1, 0.3, batch)[:, None, None, None]
        return (low + (high - low) * photos).to(self.device, self.dtype)

    def restore(self, photos: torch.Tensor) -> torch.Tensor | str:
        """Returns the restored photos, or a description of the problem."""
        try:
            restored = call(self.network, photos, self.traits.noise_level, self.traits.output_item)
        except Exception as error:  # a foreign network may raise any exception
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        if not isinstance(restored, torch.Tensor):
            return f"it returned a {type(restored).__name__}"
        if restored.shape != photos.shape:
            return f"{tuple(photos.shape)} became {tuple(restored.shape)}"
        return restored

    def works(self, height: int, width: int, channels: int | None = None) -> bool:
        """Returns whether the network restores a photo of this size without changing the size."""
        runs = self if channels is None else _Runs(self.network, replace(self.traits, channels=channels))
        return isinstance(runs.restore(runs.photos(1, height, width)), torch.Tensor)

    def side(self) -> int:
        """Returns a valid side of a test photo, at least `SIDE`."""
        return round_up(max(SIDE, self.traits.minimum_size or 1), self.traits.size_multiple)

    def _first_run(self, photos: torch.Tensor) -> torch.Tensor:
        """Returns the restored photos, or raises ValueError with the declaration that would solve the problem."""
        restored = self.restore(photos)
        if isinstance(restored, torch.Tensor):
            return restored
        height, width = photos.shape[2:]
        declared = self.traits.size_multiple
        sides = {m: round_up(SIDE, m) for m in (declared, *MULTIPLES) if m % declared == 0}
        for multiple, side in sides.items():
            if self.works(side, side + multiple):
                raise ValueError(_needs_multiple(multiple, declared))
        for multiple, side in sides.items():
            if self.works(side, side) and self.works(side + multiple, side + multiple):
                more = f", size_multiple={multiple}" if multiple != declared else ""
                raise ValueError(f"the network requires square photos: declare square=True{more}")
        for channels in (1, 3, 4):
            if channels != self.traits.channels and self.works(height, width, channels):
                raise ValueError(f"the network requires {channels} channels: declare channels={channels}")
        raise ValueError(self._explain(photos, restored))

    def _explain(self, photos: torch.Tensor, problem: str) -> str:
        """Returns a message for a failure that no declaration of sizes or channels solves."""
        try:
            output = call(self.network, photos, self.traits.noise_level, None)
        except Exception:  # described by `problem`
            return f"the network fails on photos {tuple(photos.shape)}: {problem}"
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            ratio = output.shape[3] / photos.shape[3]
            size = f" ({ratio:g} times the size)" if ratio > 1 and ratio == output.shape[2] / photos.shape[2] else ""
            shapes = f"{tuple(photos.shape)} became {tuple(output.shape)}"
            return f"the network must not change the shape: {shapes}{size}"
        if self.traits.output_item is not None:
            return f"`output_item` {self.traits.output_item!r} is not a photo: {problem}"
        return _explain_items(photos, output)

    def _check_determinism(self, photos: torch.Tensor, restored: torch.Tensor) -> None:
        """Raises ValueError if a second run, or one with the first photo alone, gives another result."""
        scale = restored.abs().max().clamp_min(1e-3)
        state = torch.get_rng_state()
        torch.manual_seed(torch.initial_seed() + 1)
        again = self.restore(photos)
        torch.set_rng_state(state)
        if not isinstance(again, torch.Tensor) or (again - restored).abs().max() > 1e-3 * scale:
            raise ValueError(
                "the network must be deterministic in eval mode, but two results for one photo differ (dropout or "
                "noise that ignores `self.training`?)"
            )
        alone = self.restore(photos[:1])
        if not isinstance(alone, torch.Tensor) or (alone - restored[:1]).abs().max() > 1e-2 * scale:
            raise ValueError(
                "the result for a photo must not depend on the other photos of its batch (batch statistics in eval "
                "mode: track_running_stats=False?)"
            )

    def _check_sizes(self, side: int) -> None:
        """Checks other multiples of the declared size multiple."""
        multiple = self.traits.size_multiple
        for more in (1, 3):
            height = side + more * multiple
            width = height if self.traits.square else side + 2 * more * multiple
            if self.works(height, width):
                continue
            for wider in (m for m in MULTIPLES if m > multiple and m % multiple == 0):
                least = round_up(side, wider)
                if all(self.works(least + k * wider, least + k * wider) for k in (1, 3)):
                    raise ValueError(_needs_multiple(wider, multiple))
            problem = self.restore(self.photos(1, height, width))
            raise ValueError(f"the network works on {side} x {side} pixels, but not on {height} x {width}: {problem}")

    def _smallest(self, side: int) -> int:
        """Returns the smallest valid size among 1, 2, 4, ... times the size multiple."""
        size = self.traits.size_multiple
        while size < side and not self.works(size, size):
            size *= 2
        return min(size, side)


def _needs_multiple(multiple: int, declared: int) -> str:
    return (
        f"the network needs sizes that are multiples of {multiple}, not only of {declared}: declare "
        f"size_multiple={multiple}"
    )


def _explain_items(photos: torch.Tensor, output: Any) -> str:
    """Returns a message for an output that is not a tensor, with the items of it that may be the restored photo."""
    items = dict(output) if isinstance(output, Mapping) else {}
    if isinstance(output, list | tuple):
        items = dict(enumerate(output))
    fitting = [key for key, item in items.items() if isinstance(item, torch.Tensor) and item.shape == photos.shape]
    if not fitting:
        return f"the network must return a photo, but returns a {type(output).__name__} without such a tensor"
    return (
        f"the network returns a {type(output).__name__}, not a tensor: declare which item is the restored photo, "
        f"output_item={fitting[0]!r}" + (f" (or {', '.join(map(repr, fitting[1:]))})" if len(fitting) > 1 else "")
    )


# --- the receptive field ---


def measure_reach(network: nn.Module, traits: Traits) -> tuple[int | None, bool]:
    """Measures the receptive radius of a network, in pixels, and whether outputs depend on all inputs (global).

    The gradient of a small block of outputs is measured on a copy with positive random weights, so that layers
    initialized to zero count as well. The radius is an upper bound, too large by at most the side of the block; None if
    it is too large to be measured. The network is global if it has layers that pool over the photo, or if the influence
    of inputs does not decrease with distance.
    """
    if any(isinstance(module, GLOBAL_LAYERS) for module in network.modules()):
        return None, True
    try:
        measured = _with_positive_weights(copy.deepcopy(network)).eval()
    except (RuntimeError, TypeError) as error:
        logger.debug("the receptive radius is not measured: %s", error)
        return None, False
    block = max(BLOCK, traits.size_multiple)
    least = max(traits.minimum_size or 1, 2 * block)
    influence = None
    for side in sorted({round_up(max(side, least), block) for side in REACH_SIDES}):
        start = (side // block // 2) * block  # of the block of outputs, in both directions
        influence = _influence(measured, traits, side, slice(start, start + block))
        if influence is None:
            return None, False
        reached = (influence > FAINT * influence.max()).nonzero()  # (N, 2)
        low, high = reached.min().item(), reached.max().item()
        if low > 0 and high < side - 1:
            return int(max(start - low, high - (start + block - 1))) + block - 1, False
    return None, influence is not None and _is_flat(influence)


def _with_positive_weights(network: nn.Module) -> nn.Module:
    """Sets all parameters to random numbers of a mean of 1 per output of a layer, without gradients."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.float().parameters():
            weights = torch.rand(parameter.shape, generator=draw) + 0.5
            if parameter.ndim > 1:
                weights /= max(1, parameter[0].numel())
            parameter.copy_(weights)
            parameter.requires_grad_(False)
    return network


def _influence(network: nn.Module, traits: Traits, side: int, block: slice) -> torch.Tensor | None:
    """Computes |d(block of outputs) / d(input)|, (side, side); None if it needs too much memory, or is not finite."""
    photos = _Runs(network, traits).photos(1, side, side).requires_grad_()
    saved = 0  # bytes kept for the backward pass

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.nbytes
        if saved > REACH_BYTES:
            raise MemoryError
        return tensor

    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            restored = call(network, photos, traits.noise_level, traits.output_item)
            (gradient,) = torch.autograd.grad(restored[:, :, block, block].sum(), photos)
    except (MemoryError, RuntimeError) as error:
        logger.debug("the receptive radius is not measured on %d pixels: %s", side, error)
        return None
    influence = gradient.abs().amax(dim=(0, 1)).cpu()
    return influence if torch.isfinite(influence).all() and influence.any() else None


def _is_flat(influence: torch.Tensor) -> bool:
    """Returns whether the influence of inputs does not decrease toward the edges, as with pooling over the photo."""
    side = len(influence)
    if side < REACH_SIDES[-1]:
        return False
    near, far = slice(side // 10, side // 8), slice(0, side // 40)  # rows, from the edge
    rotated = [influence.rot90(turns) for turns in range(4)]  # an attention window may end near one edge only
    return all(bool(edge[far].mean() > edge[near].mean() / 2 > 0) for edge in rotated)


def photos_of(network: nn.Module, traits: Any, least: int) -> torch.Tensor:
    """Returns a random photo (1, C, side, side) of a valid size, at least `least`, on the network's device."""
    side = round_up(least, traits.size_multiple)
    return _Runs(network, traits).photos(1, side, side)


def same_output(network: nn.Module, other: nn.Module, traits: Traits) -> bool:
    """Returns whether two networks restore a photo equally, up to rounding."""
    runs = [_Runs(network, traits), _Runs(other, traits)]
    other.to(runs[0].device, runs[0].dtype)
    side = runs[0].side()
    photos = runs[0].photos(1, side, side)
    with in_eval_mode(network), in_eval_mode(other), torch.no_grad():
        first, second = (run.restore(photos) for run in runs)
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return False
    return bool((first - second).abs().max() <= 1e-3 * first.abs().max().clamp_min(1e-3))
