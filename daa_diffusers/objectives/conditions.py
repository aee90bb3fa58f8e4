"""Conditions for training a noise predictor: simulated results of restorers of various strengths and kinds."""

from dataclasses import dataclass

import torch

from ..degradations.filters import gaussian_filter

# Kind of a condition -> relative frequency. y: clean photo, x: degraded photo, f: restorer; a ~ U(0, 1) per condition.
KINDS = {
    "restored": 3.0,  # f(x)
    "weaker": 3.0,  # f(x) + a (x - f(x)): a restorer that leaves more of the degradation than f
    "stronger": 2.0,  # y + a (f(x) - y): a restorer that leaves less of it
    "clean": 1.0,  # y
    "blurred": 2.0,  # y or f(x), blurred with a standard deviation of 0.3 to 2 pixels
    "noisy": 2.0,  # y plus noise of up to 50/255, white or correlated over up to 2 pixels
    "dropped": 2.0,  # zeros, as in classifier-free guidance (Ho and Salimans, 2021)
}
DROPPED = list(KINDS).index("dropped")
SAME_RESTORER = 0.5  # share of the pairs whose second condition has the kind and parameters of the first
MOST_NOISE = 50 / 255  # largest standard deviation of "noisy", for photos in [0, 1]
BLURS = (0.3, 2.0)  # range of the standard deviation of "blurred" in pixels
RADIUS = 6  # radius of the filter in pixels, three times the largest of `BLURS`


@dataclass(frozen=True)
class ConditionDraws:
    """Random draws for one condition of every sample.

    Attributes:
        kind: (B,), index of the kind in `KINDS`.
        amount: (B, 1, 1, 1), the number a.
        variant: (B, 1, 1, 1) bool; True: "blurred" blurs f(x) instead of y, and the noise of "noisy" is correlated.
        noise: (B, C, H, W), white noise of standard deviation 1.
    """

    kind: torch.Tensor
    amount: torch.Tensor
    variant: torch.Tensor
    noise: torch.Tensor

    @property
    def kept(self) -> torch.Tensor:
        """Whether the condition is not dropped, (B,) bool."""
        return self.kind != DROPPED


def draw_conditions(like: torch.Tensor, generator: torch.Generator) -> tuple[ConditionDraws, ConditionDraws]:
    """Draws both conditions of a batch `like` (B, C, H, W), whose device must be that of the generator."""
    size, device = len(like), like.device
    frequencies = torch.tensor(list(KINDS.values()), device=device)

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # kind, amount, variant
        kind = torch.multinomial(frequencies, size, replacement=True, generator=generator)
        amount, coin = torch.rand(2, size, 1, 1, 1, generator=generator, device=device)
        return kind, amount.to(like), coin < 0.5

    first, independent = draw(), draw()
    is_same = torch.rand(size, generator=generator, device=device) < SAME_RESTORER
    kind, amount, variant = (
        torch.where(is_same.view(-1, *[1] * (of_first.ndim - 1)), of_first, other)
        for of_first, other in zip(first, independent, strict=True)
    )
    noise = torch.randn(2, *like.shape, generator=generator, device=device).to(like)
    return ConditionDraws(*first, noise[0]), ConditionDraws(kind, amount, variant, noise[1])


def make_conditions(
    draws: ConditionDraws, clean: torch.Tensor, degraded: torch.Tensor, restored: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Computes conditions (B, C, H, W) from their random draws.

    Args:
        draws: random draws of the conditions.
        clean, degraded, restored: y, x and f(x), each (B, C, H, W).
        scale: length of the value range.
    """
    amount, sigma = draws.amount, BLURS[0] + (BLURS[1] - BLURS[0]) * draws.amount
    correlated = gaussian_filter(draws.noise, sigma, RADIUS)
    correlated = correlated / correlated.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
    noise = torch.where(draws.variant, correlated, draws.noise)
    candidates = {
        "restored": restored,
        "weaker": torch.lerp(restored, degraded, amount),
        "stronger": torch.lerp(clean, restored, amount),
        "clean": clean,
        "blurred": gaussian_filter(torch.where(draws.variant, restored, clean), sigma, RADIUS),
        "noisy": clean + MOST_NOISE * scale * amount * noise,
        "dropped": torch.zeros_like(clean),
    }
    each = torch.stack([candidates[kind] for kind in KINDS])  # (K, B, C, H, W)
    return each[draws.kind, torch.arange(len(clean), device=clean.device)]
