"""Transplant of real degradation: what a restorer removed from real photos is added to clean photos."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import torch

from ..files import replacing
from ..photos.pixels import crop_patch
from ..photos.reading import list_photos, read_photo
from .base import ConfigurableDegradation, register_degradation
from .checks import check_clean, check_flag, check_range
from .draws import uniform


@register_degradation("transplant")
@dataclass(frozen=True)
class Transplant(ConfigurableDegradation):
    """Adds residuals of a restorer f on real photos x: clean + gain (x - f(x)).

    Residuals are randomly cropped, rotated and flipped. The pairs have real degradation on known content, except that
    degradation that f leaves in x is missing, for which a gain above 1 partly compensates, and that detail that f
    removes from x is included; therefore train on other pairs as well. The residual is that of eq. (3) of
    docs/method.md with the opposite sign.

    Args:
        folder: folder of residuals written by `write_residual`.
        gain: range of the factor of the residual, drawn uniformly for each sample.
        quarter_turns: whether residuals are also rotated by 90 degrees; rain then falls in any direction.
    """

    folder: str
    gain: tuple[float, float] = (1.0, 1.0)
    quarter_turns: bool = True

    def __post_init__(self):
        check_flag("quarter_turns", self.quarter_turns)
        object.__setattr__(self, "gain", check_range("gain", self.gain, 0.0, 4.0))

    @functools.cached_property
    def _paths(self) -> Sequence[Path]:
        return list_photos(Path(self.folder), argument="folder")

    @functools.cached_property
    def _residuals(self) -> dict[int, torch.Tensor]:
        return {}  # the residuals (3, H, W) in [0, 1] that were read so far, by index in `_paths`

    def _residual(self, index: int) -> torch.Tensor:
        if index not in self._residuals:
            pixels = read_photo(self._paths[index])  # (H, W, 1 or 3)
            self._residuals[index] = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().expand(3, -1, -1)
        return self._residuals[index]

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Degrades photos (B, C, H, W) in [0, 1], unclipped; raises ConfigurationError if there are no residuals."""
        batch, channels, height, width = check_clean(clean).shape
        chosen = torch.randint(len(self._paths), (batch,), generator=generator, device=generator.device).tolist()
        gain = uniform((batch, 1, 1, 1), *self.gain, clean, generator)
        side = max(height, width)  # a square crop, which can be rotated
        residuals = []
        for index in chosen:
            stored = crop_patch(self._residual(index), side, generator, quarter_turns=self.quarter_turns)
            residual = 2 * stored[:, :height, :width] - 1
            residuals.append(residual if channels == 3 else residual.mean(0, keepdim=True).expand(channels, -1, -1))
        return clean + gain * torch.stack(residuals).to(clean)


def write_residual(residual: torch.Tensor, path: str | os.PathLike) -> None:
    """Writes a residual (C, H, W) in [-1, 1], C = 1 or 3, as a 16-bit PNG with zero at mid-gray and steps of 2^-15."""
    stored = (residual.clamp(-1, 1) + 1) / 2
    # zero maps to 32767.5, is rounded up, and is read back as 2^-16
    pixels = np.ascontiguousarray((stored * 65535).round().permute(1, 2, 0).cpu().numpy(), dtype=np.uint16)  # (H, W, C)
    with replacing(path) as temporary:
        Path(temporary).write_bytes(imagecodecs.png_encode(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))
