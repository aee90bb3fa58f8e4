"""Parametrizations of a frozen restorer: the small trained updates of an adapter.

An update is added to a parameter (`torch.nn.utils.parametrize`), never to the output of a layer. It therefore works in
any module, even in one that uses the weights of its layers directly, and costs no time once it is fused.
"""

import math
from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from ..errors import ConfigurationError
from ..hub.fingerprint import fingerprint as fingerprint

KINDS = ("bias", "pointwise", "lora")

_CONVOLUTIONS = nn.modules.conv._ConvNd  # base class of all convolutions, transposed ones included
_ORIGINAL = "original"  # name under which `parametrize` keeps the parameter without its update


class Update(nn.Module):
    """Additive update of one parameter, zero before training."""

    def reset_parameters(self) -> None:
        """Initializes the parameters that must not start at zero, from torch's global generator."""

    def delta(self, shape: torch.Size) -> torch.Tensor:
        """Returns the change to add to a parameter of this shape."""
        raise NotImplementedError

    def fit(self, delta: torch.Tensor) -> None:
        """Sets the parameters so that `self.delta` is the least-squares approximation of `delta`."""
        raise NotImplementedError

    def forward(self, parameter: torch.Tensor) -> torch.Tensor:
        """Returns the updated parameter."""
        return parameter + self.delta(parameter.shape)


class Shift(Update):
    """Offset of a vector parameter, such as a bias or the scale of a norm; part of adapters of every kind."""

    def __init__(self, like: torch.Tensor):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(like))

    def delta(self, shape: torch.Size) -> torch.Tensor:
        """See `Update`."""
        return self.shift

    def fit(self, delta: torch.Tensor) -> None:
        """See `Update`."""
        self.shift.copy_(delta)


class Pointwise(Update):
    """Kind "pointwise": a 1x1 convolution parallel to a convolution, which is an update of the kernel's center.

    Source: Rebuffi, Bilen, Vedaldi 2018, "Efficient parametrization of multi-domain deep neural networks" (parallel
    residual adapters).
    """

    def __init__(self, like: torch.Tensor):
        super().__init__()
        self.pointwise = nn.Parameter(like.new_zeros(like.shape[:2]))

    def delta(self, shape: torch.Size) -> torch.Tensor:
        """See `Update`; all sides of the kernel are odd."""
        around = [side // 2 for side in reversed(shape[2:]) for _ in range(2)]
        return F.pad(self.pointwise.reshape(*shape[:2], *[1] * (len(shape) - 2)), around)

    def fit(self, delta: torch.Tensor) -> None:
        """See `Update`."""
        for side in delta.shape[2:]:
            delta = delta.select(2, side // 2)
        self.pointwise.copy_(delta)


class LowRank(Update):
    """Kind "lora": the product of two low-rank matrices, added to a kernel reshaped to a matrix (out, in * sides).

    Source: Hu et al. 2022, "LoRA", with alpha equal to the rank; for convolutions as in peft.
    """

    def __init__(self, like: torch.Tensor, rank: int):
        super().__init__()
        rows, columns = like.shape[0], like[0].numel()
        rank = min(rank, rows, columns)
        self.lora_A = nn.Parameter(like.new_zeros(rank, columns))
        self.lora_B = nn.Parameter(like.new_zeros(rows, rank))

    def reset_parameters(self) -> None:
        """See `Update`: A is initialized like the weight of `nn.Linear`, B stays zero."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def delta(self, shape: torch.Size) -> torch.Tensor:
        """See `Update`."""
        return (self.lora_B @ self.lora_A).view(shape)

    def fit(self, delta: torch.Tensor) -> None:
        """See `Update`: truncated SVD (Eckart and Young 1936), with the singular values split between both matrices."""
        left, values, right = torch.linalg.svd(delta.flatten(1).float(), full_matrices=False)
        root = values[: len(self.lora_A)].sqrt()
        self.lora_B.copy_(left[:, : len(root)] * root)
        self.lora_A.copy_(root[:, None] * right[: len(root)])


def updates_for(restorer: nn.Module, kind: str, rank: int = 12) -> dict[str, Update]:
    """Creates the updates of an adapter for `restorer`, by name of the parameter, without attaching them.

    Args:
        restorer: any module. Parameters shared by several of its modules get no update.
        kind: "bias" updates vectors (biases and scales of norms). "pointwise" updates vectors, and the centers of
            convolution kernels with odd sides. "lora" updates vectors, and convolutions and linear layers by low-rank
            matrices.
        rank: rank of kind "lora".

    Raises:
        ConfigurationError: unknown `kind`, a `rank` below 1, or a restorer without parameters for this kind.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"`adapter` must be one of {', '.join(KINDS)}, got {kind!r}")
    if not isinstance(rank, int) or rank < 1:
        raise ConfigurationError(f"`adapter_rank` must be a whole number, at least 1, got {rank!r}")
    uses = Counter(id(parameter) for _, parameter in restorer.named_parameters(remove_duplicate=False))
    updates = {}
    for path, module in restorer.named_modules():
        if isinstance(module, parametrize.ParametrizationList):  # the network's own, such as weight norm
            continue
        for name, parameter in module.named_parameters(recurse=False):
            update = _update(module, name, parameter, kind, rank) if uses[id(parameter)] == 1 else None
            if update is not None:
                updates[f"{path}.{name}" if path else name] = update
    if not updates:
        raise ConfigurationError(f"`adapter` {kind!r}: {type(restorer).__name__} has no parameters for this kind")
    return updates


def _update(module: nn.Module, name: str, parameter: nn.Parameter, kind: str, rank: int) -> Update | None:
    """Creates the update of one parameter of a module; None if adapters of this kind have none for it."""
    like = parameter.detach().float()
    if parameter.numel() == max(parameter.shape, default=1):
        return Shift(like)
    if name != "weight" or kind == "bias":
        return None
    if kind == "pointwise":
        has_center = isinstance(module, _CONVOLUTIONS) and all(side % 2 for side in parameter.shape[2:])
        return Pointwise(like) if has_center else None
    return LowRank(like, rank) if isinstance(module, _CONVOLUTIONS | nn.Linear) else None


@torch.no_grad()
def extract(base: nn.Module, adapted: nn.Module, kind: str, rank: int = 12) -> dict[str, Update]:
    """Computes the adapter that brings `base` nearest to `adapted`, parameter by parameter, without training.

    Args:
        base, adapted: restorers of the same architecture; `adapted` was trained from `base`.
        kind, rank: as for `updates_for`.

    Raises:
        ConfigurationError: as for `updates_for`; or names or shapes of parameters differ.
    """
    before, after = dict(base.named_parameters()), dict(adapted.named_parameters())
    if {name: p.shape for name, p in before.items()} != {name: p.shape for name, p in after.items()}:
        raise ConfigurationError("`base` and `adapted` must have the same architecture: their parameters differ")
    updates = updates_for(base, kind, rank)
    for name, update in updates.items():
        update.fit(after[name].detach().cpu() - before[name].detach().cpu())
    return updates


def attach(restorer: nn.Module, updates: Mapping[str, Update]) -> None:
    """Freezes `restorer` and attaches updates to its parameters, so that only the updates are trained."""
    restorer.requires_grad_(False)
    for name, update in updates.items():
        path, _, last = name.rpartition(".")
        module = restorer.get_submodule(path)
        parametrize.register_parametrization(module, last, update.to(getattr(module, last)))


def attached(restorer: nn.Module) -> dict[str, Update]:
    """Returns the attached updates, by name of the parameter."""
    return {
        f"{path}.{name}" if path else name: update
        for path, module in restorer.named_modules()
        if parametrize.is_parametrized(module)
        for name, updates in module.parametrizations.items()
        for update in updates
        if isinstance(update, Update)
    }


def merge(restorer: nn.Module) -> None:
    """Fuses the attached updates into the parameters, and unfreezes the parameters."""
    for name in attached(restorer):
        path, _, last = name.rpartition(".")
        parametrize.remove_parametrizations(restorer.get_submodule(path), last, leave_parametrized=True)
    restorer.requires_grad_(True)


def base_parameters(restorer: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the parameters of `restorer` by name, without the attached updates."""
    plain: dict[str, torch.Tensor] = dict(restorer.named_parameters())
    for name in attached(restorer):
        path, _, last = name.rpartition(".")
        prefix = f"{path}.parametrizations.{last}." if path else f"parametrizations.{last}."
        original = plain[f"{prefix}{_ORIGINAL}"]
        plain = {key: value for key, value in plain.items() if not key.startswith(prefix)} | {name: original}
    return plain


def statistics(restorer: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the running means and variances of batch norms by name, which adapters store as well."""
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in restorer.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
