"""Suitability of a photo for noise estimation: signs that it is clean or textured, or that coding removed its noise."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ...photos.pixels import LUMA_WEIGHTS, center_crop
from ..fitted import MAX_LAG
from ..jpeg_coding import JPEG_BLOCK, blockiness
from .photo_noise import CLIPPED, MAX_CLIPPED, FlatBlocks, without_plane

REGION = 1024  # side of the measured part in pixels
NEARLY_CLEAN = 1.0  # root mean square in 1/255 (48 dB) below which a photo counts as clean
# Noise is erased where values in flat blocks differ from a fitted plane by less than a quarter of 1/255. The share of
# such values, at most ERASED in a usable photo, is small for noise and large after coarse coding.
ERASED = 0.4
# Unlike texture, noise is present everywhere. The floor, the noise of the smoothest 8 x 8 blocks (quantile SMOOTHEST)
# as a share of that of flat blocks, is therefore large for noise: 0.34 to 0.9 in the noisy photos of RENOIR and SIDD,
# but at most 0.3 in half of the clean photos of BSDS. Texture varies mostly in brightness, so that its colors are
# correlated. The required floor (FLOORS) therefore grows with the correlation of the colors (CORRELATIONS), with linear
# interpolation; below the first of CORRELATIONS, none is required.
SMOOTHEST = 0.02
CORRELATIONS, FLOORS = (0.4, 0.65, 0.8), (0.34, 0.34, 0.45)
COARSE_FLOOR = 0.3  # required floor of coarsely coded photos, whatever the correlation of their colors
# Coarse coding (quality COARSE_QUALITY or less; if unknown, a `blockiness` above BLOCKY) removes the noise of smooth
# blocks. A small floor is then a sign of texture only if the level in flat blocks is above COARSE_LEVEL (1/255).
COARSE_QUALITY, BLOCKY, COARSE_LEVEL = 90, 1.15, 4.5
HIDING_QUALITY = 60  # JPEG quality below which the noise before coding cannot be inferred
# Impulses (salt and pepper): smallest difference of a black or white pixel from the median around it, and the largest
# share of impulses in a photo without this noise.
IMPULSE_STEP, IMPULSES = 0.3, 0.002
# Bands: smallest share of the noise power that is constant along rows (or columns), and its smallest ratio to that of
# the other direction.
BANDED, ONE_WAY = 0.2, 2.0


@dataclass(frozen=True)
class Signs:
    """Statistics that decide whether the noise of a photo can be measured.

    Attributes:
        level: noise in flat parts, root mean square over the colors, in 1/255.
        floor: luma noise of the smoothest blocks, as a share of that in flat parts.
        colors: correlation of the noise of two colors, mean of the three pairs; 0 for gray photos.
        erased: share of the values in flat parts without noise.
        is_coarse: whether it is JPEG-coded with `COARSE_QUALITY` or less, or has visible blocks.
        is_hidden: whether it is JPEG-coded with less than `HIDING_QUALITY`.
        impulses: share of the pixels that are impulses.
        bands: "rows" or "columns" along which the noise is constant; None: no bands.
    """

    level: float
    floor: float
    colors: float
    erased: float
    is_coarse: bool
    is_hidden: bool
    impulses: float
    bands: str | None

    @property
    def unfit(self) -> str | None:
        """Reason why the photo's noise cannot be measured; None if it can."""
        if self.erased > ERASED:
            return "JPEG coding has removed its noise" if self.is_coarse else "no noise"
        if self.level < NEARLY_CLEAN:
            return f"nearly clean: noise of {self.level:.1f}/255"
        if self.is_coarse:
            if self.floor < COARSE_FLOOR and self.level > COARSE_LEVEL:
                return "JPEG coding has partly removed its noise, or its flat parts are texture"
        elif self.floor < np.interp(self.colors, CORRELATIONS, FLOORS, left=0):
            return "clean: variation in its flat parts is texture, not noise"
        return None

    @property
    def not_additive(self) -> str | None:
        """Reason why a gain in PSNR cannot be estimated, which assumes additive noise; None if it can."""
        if self.impulses > IMPULSES:
            return "salt and pepper"
        return self.unfit or ("JPEG coding has changed its noise" if self.is_hidden else None)


def measured_part(photo: torch.Tensor) -> torch.Tensor:
    """Crops a photo (C, H, W) to the part that is measured: its center, aligned with JPEG's blocks."""
    top, left = (max(0, side - REGION) // 2 // JPEG_BLOCK * JPEG_BLOCK for side in photo.shape[1:])
    return photo[:, top : top + REGION, left : left + REGION]


def signs_of(photo: torch.Tensor, quality: int | None = None, flat: FlatBlocks | None = None) -> Signs:
    """Measures the signs of a photo.

    Args:
        photo: (C, H, W) in [0, 1], C = 1 or 3, at least 32 pixels wide and high; its impulses must have been replaced
            (`without_impulses`), except to measure `impulses` themselves.
        quality: quality of its JPEG coding; None: not a JPEG file.
        flat: flat blocks of the photo, if already computed.
    """
    flat = flat or FlatBlocks.of(photo, REGION)
    weights = torch.from_numpy(LUMA_WEIGHTS)[:, None, None] if len(photo) == 3 else torch.ones(1, 1, 1)
    deviation = 255 * flat.variance.sqrt()  # (K, C)
    luma = (flat.residual * weights).sum(1)  # (K, 16, 16)
    luma_deviation = 255 * float(luma.square().mean((1, 2)).sqrt().median())
    same_pixel = flat.correlation[..., MAX_LAG, MAX_LAG]  # (C, C)
    is_gray = len(photo) == 1 or bool((photo == photo[:1]).all())
    is_coarse = blockiness(photo) > BLOCKY if quality is None else quality <= COARSE_QUALITY
    smoothest = _smoothest_noise((center_crop(photo, REGION) * weights).sum(0))
    return Signs(
        level=float(deviation.square().mean(1).sqrt().median()),
        floor=smoothest / max(luma_deviation, 0.05),  # no division by zero
        colors=0.0 if is_gray else float(same_pixel[0, 1] + same_pixel[0, 2] + same_pixel[1, 2]) / 3,
        erased=float((flat.residual.abs() < 0.25 / 255).float().mean()),
        is_coarse=is_coarse,
        is_hidden=quality is not None and quality < HIDING_QUALITY,
        impulses=share_of_impulses(photo),
        bands=_bands(luma),
    )


def share_of_impulses(photo: torch.Tensor) -> float:
    """Returns the share of the pixels of a photo (C, H, W) in [0, 1] that are impulses in at least one color."""
    inner = center_crop(photo, REGION)
    return float((_median_of_extremes(inner) != inner).any(0).float().mean())


def without_impulses(photo: torch.Tensor) -> torch.Tensor:
    """Replaces impulses in a photo (C, H, W) in [0, 1] by the median around them if there are more than `IMPULSES`."""
    repaired = _median_of_extremes(photo)
    return repaired if float((repaired != photo).any(0).float().mean()) > IMPULSES else photo


def _median_of_extremes(photo: torch.Tensor) -> torch.Tensor:
    """Replaces impulses in a photo (C, H, W) by the median of 5 x 5 pixels; works for up to a fifth of impulses."""
    extreme = (photo < CLIPPED) | (photo > 1 - CLIPPED)
    if bool(extreme.any()):  # cheap preselection: most extreme pixels are in black or white areas
        extreme &= (photo - F.avg_pool2d(photo, 3, 1, 1, count_include_pad=False)).abs() > IMPULSE_STEP / 2
    channel, row, column = extreme.nonzero(as_tuple=True)
    if not len(row):
        return photo
    windows = F.pad(photo[None], (2, 2, 2, 2), mode="reflect")[0].unfold(1, 5, 1).unfold(2, 5, 1)
    median = windows[channel, row, column].flatten(1).median(1).values  # (N,)
    value = photo[channel, row, column]
    repaired = photo.clone()
    repaired[channel, row, column] = torch.where((value - median).abs() > IMPULSE_STEP, median, value)
    return repaired


def _smoothest_noise(luma: torch.Tensor) -> float:
    """Returns the noise, in 1/255, of the smoothest 8 x 8 blocks of (H, W) that are not clipped; 0 if all are."""
    blocks = luma.unfold(0, JPEG_BLOCK, JPEG_BLOCK).unfold(1, JPEG_BLOCK, JPEG_BLOCK)
    blocks = blocks.reshape(-1, JPEG_BLOCK, JPEG_BLOCK)
    # stricter than for flat blocks, since clipping makes blocks smooth
    is_clipped = ((blocks < 2 * CLIPPED) | (blocks > 1 - 2 * CLIPPED)).float().mean((1, 2)) > MAX_CLIPPED / 2
    if bool(is_clipped.all()):
        return 0.0
    _, residual = without_plane(blocks[~is_clipped])
    return 255 * float(residual.square().mean((1, 2)).sqrt().quantile(SMOOTHEST))


def _bands(residual: torch.Tensor) -> str | None:
    """Returns the direction along which the noise (K, 16, 16) of flat blocks is constant; None: no bands."""
    power = float(residual.square().mean())
    if power < 1e-9:  # far less than rounding to 8 bits causes
        return None
    constant = {"rows": float(residual.mean(2).square().mean()), "columns": float(residual.mean(1).square().mean())}
    less, more = sorted(constant, key=lambda name: constant[name])
    return more if constant[more] > max(BANDED * power, ONE_WAY * constant[less]) else None
