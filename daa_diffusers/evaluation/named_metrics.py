"""Registry of per-photo metrics by name, with their formats and protocols."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from ..errors import ConfigurationError, did_you_mean
from .metrics import psnr, ssim
from .perceptual import load_lpips, load_pyiqa
from .shifted import psnr_shift

Score = Callable[[torch.Tensor, torch.Tensor | None], float]
Space = Literal["rgb", "y"]

WITH_CLEAN = ("psnr", "ssim", "psnr_shift", "lpips")
# Upper bound in dB of PSNR in means, differences and intervals, since identical images have an infinite PSNR. For
# comparison, an error of one 8-bit step in one color of one pixel of a megapixel gives 113 dB.
PSNR_CAP = 100.0


@dataclass(frozen=True)
class Column:
    """Description of one number per photo.

    Attributes:
        name: name in the CSV file.
        title: title in tables.
        spec: format of the number, such as ".2f".
        sign: 1 if higher is better, -1 if lower is better, 0 for numbers that do not rank photos.
    """

    name: str
    title: str
    spec: str
    sign: int


@dataclass(frozen=True)
class Metric(Column):
    """Column computed by a named metric.

    Attributes:
        protocol: short description of the computation.
        score: function of (restored, clean) photos (C, H, W) in [0, 1]; clean is None without ground truth.
    """

    protocol: str
    score: Score


# Columns from `evaluation.label_free`. "noise_left" is the estimated remaining share of a photo's noise (mean square);
# the reciprocal of its mean over photos, in dB, is the `estimated_gain` of all photos.
LABEL_FREE = (
    Column("noise_left", "noise left", ".3f", -1),
    Column("signal_correlation", "signal correlation", "+.3f", 0),
    Column("residual_whiteness", "residual whiteness", ".3f", 0),
    Column("colour_drift", "colour drift (1/255)", ".2f", -1),
)


def metric_by_name(name: str, *, space: Space = "rgb", as_uint8: bool = True, shift: int = 5) -> Metric:
    """Returns the metric of a name.

    - "psnr", "ssim": `evaluation.psnr`, `evaluation.ssim`;
    - "psnr_shift": `evaluation.psnr_shift`, for deblurring;
    - "lpips", and without ground truth "pyiqa:niqe", "pyiqa:brisque", ... (`evaluation.perceptual`), always on RGB.

    Args:
        name: name of the metric.
        space, as_uint8, shift: as for `evaluate_folder`.

    Raises:
        ConfigurationError: unknown name, or weights that are not available.
        ImportError: a package is not installed; the message names the extra.
    """
    if name == "psnr":
        return Metric(name, "PSNR", ".2f", 1, "PSNR (dB)", _with_clean(partial(psnr, color=space, as_uint8=as_uint8)))
    if name == "ssim":
        protocol = "SSIM (11 x 11 Gaussian window, sigma 1.5, inside the border)"
        return Metric(name, "SSIM", ".4f", 1, protocol, _with_clean(partial(ssim, color=space, as_uint8=as_uint8)))
    if name == "psnr_shift":
        if isinstance(shift, bool) or not isinstance(shift, int) or shift < 0:
            raise ConfigurationError(f"`shift` must be a whole number of pixels, at least 0, got {shift!r}")
        protocol = f"PSNR at the best whole-pixel shift of at most {shift} in every row (dB)"
        score = _with_clean(partial(psnr_shift, shift=shift, color=space, as_uint8=as_uint8))
        return Metric(name, "PSNR (best shift)", ".2f", 1, protocol, score)
    if name == "lpips":
        lpips = load_lpips()
        score = _with_clean(lambda restored, clean: lpips(_rgb(restored, as_uint8), _rgb(clean, as_uint8)))
        return Metric(name, "LPIPS", ".4f", -1, "LPIPS (AlexNet 0.1, RGB, less is better)", score)
    if str(name).startswith("pyiqa:"):
        title = name.removeprefix("pyiqa:")
        quality, lower_is_better = load_pyiqa(title)
        sign, direction = (-1, "less") if lower_is_better else (1, "more")
        protocol = f"{title} by pyiqa (no reference, RGB, {direction} is better)"
        return Metric(name, title, ".3f", sign, protocol, lambda restored, _: quality(_rgb(restored, as_uint8)))
    raise ConfigurationError(
        f"`metrics` must be from {', '.join(WITH_CLEAN)}, or pyiqa:NAME without ground truth, got {name!r}"
        + did_you_mean(str(name), WITH_CLEAN)
    )


def _with_clean(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]) -> Score:
    """Returns a `Score` from a function of (restored, clean)."""

    def score(restored: torch.Tensor, clean: torch.Tensor | None) -> float:
        assert clean is not None  # `evaluate_folder` checks that `clean` is given
        return float(function(restored, clean))

    return score


def _rgb(photo: torch.Tensor, as_uint8: bool) -> torch.Tensor:
    """Repeats grayscale, clamps to [0, 1], and rounds to 8 bits if `as_uint8`."""
    photo = photo.expand(3, -1, -1).clamp(0, 1)
    return (photo * 255).round() / 255 if as_uint8 else photo
