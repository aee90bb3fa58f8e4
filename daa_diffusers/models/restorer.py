"""Contract of a restorer: the properties of a network that callers rely on. Only this file reads them from networks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class RestorerContract:
    """Properties of a restorer, which maps (B, C, H, W) to (B, C, H, W); the defaults are those of a plain module.

    Args:
        channels: C, of the input and the output.
        value_range: (low, high) of the values of input and output.
        size_multiple: height and width of the input must be multiples of this.
        receptive_radius: largest distance, in pixels, between an input pixel and an output pixel that depends on it;
            None: unknown.
        is_global: every output pixel depends on the whole input, so that a tiled result differs from an untiled one.
        skips_margins: `forward` has an argument `margins`, pixels (top, bottom, left, right) left out of the result.
        has_batch_statistics: some layers normalize over the batch; synthetic and real photos need separate batches.
        has_gradient_checkpointing: `enable_gradient_checkpointing` works.
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
        """The contract of any module: each property is its attribute, else an entry of its `config`, else the default.

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
        """Photos in [0, 1], of any shape -> the restorer's range: `low + x (high - low)`, not clamped."""
        low, high = self.value_range
        return x * (high - low) + low

    def from_range(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_range`: photos in the restorer's range -> [0, 1], not clamped."""
        low, high = self.value_range
        return (x - low) / (high - low)


def restore_photos(restorer: nn.Module, photos: torch.Tensor, at_once: int | None = None) -> torch.Tensor:
    """Photos in [0, 1] -> the restored photos in [0, 1], not clamped, float32 on the CPU.

    Args:
        restorer: on any device, in any precision.
        photos: (B, C, H, W), H and W multiples of the restorer's `size_multiple`, on any device.
        at_once: batch size; None: all photos in one batch.
    """
    contract, weight = RestorerContract.of(restorer), next(restorer.parameters())
    batches = (contract.to_range(part.to(weight.device, weight.dtype)) for part in photos.split(at_once or len(photos)))
    return torch.cat([contract.from_range(restorer(batch)).float().cpu() for batch in batches])


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside the wrappers of `torch.compile` and of parallel training."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:  # torch.compile
            module = module.get_submodule("_orig_mod")
        else:
            return module


def config_of(network: nn.Module) -> Mapping[str, Any]:
    """The config of a network as a mapping, empty for a module without one."""
    config = getattr(network, "config", None)
    if isinstance(config, Mapping):
        return config
    # configs of the transformers library are objects
    return vars(config) if hasattr(config, "__dict__") else {}


def _property(network: nn.Module, config: Mapping[str, Any], name: str) -> Any:
    """An attribute of the network, else the entry of its config, else None."""
    value = getattr(network, name, None)
    return config.get(name) if value is None else value


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Context in which `module` is in eval mode; the mode of each submodule is restored afterwards."""
    training = [m for m in module.modules() if m.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True  # `train()` would set its submodules too
