"""Guard of denoisers, by which changes that are not like noise are applied only in part.

Sensors measure each color separately, so that the noise of neighboring pixels is correlated about as much in
color as in brightness: hardly, if the photo was scaled down; over a pixel or two, if the camera demosaiced it and
wrote a JPEG. Fine detail is different: its brightness alternates from pixel to pixel, while its color varies slowly
(most files store color at half the size). So the correlation of neighbors in the residual `x - f(x)` separates the two,
without ground truth and without a model of the photo's noise.

This criterion fails where the noisy photo itself was stored with color at half the size (JPEG 4:2:0), since the color
of its noise varies slowly as well. Two signs remain: such files keep only a small share of the noise in color, and a
large change is rarely one of detail.

The thresholds below were set with `daa-denoise` on the training photos of noisy sets (RENOIR, SIDD, PolyU) and of clean
ones (BSDS, wallpapers), and on both after JPEG coding. Among lines in (brightness, color) of equal quality there,
one was chosen by two validation photos, of RENOIR and SIDD. benchmarks/guard.py measures the result on other photos.
"""

from dataclasses import dataclass

import torch

WINDOW = 256  # pixels
MAX_WINDOWS = 4
MIN_PIXELS = 1024  # with fewer, correlations are not significant

HARMLESS = 1.25  # 1/255 rms: smaller changes are applied in full; 46 dB
# Excess: correlation of neighbors in color minus the line `SLOPE * max(0, brightness - FLOOR)` of that in brightness.
# A change is noise below the first of `EXCESS`, detail above the second, and partly either in between. The line rises
# between 0.1 and 0.28, where there is no noise: its correlation in brightness is smaller or larger.
SLOPE, FLOOR = 5.0, 0.17
EXCESS = 0.06, 0.21
STRUCTURE = 0.6  # correlation in brightness that is not exceeded by noise
# 1/255 rms: detail rarely makes such a large change, so that its excess must be larger by LARGE_EXCESS.
LARGE, LARGE_EXCESS = (8.0, 10.0), 0.25
COLORLESS = 0.02  # share of color in the power of a change, below which it has no color
# Correlation in color between `HALF_SIZE` and `NOT_HALF_SIZE`: color was possibly stored at half the size. Then the
# excess is no evidence of detail if the change is large, or if its power in color is below `FAINT` times that in
# brightness.
HALF_SIZE, NOT_HALF_SIZE, FAINT = (0.45, 0.55), (0.88, 0.92), (0.1, 0.2)
SIZE_ALONE = 3.5, 5.0  # 1/255 rms: a change without color counts as detail if smaller, as noise if larger


@dataclass(frozen=True)
class Verdict:
    """Verdict of the guard on one photo.

    Attributes:
        strength: share of the restorer's change to apply, in (0, 1]; the caller's own strength is a further factor.
        reason: for the strength, in words.
        change: root mean square of the whole change, in 1/255.
        brightness, colour: correlation of neighboring pixels, in [-1, 1], in the brightness of the change and in its
            colors (minus the brightness); `colour` is 0 for a change without color, and
            both are 0 for derainers.
    """

    strength: float
    reason: str
    change: float
    brightness: float = 0.0
    colour: float = 0.0


def sample_windows(size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of the windows that represent a photo (H, W): a small one as a whole, else four windows."""
    height, width = size
    if height * width <= MAX_WINDOWS * WINDOW**2:
        return [(slice(0, height), slice(0, width))]
    high, wide = min(height, WINDOW), min(width, WINDOW)
    quarters = ((1, 1), (1, 3), (3, 1), (3, 3))
    corners = [((height - high) * down // 4, (width - wide) * right // 4) for down, right in quarters]
    return [(slice(top, top + high), slice(left, left + wide)) for top, left in corners]


def judge(photo: torch.Tensor, restored: torch.Tensor) -> Verdict:
    """The verdict on a photo by its windows, (N, C, H, W) in [0, 1], before and after the restorer.

    The strength is `min(1, HARMLESS / change) ** doubt`: the doubt that a change is noise is 0 for noise, 1 for detail.
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
    large = _ramp(change, *LARGE)
    excess = color - SLOPE * max(0.0, brightness - FLOOR) - LARGE_EXCESS * large
    detail, small = _ramp(excess, *EXCESS), 1 - _ramp(change, *SIZE_ALONE)
    if has_color:
        share = color_power / max(gray_power, 1e-9)
        faint = _ramp(share, COLORLESS, FAINT[0] / 2) - _ramp(share, *FAINT)  # less color is no evidence either way
        half_size = _ramp(color, *HALF_SIZE) - _ramp(color, *NOT_HALF_SIZE)
        detail *= 1 - half_size * max(1 - small, faint)
    doubt = max(detail if has_color else small, _ramp(brightness - STRUCTURE, *EXCESS))
    strength = min(1.0, HARMLESS / max(change, 1e-6)) ** doubt
    if change <= HARMLESS:
        reason = "hardly any change"
    elif strength == 1:
        reason = "the change is like noise"
    elif change <= SIZE_ALONE[0]:
        reason = "clean: the change is like detail"
    else:
        reason = "not what the restorer is for: the change is not like noise"
    return Verdict(strength, reason, change, brightness, color)


def neighbor_correlation(residual: torch.Tensor) -> float:
    """Correlation of horizontal neighbors in (N, C, H, W), each channel minus its mean; 0 for constant channels."""
    residual = residual.double()
    left, right = residual[..., :-1], residual[..., 1:]
    left, right = (x - x.mean((0, 2, 3), keepdim=True) for x in (left, right))
    power = (left.square().mean() * right.square().mean()).sqrt()
    return float((left * right).mean() / power) if power > 1e-9 else 0.0


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, linear between them."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
