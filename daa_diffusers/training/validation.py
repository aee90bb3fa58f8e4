"""Watching a run: scores on held-out pairs where there are any, and a grid of input, restored and difference."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import make_grid

from ..data.photos import PhotoFolder
from ..data.sampling import pair_by_name
from ..evaluation.metrics import psnr, ssim
from ..photos.reading import list_photos, read_photo, to_float
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from .config import TrainingConfig

GRID_PHOTOS = 4
GRID_SIDE = 192


@dataclass
class Validation:
    """Photos to watch.

    Attributes:
        degraded: files of degraded photos.
        clean: their clean counterparts, in the same order; None where there is no ground truth.
    """

    degraded: list[Path]
    clean: list[Path] | None = None

    @classmethod
    def from_config(cls, config: TrainingConfig) -> "Validation | None":
        """From `validation_degraded` / `validation_clean`, else the first real photos (grids only), else None."""
        if config.validation_degraded:
            degraded = PhotoFolder(config.validation_degraded, argument="validation_degraded")
            if not config.validation_clean:
                return cls(degraded.paths)
            clean = PhotoFolder(config.validation_clean, argument="validation_clean")
            pairs = pair_by_name(degraded, clean)
            return cls([degraded.paths[ours] for ours, _ in pairs], [clean.paths[theirs] for _, theirs in pairs])
        if config.real and config.variant != "vanilla":
            return cls(list_photos(config.real[0], argument="real")[:GRID_PHOTOS])
        return None

    def run(self, restorer: nn.Module) -> tuple[dict[str, float], torch.Tensor]:
        """Scores and a grid (3, H, W) in [0, 1].

        Scores are the mean per-image PSNR (dB) and SSIM on RGB uint8 of the restored photos, and the PSNR of the
        untouched input ("psnr_identity"); empty without ground truth.
        """
        pipeline = DAARestorationPipeline(restorer)
        pipeline.set_progress_bar_config(disable=True)
        rows, totals = [], {"psnr": 0.0, "ssim": 0.0, "psnr_identity": 0.0}
        for index, path in enumerate(self.degraded):
            if self.clean is None and index >= GRID_PHOTOS:
                break
            degraded = to_float(read_photo(path))
            (images,) = pipeline(degraded, output_type="pt", return_dict=False)
            restored = torch.as_tensor(images[0]).cpu()
            if self.clean is not None:
                clean = to_float(read_photo(self.clean[index]))
                totals["psnr"] += float(psnr(restored, clean, as_uint8=True))
                totals["ssim"] += float(ssim(restored, clean, as_uint8=True))
                totals["psnr_identity"] += float(psnr(degraded, clean, as_uint8=True))
            if index < GRID_PHOTOS:
                rows += [_tile(degraded), _tile(restored), _tile(0.5 + 2 * (restored - degraded))]
        count = len(self.degraded)
        scores = {name: total / count for name, total in totals.items()} if self.clean is not None else {}
        return scores, make_grid(torch.stack(rows), nrow=3)


def _tile(photo: torch.Tensor) -> torch.Tensor:
    """The middle of a photo (C, H, W) as (3, GRID_SIDE, GRID_SIDE), padded where it is smaller."""
    photo = photo.expand(3, -1, -1) if photo.shape[0] == 1 else photo
    height, width = photo.shape[1:]
    top, left = max(0, (height - GRID_SIDE) // 2), max(0, (width - GRID_SIDE) // 2)
    photo = photo[:, top : top + GRID_SIDE, left : left + GRID_SIDE].clamp(0, 1)
    return F.pad(photo, (0, GRID_SIDE - photo.shape[2], 0, GRID_SIDE - photo.shape[1]), value=1.0)
