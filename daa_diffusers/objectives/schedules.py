"""Noise levels, the random draws of a joint step, and the weight of the adaptation term."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers.utils.torch_utils import randn_tensor

WEIGHT_SCHEDULES = ("paper", "constant", "balanced")

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class NoiseDraws:
    """All random draws of one joint step, which is deterministic given these.

    Attributes:
        noise_level: g (B,), floating point, in (0, 1).
        noise: eps (B, C, H, W).
        swap: (B,) bool, whether each sample's two conditions are swapped in the positive prediction.
        swap_negative: the same for the negative prediction, drawn independently; None without a negative.
    """

    noise_level: torch.Tensor
    noise: torch.Tensor
    swap: torch.Tensor
    swap_negative: torch.Tensor | None = None

    def check(self, like: torch.Tensor, *, negative: bool) -> None:
        """Raises ValueError, naming the field, unless these draws fit a batch `like` (B, C, H, W)."""
        batch = like.shape[0]
        if self.noise.shape != like.shape:
            raise ValueError(f"`draws.noise` must have the shape {tuple(like.shape)}, got {tuple(self.noise.shape)}")
        if self.noise_level.shape != (batch,) or not self.noise_level.is_floating_point():
            raise ValueError(
                f"`draws.noise_level` must be floating point of shape ({batch},), got {self.noise_level.dtype} of "
                f"{tuple(self.noise_level.shape)}"
            )
        masks: dict[str, torch.Tensor | None] = {"swap": self.swap}
        if negative:
            masks["swap_negative"] = self.swap_negative
        for name, mask in masks.items():
            if mask is None or mask.dtype != torch.bool or mask.shape != (batch,):
                got = "None" if mask is None else f"{mask.dtype} of {tuple(mask.shape)}"
                raise ValueError(f"`draws.{name}` must be bool of shape ({batch},), got {got}")

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "NoiseDraws":
        """Moves all fields to a device; `dtype` applies to the noise only."""
        return replace(
            self,
            noise_level=self.noise_level.to(device),
            noise=self.noise.to(device, dtype),
            swap=self.swap.to(device),
            swap_negative=None if self.swap_negative is None else self.swap_negative.to(device),
        )


class NoiseSchedule:
    """The continuous noise levels of the paper: `beta` linear, `gamma_t = prod_{i<=t} (1 - beta_i)`.

    Args:
        steps: number of steps T.
        beta_start, beta_end: first and last value of `beta`.
        timestep_range: inclusive range (low, high) of the 0-based step t, 1 <= low <= high <= T - 1; None: all.

    Source: docs/method.md, "Notation" and step 2.
    """

    def __init__(
        self,
        steps: int = 1000,
        beta_start: float = 1e-6,
        beta_end: float = 1e-2,
        timestep_range: Sequence[int] | None = None,
    ):
        low, high = (1, steps - 1) if timestep_range is None else timestep_range
        if not 1 <= low <= high <= steps - 1:
            raise ValueError(
                f"`timestep_range` must be (low, high) with 1 <= low <= high <= {steps - 1}, got {low, high}"
            )
        self.timestep_range = (int(low), int(high))
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        self.gammas = torch.cumprod(1 - betas, dim=0).float()  # (T,), falling

    def levels(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draws noise levels g (count,) on the CPU, step 2: `t ~ U{1..T-1}`, `g ~ U(gamma_t, gamma_{t-1})`."""
        low, high = self.timestep_range
        t = torch.randint(low, high + 1, (count,), generator=generator)
        blend = torch.rand(count, generator=generator)
        return self.gammas[t] + blend * (self.gammas[t - 1] - self.gammas[t])

    def draw(
        self, shape: Sequence[int], *, generator: Generators = None, channel_shuffle: bool = True, dtype=torch.float32
    ) -> NoiseDraws:
        """Makes the random draws of one step for a batch of shape (B, C, H, W), on the CPU.

        Args:
            shape: shape of the batch.
            generator: one CPU generator, or one per sample; in this case a sample's draws do not depend on the rest
                of the batch, nor on how the batch is split over processes. None: torch's global generator.
            channel_shuffle: whether to draw swaps; False: ablation.
        """
        batch = shape[0]
        generators = list(generator) if isinstance(generator, Sequence) else [generator]
        if len(generators) not in (1, batch):
            raise ValueError(f"`generator` must be one or {batch} generators, got {len(generators)}")
        count = batch // len(generators)  # samples per generator: 1 or B
        levels, swaps = [], []
        for own in generators:
            levels.append(self.levels(count, own))
            swaps.append(torch.rand(2, count, generator=own) < 0.5)
        swap = torch.cat(swaps, dim=1) & channel_shuffle  # (2, B): for the positive and for the negative
        noise = randn_tensor(shape, generator=generators if len(generators) > 1 else generators[0], dtype=dtype)
        return NoiseDraws(torch.cat(levels), noise, swap[0], swap[1])


def noised(target: torch.Tensor, noise: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
    """Eq. (1): `z = sqrt(g) y + sqrt(1 - g) eps` for y and eps (B, C, H, W) and g (B,)."""
    g = noise_level[:, None, None, None].to(target.dtype)
    return g.sqrt() * target + (1 - g).sqrt() * noise


def adaptation_weight(schedule: str, weight: float, progress: float, steepness: float = 5.0) -> float:
    """Returns the factor of L_noise in eq. (6): for "paper" a ramp over `progress` in [0, 1], else `weight`.

    "balanced" scales the gradient where it enters the restorer, see `losses.measure_gradients`.
    """
    if schedule not in WEIGHT_SCHEDULES:
        raise ValueError(f"`weight_schedule` must be one of {WEIGHT_SCHEDULES}, got {schedule!r}")
    if schedule != "paper":
        return weight
    return weight * (2 / (1 + math.exp(-steepness * min(max(progress, 0.0), 1.0))) - 1)
