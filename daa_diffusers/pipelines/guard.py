"""Guard of denoisers: changes that are not like noise are applied only in part.

Sensors measure each color separately, so that the noise of neighboring pixels is correlated about as much in
color as in brightness: hardly, if the photo was scaled down; over a pixel or two, if the camera demosaiced it and
wrote a JPEG. Fine detail does not: it alternates from pixel to pixel in brightness, while color varies slowly (most
files store it at half the size). So the correlation of neighbors in the residual `x - f(x)` separates the two,
without ground truth and without a model of the photo's noise.

It does not where the noisy photo itself was stored with color at half the size (JPEG 4:2:0): then the colors of noise
vary slowly as well. Two signs remain: such files keep only a small share of the noise in color, and a
large change is rarely one of detail.

The numbers below were set with `daa-denoise` on noisy photos (RENOIR, SIDD, PolyU, train) and clean ones (BSDS,
wallpapers), and on both through JPEG: benchmarks/guard.py measures them on others. Of lines that do equally well there,
the one that also spares a photo of RENOIR's val and stops one of SIDD's was chosen; the other sets were not used.
"""

from dataclasses import dataclass

import torch

WINDOW = 256  # pixels
MAX_WINDOWS = 4
MIN_PIXELS = 1024  # fewer are not significant

HARMLESS = 1.25  # 1/255 rms: smaller changes are applied in full; 46 dB
# Of noise, the correlation of neighbors in color exceeds this multiple of that in brightness (above a floor) by less
# than the first of `EXCESS`; of detail by more than the second. In between, the guard is half in doubt.
SLOPE, FLOOR = 5.0, 0.17  # noise lies below 0.1 or above 0.28 in brightness: the line rises between
EXCESS = 0.06, 0.21
STRUCTURE = 0.6  # correlation in brightness that noise stays below
# 1/255 rms: detail alone rarely makes such a change; more excess is needed then.
LARGE, LARGE_EXCESS = (8.0, 10.0), 0.25
COLORLESS = 0.02  # share of the change's power in colors, below which there are none
# Correlation in color at which it may have been stored at half the size (more has other causes): it is no evidence
# then, unless it holds little of the change, as of noise in such a file (power against that of brightness).
HALF_SIZE, NOT_HALF_SIZE, FAINT = (0.45, 0.55), (0.88, 0.92), (0.1, 0.2)
SIZE_ALONE = 3.5, 5.0  # 1/255 rms: without information in color, smaller changes count as detail, larger ones as noise


@dataclass(frozen=True)
class Verdict:
    """Verdict of the guard on one photo.

    Attributes:
        strength: the share of the restorer's change that is applied, in (0, 1], before the caller's own strength.
        reason: why.
        change: root mean square of the whole change, in 1/255.
        brightness, colour: correlation of neighboring pixels, in [-1, 1], in the brightness and in the colors (less
            the brightness) of the whole change; color is 0 of photos without colors.
    """

    strength: float
    reason: str
    change: float
    brightness: float
    colour: float


def sample_windows(size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of the windows that represent a photo of (H, W): all of a small one, else four spread out."""
    height, width = size
    if height * width <= MAX_WINDOWS * WINDOW**2:
        return [(slice(0, height), slice(0, width))]
    high, wide = min(height, WINDOW), min(width, WINDOW)
    quarters = ((1, 1), (1, 3), (3, 1), (3, 3))
    corners = [((height - high) * down // 4, (width - wide) * right // 4) for down, right in quarters]
    return [(slice(top, top + high), slice(left, left + wide)) for top, left in corners]


def judge(photo: torch.Tensor, restored: torch.Tensor) -> Verdict:
    """The verdict on a photo by windows of it, (N, C, H, W) in [0, 1], and what the restorer makes of them.

    The strength is `min(1, HARMLESS / change)` of photos whose change is not like noise, 1 of others, and between them
    the geometric mean by how far the change is from noise.
    """
    residual = 255 * (photo - restored.clamp(0, 1)).float().cpu()  # not every device has float64
    change = float(residual.square().mean().sqrt())
    gray = residual.mean(1, keepdim=True)
    colors = residual - gray
    color_power, gray_power = float(colors.square().mean()), float(gray.square().mean())
    has_color = color_power > COLORLESS * change**2
    brightness, color = neighbor_correlation(gray), neighbor_correlation(colors) if has_color else 0.0
    if residual[:, 0].numel() < MIN_PIXELS:
        return Verdict(1.0, "too small to tell", change, brightness, color)
    large = _ramp(change, *LARGE)
    excess = color - SLOPE * max(0.0, brightness - FLOOR) - LARGE_EXCESS * large
    detail, size = _ramp(excess, *EXCESS), 1 - _ramp(change, *SIZE_ALONE)
    if has_color:
        share = color_power / max(gray_power, 1e-9)
        faint = _ramp(share, COLORLESS, FAINT[0] / 2) - _ramp(share, *FAINT)  # too few samples are not significant
        half_size = _ramp(color, *HALF_SIZE) - _ramp(color, *NOT_HALF_SIZE)
        detail *= 1 - half_size * max(1 - size, faint)
    doubt = max(detail if has_color else size, _ramp(brightness - STRUCTURE, *EXCESS))
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
    """Correlation of horizontal neighbors in (N, C, H, W), each channel less its mean; 0 where there is nothing."""
    residual = residual.double()
    left, right = residual[..., :-1], residual[..., 1:]
    left, right = (x - x.mean((0, 2, 3), keepdim=True) for x in (left, right))
    power = (left.square().mean() * right.square().mean()).sqrt()
    return float((left * right).mean() / power) if power > 1e-9 else 0.0


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
