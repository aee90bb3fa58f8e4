"""Contract of a restorer: the properties of a network that callers need. Only this module reads them from networks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class RestorerContract:
    """Properties of a restorer, a network that maps (B, C, H, W) to (B, C, H, W). The defaults apply to plain modules.

    Args:
        channels: number of channels C.
        value_range: (low, high), value range of input and output.
        size_multiple: integer of which height and width of the input must be multiples.
        receptive_radius: maximum distance, in pixels, between an output pixel and an input pixel that affects it; None:
            unknown.
        is_global: whether every output pixel depends on the whole input, so that tiles change the result.
        skips_margins: whether `forward` has an argument `margins`: pixels (top, bottom, left, right) to crop from the
            result.
        has_batch_statistics: whether layers normalize over the batch; synthetic and real photos then need separate
            batches.
        has_gradient_checkpointing: whether `enable_gradient_checkpointing` is supported.
        task: key of `daa_diffusers.checkpoints.tasks.TASKS`; None: unknown.
        license: identifier or name of the license of the weights; None: not stated.
    """

    channels: int = 3
    value_range: tuple[float, float] = (0.0, 1.0)
    size_multiple: int = 1
    receptive_radius: int | None = None
    is_global: bool = False
    skips_margins: bool = False
    has_batch_statistics: bool = False
    has_gradient_checkpointing: bool = False
    task: str | None = None
    license: str | None = None

    @classmethod
    def of(cls, restorer: nn.Module) -> "RestorerContract":
        """The contract of a module. A property is read from an attribute or its `config`; otherwise it is the default.

        Examples:
            >>> from torch import nn
            >>> from daa_diffusers import RestorationUNet
            >>> RestorerContract.of(RestorationUNet(channels=1, width=4, depth=3)).size_multiple
            4
            >>> RestorerContract.of(nn.Identity()).value_range
            (0.0, 1.0)
        """
        network = unwrapped(restorer)
        config = config_of(network)
        low, high = config.get("value_range") or cls.value_range
        radius = _property(network, config, "receptive_radius")
        return cls(
            channels=int(config.get("channels") or cls.channels),
            value_range=(float(low), float(high)),
            size_multiple=int(_property(network, config, "size_multiple") or 1),
            receptive_radius=None if radius is None else int(radius),
            is_global=bool(_property(network, config, "is_global")),
            skips_margins=bool(getattr(network, "skips_margins", False)),
            has_batch_statistics=any(isinstance(module, _BATCH_NORM) for module in network.modules()),
            has_gradient_checkpointing=bool(getattr(network, "_supports_gradient_checkpointing", False)),
            task=config.get("task"),
            license=config.get("license"),
        )

    def to_range(self, x: torch.Tensor) -> torch.Tensor:
        """Converts photos in [0, 1], of any shape, to the restorer's range: `low + x (high - low)`, not clamped."""
        low, high = self.value_range
        return x * (high - low) + low

    def from_range(self, x: torch.Tensor) -> torch.Tensor:
        """Inverse of `to_range`: converts photos in the restorer's range to [0, 1], not clamped."""
        low, high = self.value_range
        return (x - low) / (high - low)


def restore_photos(restorer: nn.Module, photos: torch.Tensor, batch_size: int | None = None) -> torch.Tensor:
    """Restores photos in [0, 1]. The result is in [0, 1], not clamped, in float32 on the CPU.

    Args:
        restorer: restorer on any device, in any precision.
        photos: (B, C, H, W) on any device, H and W multiples of the restorer's `size_multiple`.
        batch_size: number of photos per pass. None: all.
    """
    contract, weight = RestorerContract.of(restorer), next(restorer.parameters())
    batches = photos.split(batch_size or len(photos))
    inputs = (contract.to_range(batch.to(weight.device, weight.dtype)) for batch in batches)
    return torch.cat([contract.from_range(restorer(x)).float().cpu() for x in inputs])


def round_up(side: int, multiple: int) -> int:
    """Returns the smallest multiple of `multiple` that is at least `side`."""
    return -(-side // multiple) * multiple


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the network inside the wrappers of `torch.compile` and of parallel training."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:  # torch.compile
            module = module.get_submodule("_orig_mod")
        else:
            return module


def config_of(network: nn.Module) -> Mapping[str, Any]:
    """The config of a network as a mapping; empty for a module without a config."""
    config = getattr(network, "config", None)
    if isinstance(config, Mapping):
        return config
    return vars(config) if hasattr(config, "__dict__") else {}  # transformers' configs are objects


def _property(network: nn.Module, config: Mapping[str, Any], name: str) -> Any:
    """An attribute of the network, or else an entry of its config, or else None."""
    value = getattr(network, name, None)
    return config.get(name) if value is None else value


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Context in which `module` is in eval mode; the mode of each submodule is restored afterwards."""
    in_training = [submodule for submodule in module.modules() if submodule.training]
    if in_training:
        module.eval()
    try:
        yield
    finally:
        for submodule in in_training:
            submodule.training = True  # `train()` would also change submodules
