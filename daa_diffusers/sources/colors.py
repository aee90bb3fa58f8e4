"""Random colors of clean patches.

Few photos show dark scenes or saturated patterns, and a denoiser trained without them takes such patterns for the color
noise of dark photos and removes them.
"""

import torch

from ..degradations.camera_noise import SRGB_GAMMA, apply_tone, invert_tone
from ..degradations.draws import log_uniform, uniform

EXPOSURE = 0.08, 1.25  # factor of linear light: 3.6 stops darker to a third of a stop brighter
WHITE_BALANCE = 0.7, 1.4  # factor of each color in linear light
SATURATION = 0.3, 2.0  # factor of the differences from the mean of the colors


def random_colors(patch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Changes exposure, white balance, saturation and the order of colors, each drawn at random.

    Args:
        patch: (C, H, W) in [0, 1], sRGB; the saturation of one channel (gray) has no effect.
        generator: generator of the draws.

    Returns:
        The patch with its new colors, (C, H, W) in [0, 1].
    """
    channels, gamma = patch.shape[0], torch.tensor(SRGB_GAMMA, dtype=patch.dtype)
    factors = log_uniform((channels, 1, 1), *WHITE_BALANCE, patch, generator)
    light = invert_tone(patch, gamma) * factors * log_uniform((), *EXPOSURE, patch, generator)
    light = light[torch.randperm(channels, generator=generator)]
    gray = light.mean(0, keepdim=True)
    light = gray + (light - gray) * uniform((), *SATURATION, patch, generator)
    return apply_tone(light, gamma).clamp(0, 1)
