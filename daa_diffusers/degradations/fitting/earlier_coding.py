"""Detection of lossy coding besides the JPEG coding of a file: an earlier JPEG coding, or another codec."""

import numpy as np
import torch

from ...photos import boxes, webp
from ...photos.pixels import LUMA_WEIGHTS
from ...photos.source import Source
from ..jpeg_coding import JPEG_BLOCK, luma_table

SIDE = 1024  # side in pixels of the inspected top left crop, which is aligned with the block grid
LOWEST = 30  # lowest quality tried
FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))  # inspected DCT frequencies
# The score is the share of coefficients near multiples of the earlier quantization step, corrected for chance. It is
# 0.67 to 0.99 for photos coded with quality 50 to 85 and again with 90 to 98, and at most 0.28 for photos coded once.
FOUND = 0.5  # score above which an earlier coding is detected
TIE = 0.08  # scores less than this below the best one count as equal to it
MIN_COEFFICIENTS = 30  # frequencies with fewer coefficients are skipped
ROUNDING = 0.6  # error of a coefficient from rounding pixels to whole numbers
CLIPPED = 126  # largest absolute value of (luma - 128), of at most 128, from which on a block counts as clipped
COARSER = 1.5  # least difference of the earlier step from that of the file; smaller ones cannot be told apart
LARGEST_CHANCE = 0.85  # share of arbitrary values within the tolerance above which a frequency gives no evidence
_CODECS = {"av01": "AVIF", "hvc1": "HEIC"}  # codec of an image item in a file -> name


def earlier_quality(photo: torch.Tensor, quality: int) -> int | None:
    """Detects a coarser JPEG coding on the same block grid before that of the file.

    DCT coefficients that were quantized earlier are near multiples of the coarser step.

    Args:
        photo: decoded photo (3, H, W) in [0, 1].
        quality: JPEG quality of the file, 1 to 100.

    Returns:
        The quality of the earlier coding; None if none is detected.
    """
    height, width = (min(side, SIDE) // JPEG_BLOCK * JPEG_BLOCK for side in photo.shape[1:])
    luma = 255 * np.einsum("c,chw->hw", LUMA_WEIGHTS, photo[:, :height, :width].double().numpy()) - 128
    blocks = luma.reshape(height // JPEG_BLOCK, JPEG_BLOCK, -1, JPEG_BLOCK).swapaxes(1, 2)
    blocks = blocks.reshape(-1, JPEG_BLOCK, JPEG_BLOCK)
    blocks = blocks[np.abs(blocks).max((1, 2)) < CLIPPED]
    cosines = _cosines()
    coefficients = cosines @ blocks @ cosines.T  # (K, 8, 8)
    now = luma_table(quality)
    scores = {earlier: _score(coefficients, luma_table(earlier), now) for earlier in range(LOWEST, quality - 2)}
    best = max(scores.values(), default=0.0)
    if best <= FOUND:
        return None
    # multiples of a step are also multiples of its divisors: take the coarsest step, that is, the lowest quality
    return next(earlier for earlier, score in scores.items() if score >= best - TIE)


def _score(coefficients: np.ndarray, earlier: np.ndarray, now: np.ndarray) -> float:
    """Scores the evidence, at most 1, that coefficients (K, 8, 8) were quantized by the table `earlier`, then `now`."""
    near, by_chance = [], []  # share of the coefficients near multiples of the earlier step, at each frequency
    for frequency in FREQUENCIES:
        step, tolerance = earlier[frequency], now[frequency] / 2 + ROUNDING
        values = coefficients[:, *frequency]
        values = values[np.abs(values) > step / 2]  # not quantized to zero
        chance = 2 * tolerance / step  # for evenly distributed values
        if step < now[frequency] + COARSER or chance > LARGEST_CHANCE or len(values) < MIN_COEFFICIENTS:
            continue
        near.append(_share_near(values, step, tolerance))
        # values shifted by steps of the file are as regular, but were not quantized by the earlier step
        shifted = [_share_near(values + shift * now[frequency], step, tolerance) for shift in (-2, -1, 1, 2)]
        by_chance.append(max(float(np.mean(shifted)), chance))
    if len(near) < 2:
        return 0.0
    return float((np.mean(near) - np.mean(by_chance)) / (1 - np.mean(by_chance)))


def _share_near(values: np.ndarray, step: float, tolerance: float) -> float:
    """Returns the share of values within `tolerance` of a multiple of `step`."""
    return float((np.abs(values - step * np.round(values / step)) <= tolerance).mean())


def _cosines() -> np.ndarray:
    """Returns the matrix (8, 8) of JPEG's discrete cosine transform (ITU-T T.81, annex A.3.3)."""
    index = np.arange(JPEG_BLOCK)
    matrix = np.cos((2 * index[None] + 1) * index[:, None] * np.pi / (2 * JPEG_BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


def other_codec(content: bytes) -> str | None:
    """Detects the lossy codec of a file that is not JPEG: "WebP", "AVIF" or "HEIC"; None if it is lossless.

    AVIF and HEIC do not state whether they are lossless; files that store RGB without conversion count as lossless.
    """
    source = Source("photo", content)
    if webp.recognizes(source):
        return "WebP" if any(name == "VP8 " for name, _, _ in webp.chunks(source)) else None
    items = boxes.read_items(source)  # empty for raw files of the same container format (CR3)
    return None if boxes.stores_rgb(items) else _CODECS.get(items.codec_of_primary())
