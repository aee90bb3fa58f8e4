"""Mixed precision of the pipeline: bfloat16 where the processor is faster in it and the result stays the same."""

import math

import torch
from torch import nn

from ..models.restorer import RestorerContract, in_eval_mode
from .image_processor import pad_to_multiple

# Root mean square of the difference to float32 on the probe, white = 1, up to which the PSNR of results of 40 dB falls
# by no more than 0.02 dB (benchmarks/results/precision.md).
TOLERATED = 0.3 / 255
PROBE_SIDE = 128  # pixels
PROBE_NOISE = 10 / 255  # standard deviation


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether a processor multiplies in bfloat16 (AMX, AVX-512 BF16); False of other devices, where it is not known."""
    # no public function says so
    known = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(supported() for supported in known if supported is not None)


@torch.no_grad()
def bfloat16_error(restorer: nn.Module) -> float:
    """Root mean square difference, white = 1, of a noisy photo of smooth shapes restored in bfloat16 and in float32.

    Infinite where the result itself has the steps of bfloat16, which are too coarse for a photo.
    """
    contract, like = RestorerContract.of(restorer), next(restorer.parameters())
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*[torch.linspace(0, 1, PROBE_SIDE)] * 2, indexing="ij")
    shapes = torch.stack([(1 + torch.sin(k * x + (9 - k) * y + k)) / 2 for k in range(3, 3 + contract.channels)])
    noise = torch.randn(shapes.shape, generator=generator) * PROBE_NOISE
    photo = (shapes + noise).clamp(0, 1)[None].to(like.device)
    batch = pad_to_multiple(contract.to_range(photo), contract.size_multiple)
    with in_eval_mode(restorer):
        exact = restorer(batch)
        with torch.autocast(batch.device.type, torch.bfloat16):
            mixed = restorer(batch)
    if torch.equal(mixed.bfloat16().to(mixed), mixed):  # also where a wrapper has made it float32 again
        return math.inf
    return float((contract.from_range(mixed) - contract.from_range(exact)).square().mean().sqrt())


class MixedPrecisionMixin:
    """Passes of the restorer under `torch.autocast`.

    Attributes:
        mixed_precision: the type in which operations that allow it compute; None: that of the weights.
    """

    restorer: nn.Module
    mixed_precision: torch.dtype | None = None

    def enable_mixed_precision(self, dtype: torch.dtype | str = "auto") -> torch.dtype | None:
        """Sets the type that convolutions and products compute in; additions to the photo stay in float32.

        Args:
            dtype: torch.bfloat16 or torch.float16; "auto": bfloat16 where the processor has it, the weights are in
                float32, and a restored photo differs by no more than `TOLERATED`, which is tried; else none.

        Returns:
            What was set, None for none.

        Raises:
            ValueError: on another `dtype`.
        """
        if dtype not in ("auto", torch.bfloat16, torch.float16):
            raise ValueError(f'`dtype` must be "auto", torch.bfloat16 or torch.float16, got {dtype!r}')
        if isinstance(dtype, torch.dtype):
            self.mixed_precision = dtype
            return dtype
        weight = next(self.restorer.parameters(), None)
        self.mixed_precision = None
        if weight is not None and weight.dtype == torch.float32 and is_fast_in_bfloat16(weight.device):
            error = bfloat16_error(self.restorer)
            self.mixed_precision = torch.bfloat16 if math.isfinite(error) and error <= TOLERATED else None
        return self.mixed_precision

    def disable_mixed_precision(self) -> None:
        """Lets everything compute in the type of the weights again."""
        self.mixed_precision = None
