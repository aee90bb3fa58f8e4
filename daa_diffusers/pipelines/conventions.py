"""Conventions of diffusers pipelines: `from_pipe`, progress bars, saving to existing folders, unused arguments."""

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn

from ..adapters.loaded import LoadedAdapters
from ..models.daa_unet import DAAUNet2DConditionModel
from .transfers import weights_in_channels_last

logger = logging.getLogger(__name__)

# Arguments of `from_pretrained` for a single file, in addition to those of a download.
FILE_ARGUMENTS = ("dtype", "torch_dtype", "trust_remote_code")


class ConventionsMixin:
    """Mixin for pipelines with `restorer`, `unet` and `scheduler`; must precede `DiffusionPipeline` in the bases."""

    # folder of the loaded pipeline, and its components that were not loaded
    _unloaded: tuple[Path, Sequence[str]] | None = None
    # progress bars appear after a second, so not in short calls; `set_progress_bar_config` overrides this
    _progress_bar_config: dict[str, Any] = {"delay": 1.0}
    restorer: nn.Module
    unet: nn.Module | None
    _loaded_adapters: LoadedAdapters | None

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Creates a pipeline from the components of another one, without copying weights.

        The restorer (of any class) and the noise predictor are shared; other models under these names are not. The
        components keep their dtype unless `dtype` is given, whereas diffusers casts to float32.

        Args:
            pipeline: pipeline with a `restorer`, or any other pipeline if `restorer` is given.
            kwargs: `dtype`, or components that replace those of `pipeline`.
        """
        for name, kind in (("restorer", nn.Module), ("unet", DAAUNet2DConditionModel)):
            component = pipeline.components.get(name)
            if isinstance(component, kind):
                kwargs.setdefault(name, component)
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", pipeline.dtype)
        created = super().from_pipe(pipeline, **kwargs)  # type: ignore[misc]
        if isinstance(pipeline, cls) and created.restorer is pipeline.restorer:
            created._loaded_adapters = pipeline._loaded_adapters  # the shared restorer may contain an adapter's update
        return created

    def maybe_free_model_hooks(self) -> None:
        """Same as `DiffusionPipeline.maybe_free_model_hooks`, but faster if there are no hooks."""
        if getattr(self, "_all_hooks", None):
            super().maybe_free_model_hooks()  # type: ignore[misc]

    def to(self, *args, **kwargs) -> Self:
        """Same as `DiffusionPipeline.to`, also for plain modules; on CUDA, convolution weights become channels-last."""
        if isinstance(self.restorer, ModelMixin):
            super().to(*args, **kwargs)  # type: ignore[misc]
        else:
            kwargs.pop("silence_dtype_warnings", None)
            for module in (self.restorer, self.unet):
                if module is not None:
                    module.to(*args, **kwargs)
        if self.device.type == "cuda":  # type: ignore[attr-defined]
            weights_in_channels_last(self.restorer)
        return self


def keep_unloaded(pipeline: ConventionsMixin, target: Path, index_file: Path) -> None:
    """Keeps components of the folder `target` that were not loaded with `pipeline`: adds them to the new index file."""
    if pipeline._unloaded is None or pipeline._unloaded[0] != target.resolve():
        return
    saved = json.loads((target / index_file.name).read_text(encoding="utf-8"))
    unloaded = [name for name in pipeline._unloaded[1] if name in saved and getattr(pipeline, name) is None]
    index = json.loads(index_file.read_text(encoding="utf-8"))
    index |= {name: saved[name] for name in unloaded}
    index_file.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def warn_of_unused_arguments(num_inference_steps: int | None) -> None:
    """Warns that `num_inference_steps` has no effect, unless it is 1 or None."""
    if num_inference_steps not in (None, 1):
        logger.warning("`num_inference_steps` is %r, but has no effect: restoring takes one step", num_inference_steps)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Context without diffusers' progress bar of loading components, since loading a restorer is fast."""
    shown = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            diffusers_logging.enable_progress_bar()


def warn_of_unknown(names: Collection[str], place: str | Path) -> None:
    """Warns of unknown arguments, as diffusers does."""
    if names:
        text = ", ".join(f"`{name}`" for name in sorted(names))
        logger.warning("%s: unknown arguments %s are ignored", place, text)


def with_dtypes(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Replaces names of dtypes in arguments of `from_pretrained` by dtypes; "auto" is float32.

    Raises:
        ValueError: not a floating point dtype of torch.
    """
    changed = dict(kwargs)
    for argument in ("dtype", "torch_dtype"):
        value = kwargs.get(argument)
        if isinstance(value, dict):
            changed[argument] = {component: _dtype(dtype, argument) for component, dtype in value.items()}
        elif value is not None:
            changed[argument] = _dtype(value, argument)
    return changed


def _dtype(value: Any, argument: str) -> torch.dtype:
    if isinstance(value, str):
        value = torch.float32 if value == "auto" else getattr(torch, value.removeprefix("torch."), value)
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return value
    raise ValueError(f"`{argument}` must be a floating point dtype such as torch.float16, got {value!r}")


def dtype_of(component: str, kwargs: dict[str, Any]) -> torch.dtype:
    """The dtype of a component in arguments of `from_pretrained` (see `with_dtypes`); default: float32."""
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    if isinstance(dtype, dict):
        dtype = dtype.get(component, dtype.get("default"))
    return dtype or torch.float32


class _DropEmptyListWarning(logging.Filter):
    """Logging filter that drops diffusers' warning about modules to keep in float32 if their list is empty."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "should be kept in float32: []" not in record.getMessage()


logging.getLogger("diffusers.models.modeling_utils").addFilter(_DropEmptyListWarning())
