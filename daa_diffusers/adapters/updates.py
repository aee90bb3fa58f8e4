"""Parametrizations of a frozen restorer: the small trained updates that make up an adapter.

An update is added to a parameter itself (`torch.nn.utils.parametrize`), never to the output of a layer. So it works in
any module, even in one that uses the weights of its layers directly, and costs nothing once it is fused.
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

_CONVOLUTIONS = nn.modules.conv._ConvNd  # of one to three dimensions, transposed ones as well
_ORIGINAL = "original"  # name under which `parametrize` keeps the parameter without its update


class Update(nn.Module):
    """Additive update of one parameter, zero before training."""

    def reset_parameters(self) -> None:
        """Initializes the parameters that must not start at zero, from torch's global generator."""

    def delta(self, shape: torch.Size) -> torch.Tensor:
        """What is added to a parameter of this shape."""
        raise NotImplementedError

    def fit(self, delta: torch.Tensor) -> None:
        """Sets the parameters so that `self.delta` is the least-squares approximation of `delta`."""
        raise NotImplementedError

    def forward(self, parameter: torch.Tensor) -> torch.Tensor:
        """The updated parameter."""
        return parameter + self.delta(parameter.shape)


class Shift(Update):
    """Offset of a vector parameter, such as a bias or the scale of a norm; adapters of every kind have it."""

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
    """Kind "pointwise": a 1x1 convolution beside a convolution, which is an update of the center of its kernel.

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
    """Kind "lora": the product of two thin matrices, added to a kernel seen as the matrix (out, in * sides).

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
    """The updates that an adapter of `kind` has for `restorer`, by name of the parameter; not attached to it.

    Args:
        restorer: any module. Parameters that several of its modules share get no update.
        kind: "bias": vectors, that is biases and the scales of norms. "pointwise": also the centers of convolution
            kernels whose sides are odd (all of a 1x1 kernel). "lora": the vectors, and low-rank updates of convolutions
            and linear layers.
        rank: of "lora".

    Raises:
        ConfigurationError: unknown `kind`, a `rank` below 1, or a restorer without parameters of this kind.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"`adapter` must be one of {', '.join(KINDS)}, got {kind!r}")
    if not isinstance(rank, int) or rank < 1:
        raise ConfigurationError(f"`adapter_rank` must be a whole number, at least 1, got {rank!r}")
    uses = Counter(id(parameter) for _, parameter in restorer.named_parameters(remove_duplicate=False))
    updates = {}
    for path, module in restorer.named_modules():
        if isinstance(module, parametrize.ParametrizationList):  # of the network itself, such as weight norm
            continue
        for name, parameter in module.named_parameters(recurse=False):
            update = _update(module, name, parameter, kind, rank) if uses[id(parameter)] == 1 else None
            if update is not None:
                updates[f"{path}.{name}" if path else name] = update
    if not updates:
        raise ConfigurationError(f"`adapter` {kind!r}: {type(restorer).__name__} has no parameters of this kind")
    return updates


def _update(module: nn.Module, name: str, parameter: nn.Parameter, kind: str, rank: int) -> Update | None:
    like = parameter.detach().float()
    if parameter.numel() == max(parameter.shape, default=1):
        return Shift(like)
    if name != "weight" or kind == "bias":
        return None
    if kind == "pointwise":
        has_middle = isinstance(module, _CONVOLUTIONS) and all(side % 2 for side in parameter.shape[2:])
        return Pointwise(like) if has_middle else None
    return LowRank(like, rank) if isinstance(module, _CONVOLUTIONS | nn.Linear) else None


@torch.no_grad()
def extract(base: nn.Module, adapted: nn.Module, kind: str, rank: int = 12) -> dict[str, Update]:
    """The adapter that brings `base` nearest to `adapted`, parameter by parameter; nothing is trained.

    Args:
        base, adapted: of one architecture; `adapted` was trained further from `base`.
        kind, rank: as in `updates_for`.

    Raises:
        ConfigurationError: the names or shapes of their parameters differ, or as in `updates_for`.
    """
    ours, theirs = dict(base.named_parameters()), dict(adapted.named_parameters())
    shapes = [{name: value.shape for name, value in parameters.items()} for parameters in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ConfigurationError("`base` and `adapted` must be of one architecture: their parameters differ")
    updates = updates_for(base, kind, rank)
    for name, update in updates.items():
        update.fit(theirs[name].detach().cpu() - ours[name].detach().cpu())
    return updates


def attach(restorer: nn.Module, updates: Mapping[str, Update]) -> None:
    """Freezes `restorer` and attaches updates to its parameters; only the updates are trained."""
    restorer.requires_grad_(False)
    for name, update in updates.items():
        path, _, last = name.rpartition(".")
        module = restorer.get_submodule(path)
        parametrize.register_parametrization(module, last, update.to(getattr(module, last)))


def attached(restorer: nn.Module) -> dict[str, Update]:
    """The updates that `attach` attached, by name of the parameter."""
    return {
        f"{path}.{name}" if path else name: update
        for path, module in restorer.named_modules()
        if parametrize.is_parametrized(module)
        for name, updates in module.parametrizations.items()
        for update in updates
        if isinstance(update, Update)
    }


def merge(restorer: nn.Module) -> None:
    """Fuses the attached updates into the parameters, and unfreezes these."""
    for name in attached(restorer):
        path, _, last = name.rpartition(".")
        parametrize.remove_parametrizations(restorer.get_submodule(path), last, leave_parametrized=True)
    restorer.requires_grad_(True)


def base_parameters(restorer: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of `restorer` by name, without the attached updates."""
    changed = attached(restorer)
    plain: dict[str, torch.Tensor] = dict(restorer.named_parameters())
    for name in changed:
        path, _, last = name.rpartition(".")
        prefix = f"{path}.parametrizations.{last}." if path else f"parametrizations.{last}."
        original = plain[f"{prefix}{_ORIGINAL}"]
        plain = {key: value for key, value in plain.items() if not key.startswith(prefix)} | {name: original}
    return plain


def statistics(restorer: nn.Module) -> dict[str, torch.Tensor]:
    """The running means and variances of batch norms by name: they depend on the photos, so an adapter stores them."""
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in restorer.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
