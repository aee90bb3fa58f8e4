"""Detection of lossy coding other than the JPEG quality of a file: an earlier JPEG coding, other codecs."""

import numpy as np
import torch

from ...photos import boxes, webp
from ...photos.pixels import LUMA_WEIGHTS
from ...photos.source import Source
from ..jpeg_coding import JPEG_BLOCK, luma_table

SIDE = 1024  # pixels, of the top left crop, which is aligned with the grid of blocks
LOWEST = 30  # quality that is searched for
FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
# Score: share of the coefficients that are near multiples of the earlier quantization step, less chance. It is 0.67 to
# 0.99 where quality 50 to 85 was coded again with 90 to 98, at most 0.28 for photos coded once. Scores within TIE of
# the best one count as equal.
FOUND, TIE = 0.5, 0.08
MIN_COEFFICIENTS = 30  # of a frequency; with fewer it is skipped
_CODECS = {"av01": "AVIF", "hvc1": "HEIC"}
ROUNDING = 0.6  # error of a coefficient by the rounding of pixels to whole numbers


def earlier_quality(photo: torch.Tensor, quality: int) -> int | None:
    """Quality of a coarser JPEG coding before that of the file, on the same grid; None where none is detected.

    DCT coefficients that were quantized before are near multiples of the coarser step.

    Args:
        photo: (3, H, W) in [0, 1], as decoded.
        quality: of its file, 1 to 100.
    """
    height, width = (min(side, SIDE) // JPEG_BLOCK * JPEG_BLOCK for side in photo.shape[1:])
    brightness = 255 * np.einsum("c,chw->hw", LUMA_WEIGHTS, photo[:, :height, :width].double().numpy()) - 128
    blocks = brightness.reshape(height // JPEG_BLOCK, JPEG_BLOCK, -1, JPEG_BLOCK).swapaxes(1, 2)
    blocks = blocks.reshape(-1, JPEG_BLOCK, JPEG_BLOCK)
    blocks = blocks[np.abs(blocks).max((1, 2)) < 126]  # not clipped
    cosines = _cosines()
    coefficients = cosines @ blocks @ cosines.T  # (K, 8, 8)
    now = luma_table(quality)
    scores = {earlier: _score(coefficients, luma_table(earlier), now) for earlier in range(LOWEST, quality - 2)}
    best = max(scores.values(), default=0.0)
    # multiples of a step are also multiples of its divisors: the coarsest step, that is the lowest quality
    return next(q for q, score in scores.items() if score >= best - TIE) if best > FOUND else None


def _score(coefficients: np.ndarray, earlier: np.ndarray, now: np.ndarray) -> float:
    """Evidence in [0, 1] that coefficients (K, 8, 8) were quantized by the table `earlier`, then by `now`."""
    near, by_chance = [], []
    for place in FREQUENCIES:
        step, tolerance = earlier[place], now[place] / 2 + ROUNDING
        values = coefficients[:, place[0], place[1]]
        values = values[np.abs(values) > step / 2]
        if step < now[place] + 1.5 or 2 * tolerance > 0.85 * step or len(values) < MIN_COEFFICIENTS:
            continue
        near.append(_near(values, step, tolerance))
        others = [_near(values + shift * now[place], step, tolerance) for shift in (-2, -1, 1, 2)]
        by_chance.append(max(float(np.mean(others)), 2 * tolerance / step))
    if len(near) < 2:
        return 0.0
    return float((np.mean(near) - np.mean(by_chance)) / (1 - np.mean(by_chance)))


def _near(values: np.ndarray, step: float, tolerance: float) -> float:
    """Share of values within `tolerance` of a multiple of `step`."""
    return float((np.abs(values - step * np.round(values / step)) <= tolerance).mean())


def _cosines() -> np.ndarray:
    """Matrix (8, 8) of the discrete cosine transform of JPEG (ITU-T T.81, annex A.3.3)."""
    at = np.arange(JPEG_BLOCK)
    matrix = np.cos((2 * at[None] + 1) * at[:, None] * np.pi / (2 * JPEG_BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


def other_codec(content: bytes) -> str | None:
    """The lossy codec other than JPEG of a file, by its content: "WebP", "AVIF" or "HEIC"; None where it is lossless.

    AVIF and HEIC do not state whether they are lossless; files that store RGB without conversion are taken to be.
    """
    source = Source("photo", content)
    if webp.recognizes(source):
        return "WebP" if any(name == "VP8 " for name, _, _ in webp.chunks(source)) else None
    items = boxes.read_items(source)  # none in raw files of the same family (CR3)
    return None if boxes.stores_rgb(items) else _CODECS.get(items.codec_of_primary())
