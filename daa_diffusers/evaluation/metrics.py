"""PSNR and SSIM per image, on RGB or on the Y channel (docs/method.md, "The official sizes and recipes").

Scores are computed per image; tables have means of per-image scores, never the score of a whole batch.
"""

import math
from typing import Literal

import numpy as np
import torch

Image = torch.Tensor | np.ndarray

# MATLAB's rgb2ycbcr (BT.601, studio range 16..235), for RGB in [0, 1]. Not rounded, as in BasicSR and scikit-image.
Y_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
Y_OFFSET = 16 / 255

SSIM_SIGMA = 1.5  # pixels
SSIM_RADIUS = 5  # radius of the 11 x 11 window for this sigma
# Share of its range by which a clean image may exceed it, since resampling overshoots; more indicates a wrong range.
RANGE_TOLERANCE = 0.05

INTEGER_RANGES = {torch.uint8: 255.0, torch.uint16: 65535.0}  # value of white


def psnr(
    restored: Image,
    clean: Image,
    *,
    data_range: float | None = None,
    color: Literal["rgb", "y"] = "rgb",
    as_uint8: bool = False,
) -> torch.Tensor:
    """Computes the peak signal-to-noise ratio of each image in dB; inf for identical images.

    Args:
        restored: image(s) to score: torch (C, H, W) or (B, C, H, W), numpy (H, W), (H, W, C) or (B, H, W, C), with C
            1 or 3; uint8, uint16 or floating point. Values outside [0, `data_range`] are clamped.
        clean: ground truth of the same size, and of the same type if `restored` is integer, else floating point.
            Values must be in [0, `data_range`]; an excess of up to a twentieth of this range is clamped.
        data_range: value of white. None: 255 for uint8, 65535 for uint16, 1 for floating point.
        color: "rgb", or "y" for MATLAB's Y channel (the convention for deraining), which requires three channels.
        as_uint8: round both images to 8 bit first, as in saved files.

    Returns:
        Scores on the CPU, float64: () for one image, (B,) for a batch.

    Raises:
        TypeError: an image is neither tensor nor array, or of another dtype.
        ValueError: shapes or dtypes do not match, NaN, a wrong range, or an unknown `color`.
    """
    restored_pixels, clean_pixels, is_batch = _prepare(restored, clean, data_range, color, as_uint8)
    scores = -10 * torch.log10((restored_pixels - clean_pixels).square().mean(dim=(1, 2, 3)))  # (B,)
    return scores if is_batch else scores[0]


def ssim(
    restored: Image,
    clean: Image,
    *,
    data_range: float | None = None,
    color: Literal["rgb", "y"] = "rgb",
    as_uint8: bool = False,
) -> torch.Tensor:
    """Computes the structural similarity of each image, in [-1, 1]; 1 for identical images.

    The window is an 11 x 11 Gaussian of sigma 1.5, and the mean is taken over channels and over the pixels whose window
    is inside the image: the convention of Wang et al. (2004), MATLAB and scikit-image. (torchmetrics pads by reflection
    and includes the border, which gives other numbers.)

    Args:
        restored, clean, data_range, color, as_uint8: as for `psnr`; both sides must be at least 11 pixels.

    Returns:
        Scores on the CPU, float64: () for one image, (B,) for a batch.

    Raises:
        ImportError: torchmetrics is not installed.
        TypeError, ValueError: as for `psnr`; or images are smaller than the window.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ImportError("`ssim` needs torchmetrics: pip install torchmetrics") from error

    restored_pixels, clean_pixels, is_batch = _prepare(restored, clean, data_range, color, as_uint8)
    window = 2 * SSIM_RADIUS + 1
    height, width = clean_pixels.shape[2:]
    if min(height, width) < window:
        raise ValueError(f"`clean` must be at least {window} x {window} pixels for SSIM, got {height} x {width}")
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    scores = []
    # one image at a time to limit memory; float32 is fifty times as fast here, and accurate to 1e-5
    for image, reference in zip(restored_pixels.float().split(1), clean_pixels.float().split(1), strict=True):
        _, similarity = structural_similarity_index_measure(
            image, reference, sigma=SSIM_SIGMA, data_range=1.0, reduction="none", return_full_image=True
        )  # (1, C, H, W)
        scores.append(similarity[..., inside, inside].double().mean())
    return torch.stack(scores) if is_batch else scores[0]


def _prepare(
    restored: Image, clean: Image, data_range: float | None, color: str, as_uint8: bool
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Checks both images; returns them as (B, C or 1, H, W), float64 in [0, 1], and whether they are batches."""
    if color not in ("rgb", "y"):
        raise ValueError(f'`color` must be "rgb" or "y", got {color!r}')
    if data_range is not None and not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"`data_range` must be positive (the value of white) or None, got {data_range!r}")
    restored_pixels, is_batch = _channels_first("restored", restored)
    clean_pixels, clean_is_batch = _channels_first("clean", clean)
    if restored_pixels.shape != clean_pixels.shape or is_batch != clean_is_batch:
        raise ValueError(
            f"`restored` and `clean` must have one shape, got {tuple(restored.shape)} and {tuple(clean.shape)}"
        )
    if color == "y" and clean_pixels.shape[1] != 3:
        raise ValueError(
            f'`color="y"` needs three channels, got {tuple(clean.shape)}; a gray image is its own Y: "rgb"'
        )
    dtypes = restored_pixels.dtype, clean_pixels.dtype
    if dtypes[0] != dtypes[1] and not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`restored` and `clean` must both be floating point or of one type, got {dtypes[0]}, {dtypes[1]}"
        )

    white = data_range if data_range is not None else INTEGER_RANGES.get(dtypes[1], 1.0)
    pair = []
    for name, pixels in (("restored", restored_pixels), ("clean", clean_pixels)):
        pixels = pixels.to(torch.float64) / white
        if pixels.isnan().any():
            raise ValueError(f"`{name}` must not hold NaN, got {int(pixels.isnan().sum())} of {pixels.numel()} values")
        low, high = float(pixels.min()), float(pixels.max())
        if name == "clean" and not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
            raise ValueError(
                f"`clean` must lie in [0, {white:g}], got [{low * white:g}, {high * white:g}]; convert both images to "
                "that range, or name the value of white with `data_range`"
            )
        pixels = pixels.clamp(0, 1)
        if as_uint8:
            pixels = (pixels * 255).round() / 255
        if color == "y":
            weights = torch.tensor(Y_WEIGHTS, dtype=torch.float64).view(1, 3, 1, 1)
            pixels = (pixels * weights).sum(dim=1, keepdim=True) + Y_OFFSET  # (B, 1, H, W)
        pair.append(pixels)
    return pair[0], pair[1], is_batch


def _channels_first(name: str, image: Image) -> tuple[torch.Tensor, bool]:
    """Converts an image or batch to a CPU tensor (B, C, H, W) of its own dtype; also returns whether it is a batch."""
    if isinstance(image, np.ndarray):
        layout = "(H, W), (H, W, C) or (B, H, W, C)"
        if image.dtype.kind not in "uif" or image.dtype.itemsize > 8:
            raise TypeError(f"`{name}` must be uint8, uint16 or floating point, got {image.dtype}")
        native = image.astype(image.dtype.newbyteorder("="), copy=False)
        # torch warns about arrays that are not writable, such as those of PIL images
        pixels = torch.from_numpy(np.require(native, requirements=["C", "W"]))
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        pixels = pixels.movedim(-1, -3) if pixels.ndim >= 3 else pixels
    elif isinstance(image, torch.Tensor):
        layout = "(C, H, W) or (B, C, H, W)"
        pixels = image.detach().cpu()
    else:
        raise TypeError(f"`{name}` must be a torch tensor or numpy array, got {type(image).__name__}")
    if pixels.ndim not in (3, 4) or pixels.shape[-3] not in (1, 3) or pixels.numel() == 0:
        raise ValueError(
            f"`{name}` must be {layout} with 1 or 3 channels and at least one pixel, got {tuple(image.shape)}"
        )
    if pixels.dtype not in INTEGER_RANGES and not pixels.dtype.is_floating_point:
        raise TypeError(f"`{name}` must be uint8, uint16 or floating point, got {pixels.dtype}")
    return (pixels if pixels.ndim == 4 else pixels[None]), pixels.ndim == 4
