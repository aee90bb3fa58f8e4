"""Random draws: generators by seed and keys, and distributions of a degradation's parameters."""

import hashlib
import json
import math
import operator
from collections.abc import Sequence

import torch


def generator_for(seed: int, *keys: str | int) -> torch.Generator:
    """Returns a CPU generator that depends on `seed` and `keys` alone, on every machine and in every process.

    Its seed is a 63-bit hash (blake2b) of both, e.g. `generator_for(0, "crop", "real", 12)`. Since torch's CPU
    generator uses only the lower 32 bits, about a hundred pairs of a million samples have the same draws.

    Raises:
        TypeError: `seed` or a key is neither a whole number nor text.
    """
    plain = [key if isinstance(key, str) else operator.index(key) for key in (seed, *keys)]
    digest = hashlib.blake2b(json.dumps(plain).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def uniform(shape: Sequence[int], low: float, high: float, clean: torch.Tensor, generator: torch.Generator):
    """Draws U(low, high) of `shape` on the generator's device; the result has the device and dtype of `clean`."""
    drawn = torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low
    return drawn.to(clean)


def log_uniform(shape: Sequence[int], low: float, high: float, clean: torch.Tensor, generator: torch.Generator):
    """Draws exp(U(log low, log high)) of `shape`, like `uniform`; `low` must be positive."""
    return uniform(shape, math.log(low), math.log(high), clean, generator).exp()


def normal(shape: Sequence[int], clean: torch.Tensor, generator: torch.Generator):
    """Draws N(0, 1) of `shape` on the generator's device; the result has the device and dtype of `clean`."""
    return torch.randn(shape, generator=generator, device=generator.device).to(clean)
