"""Standalone pipeline, loaded from a Hub repository with `trust_remote_code=True`, without the package daa_diffusers.

A pushed repository contains this file as `pipeline.py`, and `image_processor.py`; they import only torch, diffusers,
numpy and Pillow. Each photo is restored in one pass. The package (pip install daa-diffusers) adds tiles for large
photos, photo files with metadata, training and more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import nn

from .image_processor import (
    PhotoInput,
    as_floats,
    assemble,
    check_output_type,
    from_batch,
    in_own_depth,
    pad_to_multiple,
    read_photos,
    to_batch,
)


@dataclass
class DAARestorationPipelineOutput(BaseOutput):
    """Restored photos, in the order of the input photos: PIL images, arrays or tensors, as set by `output_type`."""

    images: Any


class DAARestorationPipeline(DiffusionPipeline):
    """Restoration pipeline for photos of any size; results have the size and the type of the input.

    Args:
        restorer: `x (B, C, H, W) -> restored (B, C, H, W)` in the value range of its config.
        unet, scheduler: noise predictor and noise schedule used in training; not used here.
    """

    model_cpu_offload_seq = "restorer->unet"
    _optional_components = ["unet", "scheduler"]

    def __init__(self, restorer: nn.Module, unet: nn.Module | None = None, scheduler: Any = None):
        super().__init__()
        self.register_modules(restorer=restorer, unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        image: PhotoInput | Sequence[PhotoInput],
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        as_float: bool | None = None,
        generator: Any = None,
        num_inference_steps: int | None = None,
    ) -> DAARestorationPipelineOutput | tuple:
        """Restores photos of any size; the size does not change.

        Args:
            image: PIL image, array (H, W), (H, W, C) or (B, H, W, C), tensor (C, H, W) or (B, C, H, W), or a list of
                one of these types; uint8, uint16, or floating point in [0, 1]. Alpha is returned unchanged.
            output_type: "pil", "np" or "pt", in the photo's bit depth (but see `as_float`).
            return_dict: return a `DAARestorationPipelineOutput` (default) or the tuple `(images,)`.
            as_float: return "np" and "pt" as float32 in [0, 1] (True), or in the photo's bit depth (False). None: True
                for PIL images, False for arrays and tensors.
            generator, num_inference_steps: no effect; restoring is deterministic and takes one step.

        Raises:
            TypeError, ValueError: invalid `image` or `output_type`.
            FloatingPointError: the restorer returns NaN or infinity.
        """
        # 1. Check inputs
        config = self.restorer.config
        channels = config.channels
        low, high = config.value_range
        photos, as_list = read_photos(image, channels)
        check_output_type(output_type, photos)
        if output_type != "pil" and not in_own_depth(image, as_float):
            photos = [as_floats(photo) for photo in photos]

        restored = []
        self.restorer.eval()
        for photo in self.progress_bar(photos):
            # 2. Preprocess
            batch = to_batch([photo], channels, (low, high), self._execution_device)  # (N, C, H, W)
            height, width = photo.size
            padded = pad_to_multiple(batch, self.restorer.size_multiple)

            # 3. Restore
            result = self.restorer(padded.to(self.restorer.dtype))[:, :, :height, :width].float()
            if not result.isfinite().all():
                raise FloatingPointError("`restorer` returned NaN or infinite pixels; use dtype=torch.float32")

            # 4. Postprocess
            restored += from_batch([photo], result, channels, (low, high))

        images = assemble(restored, output_type, as_list)
        self.maybe_free_model_hooks()
        return DAARestorationPipelineOutput(images=images) if return_dict else (images,)
