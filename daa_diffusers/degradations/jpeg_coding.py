"""JPEG coding of synthetic photos, and detection of JPEG coding from a photo's file or pixels."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

JPEG_BLOCK = 8  # side in pixels of the blocks that JPEG codes separately
MIN_PHOTOS_FOR_THREADS = 8  # with fewer photos, threads are slower than a loop

# Luma quantization table at quality 50 (ITU-T T.81, annex K.1), row by row; libjpeg scales it by quality.
LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def jpeg(photo: torch.Tensor, quality: int, down: int, right: int, sampling: int = 2) -> torch.Tensor:
    """Codes and decodes a photo as JPEG.

    Args:
        photo: (C, H, W) in [0, 1]; other values are clipped.
        quality: quality of libjpeg, 1 to 100.
        down, right: rows and columns of the first block that lie outside the photo (top, left), 0 to 7.
        sampling: chroma subsampling as in Pillow: 0 is 4:4:4; 1 is 4:2:2, half the width, as in many cameras; 2 is
            4:2:0, half the width and height, as in most files.
    """
    return _code_uint8(_to_uint8(photo), quality, down, right, sampling).to(photo) / 255


def _to_uint8(photos: torch.Tensor) -> torch.Tensor:
    """Converts (..., C, H, W) in [0, 1] to uint8 on the CPU; other values are clipped."""
    return (photos.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def _code_uint8(photo: torch.Tensor, quality: int, down: int, right: int, sampling: int) -> torch.Tensor:
    """Like `jpeg` for uint8."""
    padded = F.pad(photo[None], (right, 0, down, 0), mode="replicate")[0]
    pixels = padded.permute(1, 2, 0).numpy()  # (H, W, C)
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if photo.shape[0] == 1 else pixels).save(
        stream, "JPEG", quality=quality, subsampling=sampling
    )
    decoded = torch.from_numpy(np.array(Image.open(stream))).reshape(pixels.shape).permute(2, 0, 1)
    return decoded[:, down:, right:]


def code_some(
    photos: torch.Tensor,
    quality: tuple[int, int] | None,
    probability: float,
    generator: torch.Generator,
    half_chroma: bool = True,
) -> torch.Tensor:
    """JPEG-codes a random share of photos, each with a random offset of the block grid.

    Args:
        photos: (B, C, H, W) in [0, 1]; other values are clipped in the photos that are coded.
        quality: range of the quality (whole numbers in [1, 100]), uniform; None: no coding.
        probability: probability that a photo is coded.
        generator: source of all random draws, made on its own device.
        half_chroma: whether to halve the width and height of the chroma planes (4:2:0 instead of 4:4:4).
    """
    if quality is None or probability == 0:
        return photos
    batch, device = photos.shape[0], generator.device
    is_coded = torch.rand(batch, generator=generator, device=device) < probability
    low, high = quality
    qualities = torch.randint(low, high + 1, (batch,), generator=generator, device=device)
    shift = torch.randint(JPEG_BLOCK, (batch, 2), generator=generator, device=device)
    chosen = is_coded.nonzero()[:, 0]  # indices of the photos to code
    if not len(chosen):
        return photos
    down, right = shift[chosen].T.tolist()
    samplings = [2 if half_chroma else 0] * len(chosen)
    arguments = (qualities[chosen].tolist(), down, right, samplings)
    chosen = chosen.to(photos.device)
    pixels = _to_uint8(photos[chosen])
    if len(chosen) < MIN_PHOTOS_FOR_THREADS:
        coded = list(map(_code_uint8, pixels, *arguments))
    else:
        with ThreadPoolExecutor() as pool:
            coded = list(pool.map(_code_uint8, pixels, *arguments))
    return photos.index_copy(0, chosen, torch.stack(coded).to(photos) / 255)


def jpeg_quality(content: bytes) -> int | None:
    """Returns the quality (1 to 100) at which a JPEG file was coded; None for other files.

    This is the quality of libjpeg whose luma quantization table is most similar to that of the file, since cameras have
    tables of their own.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:  # reads the header only
            tables = getattr(image, "quantization", None)
    except Exception:  # `photos.reading.decode_photo` reports errors of the file
        return None
    if not tables:
        return None
    # the table of luma has the lowest number; sorted, since the order of entries differs between releases of Pillow
    table = np.sort(np.array(tables[min(tables)], dtype=float))
    distances = [
        np.abs(np.log(table) - np.log(np.sort(luma_table(quality), axis=None))).sum() for quality in range(1, 101)
    ]
    return int(np.argmin(distances)) + 1


def chroma_sampling(content: bytes) -> int:
    """Returns the chroma subsampling of a JPEG file, as `sampling` of `jpeg`; 0 if it is another one or unknown."""
    try:
        with Image.open(io.BytesIO(content)) as image:  # reads the header only
            return max(0, get_sampling(image))  # -1: unknown
    except Exception:  # as `jpeg_quality`
        return 0


def luma_table(quality: int) -> np.ndarray:
    """Returns libjpeg's luma quantization table (8, 8) for a quality from 1 to 100."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.array(LUMA_TABLE) * percent + 50) // 100, 1, 255).reshape(JPEG_BLOCK, JPEG_BLOCK)


def blockiness(photo: torch.Tensor) -> float:
    """Measures the steps between pixels at the borders of JPEG's 8 x 8 blocks, relative to other steps.

    The result is about 1 for photos without JPEG coding, and larger after coarse coding.

    Args:
        photo: floating point (C, H, W), at least 24 pixels wide and high, whose block grid starts top left.
    """
    ratios = []
    for axis in (1, 2):
        step = photo.diff(dim=axis).abs().mean((0, 3 - axis))  # (H - 1,) or (W - 1,)
        # second differences, so that slopes and slow changes of detail cancel; those centered on the borders of blocks,
        # the first of which is step[JPEG_BLOCK - 1]
        edge = (2 * step[1:-1] - step[:-2] - step[2:])[JPEG_BLOCK - 2 :: JPEG_BLOCK]
        ratios.append(1 + float(edge.mean() / (2 * step.mean()).clamp(min=1e-6)))
    return sum(ratios) / 2
