"""Guard of denoisers: attenuates changes that do not resemble noise.

Sensors measure each color separately, so the noise of neighboring pixels is about as correlated in color as in
brightness: hardly at all in a downscaled photo, over a pixel or two after demosaicing and JPEG compression. In fine
detail, brightness alternates from pixel to pixel while color varies slowly (most files store color at half the
resolution). The correlation of neighboring pixels in the residual `x - f(x)` therefore separates noise from detail,
without ground truth and without a model of the noise.

This criterion fails if the noisy photo was stored with color at half the resolution (JPEG 4:2:0), since the color of
its noise then varies slowly as well. Two other criteria remain: such files keep only a small fraction of the noise in
color, and large changes are rarely detail.

The thresholds below were set with `daa-denoise` on the training photos of noisy sets (RENOIR, SIDD, PolyU) and clean
sets (BSDS, wallpapers), with and without JPEG compression. Several lines in the (brightness, color) plane performed
equally well there; one was selected on two validation photos, of RENOIR and SIDD. benchmarks/guard.py evaluates the
guard on other photos.
"""

from dataclasses import dataclass

import torch

WINDOW = 256  # pixels, side of the measured windows
MAX_WINDOWS = 4
MIN_PIXELS = 1024  # of a photo; with fewer, correlations are not significant

HARMLESS = 1.25  # rms in 1/255 (46 dB): smaller changes are applied in full
# Excess: correlation of neighboring pixels in color, minus `SLOPE * max(0, correlation in brightness - FLOOR)`. A
# change is noise below the first value of `EXCESS`, detail above the second, and a mixture in between. The noise of the
# photos above has a correlation in brightness below 0.1 or above 0.28, so that a line which rises from 0.17 on is far
# from both.
SLOPE, FLOOR = 5.0, 0.17
EXCESS = 0.06, 0.21
# A change whose correlation in brightness exceeds this by `EXCESS` (from 0.66 to 0.81) is detail whatever its color.
STRUCTURE = 0.6
# Rms in 1/255: a change is small below the first value of `SMALL`, and large above the second of `LARGE`, gradually.
SMALL = 3.5, 5.0  # a colorless change is detail if it is small, else noise
LARGE, LARGE_EXCESS = (8.0, 10.0), 0.25  # large changes are rarely detail: their excess must be LARGE_EXCESS higher
COLORLESS = 0.02  # fraction of color in the power of a change, below which it counts as colorless
# Color was possibly stored at half the resolution if its correlation is in a range, given by its gradual begin and end.
# The excess is then no evidence of detail if the change is not small, or if the ratio of its power in color to that in
# brightness is in the range `FAINT`.
HALF_SIZE = (0.45, 0.55), (0.88, 0.92)
FAINT = (COLORLESS, 0.05), (0.1, 0.2)


@dataclass(frozen=True)
class Verdict:
    """Verdict of the guard on one photo.

    Attributes:
        strength: fraction of the restorer's change that is applied, in [0, 1]. For denoisers, it is multiplied by the
            caller's `strength`; for derainers, the fraction of the removed light, by power, that stays removed.
        reason: explanation of the strength.
        change: root mean square of the full change, in 1/255.
        brightness, colour: correlation of neighboring pixels, in [-1, 1], in the brightness of the change and in its
            colors (minus the brightness). `colour` is 0 for a colorless change; both are 0 for derainers.
    """

    strength: float
    reason: str
    change: float
    brightness: float = 0.0
    colour: float = 0.0


def sample_windows(size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of the windows to measure in a photo (H, W): the whole of a small photo, else four windows."""
    height, width = size
    if height * width <= MAX_WINDOWS * WINDOW**2:
        return [(slice(0, height), slice(0, width))]
    high, wide = min(height, WINDOW), min(width, WINDOW)
    quarters = ((1, 1), (1, 3), (3, 1), (3, 3))
    corners = [((height - high) * down // 4, (width - wide) * right // 4) for down, right in quarters]
    return [(slice(top, top + high), slice(left, left + wide)) for top, left in corners]


def judge(photo: torch.Tensor, restored: torch.Tensor) -> Verdict:
    """Computes the verdict on a photo from windows of it, (N, C, H, W) in [0, 1], before and after restoration.

    The strength is `min(1, HARMLESS / change) ** doubt`, where `doubt` is 0 for noise and 1 for detail.
    """
    residual = 255 * (photo - restored.clamp(0, 1)).float()
    if residual.device.type != "cuda":
        residual = residual.cpu()  # not every device has float64
    change = float(residual.square().mean().sqrt())
    gray = residual.mean(1, keepdim=True)
    colors = residual - gray
    color_power, gray_power = float(colors.square().mean()), float(gray.square().mean())
    has_color = color_power > COLORLESS * change**2
    brightness, color = neighbor_correlation(gray), neighbor_correlation(colors) if has_color else 0.0
    if residual[:, 0].numel() < MIN_PIXELS:
        return Verdict(1.0, "too small to judge", change, brightness, color)
    # each in [0, 1]
    small, large = 1 - _ramp(change, *SMALL), _ramp(change, *LARGE)
    detail = _ramp(color - SLOPE * max(0.0, brightness - FLOOR) - LARGE_EXCESS * large, *EXCESS)
    if has_color:
        faint = _in_range(color_power / max(gray_power, 1e-9), *FAINT)
        detail *= 1 - _in_range(color, *HALF_SIZE) * max(1 - small, faint)
    doubt = max(detail if has_color else small, _ramp(brightness - STRUCTURE, *EXCESS))
    strength = min(1.0, HARMLESS / max(change, 1e-6)) ** doubt
    if change <= HARMLESS:
        reason = "hardly any change"
    elif strength == 1:
        reason = "the change is like noise"
    elif change <= SMALL[0]:
        reason = "clean: the change is like detail"
    else:
        reason = "unsuited to the restorer: the change is not like noise"
    return Verdict(strength, reason, change, brightness, color)


def neighbor_correlation(residual: torch.Tensor) -> float:
    """Correlation of horizontally neighboring pixels in (N, C, H, W), channels centered; 0 for constant channels."""
    residual = residual.double()
    left, right = residual[..., :-1], residual[..., 1:]
    left, right = (x - x.mean((0, 2, 3), keepdim=True) for x in (left, right))
    power = (left.square().mean() * right.square().mean()).sqrt()
    return float((left * right).mean() / power) if power > 1e-9 else 0.0


def _ramp(value: float, low: float, high: float) -> float:
    """Linear ramp: 0 up to `low`, 1 from `high` on."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _in_range(value: float, begin: tuple[float, float], end: tuple[float, float]) -> float:
    """Trapezoid: 0, rises to 1 within `begin`, and falls to 0 within `end`."""
    return _ramp(value, *begin) - _ramp(value, *end)
