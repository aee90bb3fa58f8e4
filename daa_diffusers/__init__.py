"""Noise-space domain adaptation of image restorers to real photos, as a plugin for Hugging Face diffusers.

    from daa_diffusers import DAARestorationPipeline

    restored = DAARestorationPipeline.from_pretrained("daa-denoise")(photo).images[0]

Public names are imported when they are first used (PEP 562), so that `import daa_diffusers` imports neither torch nor
diffusers. Their module paths are public too: saved pipelines (`model_index.json`) refer to them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import telemetry

if TYPE_CHECKING:
    from .foreign.restorer import ForeignRestorer
    from .models.daa_unet import DAAUNet2DConditionModel
    from .models.fast_restoration_unet import FastRestorationUNet
    from .models.restoration_unet import RestorationUNet
    from .objectives.noise_space import NoiseSpaceAdaptation
    from .official.convert import convert_official_state_dict
    from .pipelines.pipeline_daa_restoration import DAARestorationPipeline
    from .pipelines.pipeline_output import DAARestorationPipelineOutput

telemetry.switch_off()  # before the import of any library with telemetry

__version__ = "0.1.0"

__all__ = [
    "DAARestorationPipeline",
    "DAARestorationPipelineOutput",
    "DAAUNet2DConditionModel",
    "FastRestorationUNet",
    "ForeignRestorer",
    "NoiseSpaceAdaptation",
    "RestorationUNet",
    "__version__",
    "convert_official_state_dict",
]

# Public name -> its module, relative to this package.
_MODULES = {
    "DAARestorationPipeline": "pipelines.pipeline_daa_restoration",
    "DAARestorationPipelineOutput": "pipelines.pipeline_output",
    "DAAUNet2DConditionModel": "models.daa_unet",
    "FastRestorationUNet": "models.fast_restoration_unet",
    "ForeignRestorer": "foreign.restorer",
    "NoiseSpaceAdaptation": "objectives.noise_space",
    "RestorationUNet": "models.restoration_unet",
    "convert_official_state_dict": "official.convert",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value  # later accesses do not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
