"""Mixed precision: bfloat16 on processors where it is faster, if the result hardly changes."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..models.restorer import RestorerContract, in_eval_mode
from .image_processor import pad_to_multiple

# Maximum root mean square difference from float32 on the test image, in units of [0, 1]; it lowers a PSNR of 40 dB by
# at most 0.02 dB (benchmarks/results/backends.md).
TOLERATED = 0.3 / 255
PROBE_SIDE = 128  # pixels, side of the test image
PROBE_NOISE = 10 / 255  # standard deviation of the noise in the test image


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the CPU has instructions for bfloat16 (AMX, AVX-512 BF16); False for devices other than a CPU."""
    # torch has no public function for this
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(check() for check in checks if check is not None)


@dataclass(frozen=True)
class Choice:
    """Precision chosen for a restorer on its device.

    Args:
        dtype: dtype of operations under autocast; None: no autocast.
        reason: explanation of the choice.
    """

    dtype: torch.dtype | None
    reason: str


def automatic_precision(restorer: nn.Module) -> Choice:
    """The choice of `enable_mixed_precision("auto")` for a restorer on the device of its weights."""
    weight = next(restorer.parameters(), None)
    if weight is None:
        return Choice(None, "the restorer has no weights")
    if weight.dtype != torch.float32:
        return Choice(None, f"the weights are in {str(weight.dtype).removeprefix('torch.')}")
    if weight.device.type != "cpu":
        return Choice(None, f"mixed precision is not enabled automatically on {weight.device.type}")
    if not is_fast_in_bfloat16(weight.device):
        return Choice(None, "the processor has no instructions for bfloat16 (AMX, AVX-512 BF16)")
    error, bound = 255 * bfloat16_error(restorer), f"{255 * TOLERATED:g}/255"
    if math.isinf(error):
        return Choice(None, "the restorer would return bfloat16, which is too coarse for a photo")
    differs = f"on a test image the result differs from that in float32 by {error:.2g}/255 rms"
    if error > 255 * TOLERATED:
        return Choice(None, f"bfloat16 is too coarse: {differs}, more than {bound}")
    return Choice(torch.bfloat16, f"the processor has instructions for bfloat16, and {differs}, at most {bound}")


@torch.no_grad()
def bfloat16_error(restorer: nn.Module) -> float:
    """Root mean square difference, in units of [0, 1], between a test image restored in bfloat16 and in float32.

    Infinite if the restorer returns values rounded to bfloat16, which is too coarse for a photo.
    """
    contract, weight = RestorerContract.of(restorer), next(restorer.parameters())
    # test image: a smooth pattern per channel, with noise
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*[torch.linspace(0, 1, PROBE_SIDE)] * 2, indexing="ij")
    shapes = torch.stack([(1 + torch.sin(k * x + (9 - k) * y + k)) / 2 for k in range(3, 3 + contract.channels)])
    noise = torch.randn(shapes.shape, generator=generator) * PROBE_NOISE
    photo = (shapes + noise).clamp(0, 1)[None].to(weight.device)
    batch = pad_to_multiple(contract.to_range(photo), contract.size_multiple)
    with in_eval_mode(restorer):
        exact = restorer(batch)
        with torch.autocast(batch.device.type, torch.bfloat16):
            mixed = restorer(batch)
    if torch.equal(mixed.bfloat16().to(mixed), mixed):  # also detects bfloat16 results cast to float32
        return math.inf
    return float((contract.from_range(mixed) - contract.from_range(exact)).square().mean().sqrt())


class MixedPrecisionMixin:
    """Mixin to run the restorer under `torch.autocast`.

    Attributes:
        mixed_precision: dtype of operations under autocast; None: no autocast.
    """

    restorer: nn.Module
    mixed_precision: torch.dtype | None = None

    def enable_mixed_precision(self, dtype: torch.dtype | str = "auto") -> torch.dtype | None:
        """Sets the dtype of convolutions and matrix products; adding the photo to a network's output stays in float32.

        Args:
            dtype: torch.bfloat16 or torch.float16; "auto": bfloat16 if the processor supports it, the weights are in
                float32, and the error on a test image (`bfloat16_error`) is at most `TOLERATED`; else no autocast
                (`automatic_precision` returns the reason).

        Returns:
            The dtype set, or None for no autocast.

        Raises:
            ValueError: any other `dtype`.
        """
        if dtype not in ("auto", torch.bfloat16, torch.float16):
            raise ValueError(f'`dtype` must be "auto", torch.bfloat16 or torch.float16, got {dtype!r}')
        if isinstance(dtype, torch.dtype):
            self.mixed_precision = dtype
            return dtype
        self.mixed_precision = automatic_precision(self.restorer).dtype
        return self.mixed_precision

    def disable_mixed_precision(self) -> None:
        """Disables autocast: all operations use the dtype of the weights."""
        self.mixed_precision = None
