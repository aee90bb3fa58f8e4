"""Validation: scores on held-out pairs or bursts, and a grid of input, restored photo and difference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import make_grid

from ..evaluation.bursts import Burst, read_bursts
from ..evaluation.metrics import psnr, ssim
from ..photos.pixels import center_crop, unit_float
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from ..sources.sampling import PairedFolders
from ..sources.specs import PhotoSource, open_source
from .config import TrainingConfig

GRID_PHOTOS = 4  # rows of the grid
GRID_SIDE = 192  # side of a tile in pixels
GRID_BORDER = 64  # pixels of context restored around a tile and not shown, for photos without ground truth
BURST_SIDE = 256  # side of the center crop of each frame in pixels
CACHE_BYTES = 2**28  # size of the cache of decoded photos per source


@dataclass
class Validation:
    """Photos for validation.

    Attributes:
        photos: degraded photos, or pairs with clean counterparts if there is ground truth; None: no photos.
        bursts: bursts of static scenes, with center-cropped frames.
    """

    photos: PhotoSource | PairedFolders | None
    bursts: Sequence[Burst] = ()

    @classmethod
    def from_config(cls, config: TrainingConfig, real: Sequence[PhotoSource]) -> "Validation | None":
        """Opens the photos and bursts that a config names; None if there are neither.

        The photos are `validation_degraded`, with `validation_clean` if given, else real photos, for grids only, if a
        tracker is used. The bursts are `validation_bursts`.

        Args:
            config: options of the run.
            real: sources of the run's real photos.

        Raises:
            ConfigurationError: a source cannot be opened, degraded and clean photos do not match, or no burst can be
                scored.
        """
        bursts: list[Burst] = []
        if config.validation_bursts:
            bursts += read_bursts(config.validation_bursts, side=BURST_SIDE, argument="validation_bursts")
        photos = cls._photos_of(config, real)
        return None if photos is None and not bursts else cls(photos, bursts)

    @staticmethod
    def _photos_of(config: TrainingConfig, real: Sequence[PhotoSource]) -> PhotoSource | PairedFolders | None:
        """Returns the attribute `photos` for a config."""

        def source(spec: str, argument: str) -> PhotoSource:
            return open_source(spec, cache_bytes=CACHE_BYTES, argument=argument)

        if config.validation_degraded:
            degraded = source(config.validation_degraded, "validation_degraded")
            if not config.validation_clean:
                return degraded
            return PairedFolders(degraded, source(config.validation_clean, "validation_clean"))
        if config.uses_real and config.report_to != "none":
            return real[0]
        return None

    @property
    def sources(self) -> dict[str, list[PhotoSource]]:
        """Sources that are only read for validation, by option name."""
        if isinstance(self.photos, PairedFolders):
            sources = [self.photos.degraded, self.photos.clean]
        else:
            sources = [self.photos] if self.photos else []
        by_option = {source.argument: [source] for source in sources if source.argument.startswith("validation")}
        if self.bursts:
            by_option["validation_bursts"] = [burst.source for burst in self.bursts]
        return by_option

    def run(self, restorer: nn.Module) -> tuple[dict[str, float], torch.Tensor | None]:
        """Restores the photos; returns the scores, and a grid (3, H, W) in [0, 1] (None if no photo can be read).

        With ground truth, the scores are the mean per-image PSNR (dB) and SSIM of the restored photos on RGB uint8, and
        the PSNR of the untouched input ("psnr_identity"). With bursts, "psnr_bursts" is the mean of `Burst.psnr`.
        """
        pipeline = DAARestorationPipeline(restorer)
        pipeline.set_progress_bar_config(disable=True)
        rows: list[torch.Tensor] = []
        totals, count = {"psnr": 0.0, "ssim": 0.0, "psnr_identity": 0.0}, 0
        for number, (degraded, clean) in enumerate(self._photos()):
            (images,) = pipeline(degraded, output_type="pt", return_dict=False)
            restored = torch.as_tensor(images[0]).cpu()
            if clean is not None:
                totals["psnr"] += float(psnr(restored, clean, as_uint8=True))
                totals["ssim"] += float(ssim(restored, clean, as_uint8=True))
                totals["psnr_identity"] += float(psnr(degraded, clean, as_uint8=True))
                count += 1
            if number < GRID_PHOTOS:
                difference = 0.5 + 2 * (restored - degraded)  # amplified, around gray
                rows += [_tile(degraded), _tile(restored), _tile(difference)]
        scores = {name: total / count for name, total in totals.items()} if count else {}
        if self.bursts:
            scores["psnr_bursts"] = sum(burst.psnr(pipeline) for burst in self.bursts) / len(self.bursts)
        return scores, make_grid(torch.stack(rows), nrow=3) if rows else None

    def _photos(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Yields (degraded, clean or None), each (C, H, W) in [0, 1]."""
        if isinstance(self.photos, PairedFolders):
            for index in range(len(self.photos)):
                degraded, clean = self.photos.pair(index)
                yield unit_float(degraded), unit_float(clean)
        elif self.photos is not None:  # may yield fewer than GRID_PHOTOS
            for _, photo in self.photos.sample(GRID_PHOTOS):
                yield unit_float(center_crop(photo, GRID_SIDE + 2 * GRID_BORDER)), None


def _tile(photo: torch.Tensor) -> torch.Tensor:
    """Crops a photo (C, H, W) to its center (3, GRID_SIDE, GRID_SIDE), padding smaller photos."""
    photo = photo.expand(3, -1, -1) if photo.shape[0] == 1 else photo
    height, width = photo.shape[1:]
    top, left = max(0, (height - GRID_SIDE) // 2), max(0, (width - GRID_SIDE) // 2)
    photo = photo[:, top : top + GRID_SIDE, left : left + GRID_SIDE].clamp(0, 1)
    return F.pad(photo, (0, GRID_SIDE - photo.shape[2], 0, GRID_SIDE - photo.shape[1]), value=1.0)
