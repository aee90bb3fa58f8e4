"""The guard: photos without noise, or that a denoiser changes in another way than by denoising, come back as they were.

Looks at what the denoiser would take out of a few windows of the photo. Noise is everywhere, in flat parts too; what
is taken out of a clean photo is in its detail alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

WINDOW = 256  # pixels
MAX_WINDOWS = 4
BLOCK = 8
NOISE_QUANTILE = 0.25  # of the blocks, by how much is taken out of them: the flat ones
CLEAN, NOISY = 1.0, 1.6  # 1/255: levels of noise up to which a photo is left alone, and from which it is restored


@dataclass(frozen=True)
class Verdict:
    """What the guard says of one photo.

    Attributes:
        strength: the share of the restorer's change that is applied, in [0, 1], before the caller's own strength.
        reason: "noisy" (1), "nearly clean" (between) or "clean" (0).
        noise: noise level of the flat parts, in 1/255.
        change: root mean square of the whole change, in 1/255.
    """

    strength: float
    reason: str
    noise: float
    change: float


def sample_windows(size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of the windows that stand for a photo of (H, W): all of a small one, else four spread out."""
    height, width = (min(side, WINDOW) for side in size)
    if size[0] * size[1] <= MAX_WINDOWS * WINDOW**2:
        return [(slice(0, size[0]), slice(0, size[1]))]
    corners = [(round(a * (size[0] - height)), round(b * (size[1] - width))) for a, b in _PLACES]
    return [(slice(top, top + height), slice(left, left + width)) for top, left in corners]


_PLACES = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))


def judge(photo: torch.Tensor, restored: torch.Tensor) -> Verdict:
    """The verdict on a photo by windows of it, (N, C, H, W) in [0, 1], and what the restorer makes of them."""
    residual = 255 * (photo - restored)
    change = float(residual.square().mean().sqrt())
    block = min(BLOCK, *photo.shape[2:])
    local = F.avg_pool2d(residual.square().mean(1, keepdim=True), block).flatten().sqrt()
    noise = float(local.quantile(NOISE_QUANTILE))
    strength = min(1.0, max(0.0, (noise - CLEAN) / (NOISY - CLEAN)))
    return Verdict(strength, "clean" if strength == 0 else "noisy" if strength == 1 else "nearly clean", noise, change)
