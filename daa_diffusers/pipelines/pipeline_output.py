"""Output of the restoration pipeline."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from .guard import Verdict


@dataclass
class DAARestorationPipelineOutput(BaseOutput):
    """Restored photos, in the order of the input photos.

    Args:
        images: for `output_type="pil"`, a list of PIL images. For "np" and "pt", a list of arrays or tensors if a list
            was given (sizes may differ), else one array (B, H, W, C) or tensor (B, C, H, W), with B = 1 for a single
            photo. Size, number of channels and bit depth (uint8, uint16 or floating point in [0, 1]) are those of the
            photo; grayscale arrays given without a channel axis are returned without one.
        guard: verdict of the guard on each photo; None without a guard, or if the restorer's task has none.
    """

    images: list[PIL.Image.Image] | list[np.ndarray] | list[torch.Tensor] | np.ndarray | torch.Tensor
    guard: list[Verdict] | None = None
