"""Output of the restoration pipeline."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from .guard import Verdict


@dataclass
class DAARestorationPipelineOutput(BaseOutput):
    """The restored photos, in the order of the given ones; `images[i]` always belongs to photo i.

    Args:
        images: for `output_type="pil"` a list of PIL images. For `"np"` and `"pt"` a list of arrays or tensors where a
            list was given (sizes may differ), else one array (B, H, W, C) or tensor (B, C, H, W), B being 1 for a
            single photo. Same size, bit depth (uint8, uint16 or floating point in [0, 1]) and number of channels as
            the photo; gray arrays that came without a channel axis have none here either.
        guard: the guard's verdict on each photo; None without a guard, and for a restorer that is no denoiser.
    """

    images: list[PIL.Image.Image] | list[np.ndarray] | list[torch.Tensor] | np.ndarray | torch.Tensor
    guard: list[Verdict] | None = None
