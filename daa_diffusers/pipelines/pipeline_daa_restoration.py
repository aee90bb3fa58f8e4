"""The restoration pipeline: photos in, restored photos of the same size and kind out, in one pass of the restorer."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import nn

from .. import hub
from ..errors import CheckpointError

# diffusers finds a saved component's class in sys.modules only: every component module is imported here.
from ..models.daa_unet import DAAUNet2DConditionModel
from ..models.restoration_unet import RestorationUNet  # noqa: F401
from .adapter_loading import AdapterMixin
from .image_processor import (
    Photo,
    PhotoInput,
    assemble,
    check_output_type,
    from_batch,
    pad_to_multiple,
    read_photos,
    to_batch,
)
from .pipeline_output import DAARestorationPipelineOutput

logger = logging.getLogger(__name__)

# Without a `batch_size`, photos of one size share a batch up to this many pixels: larger batches win nothing on a CPU
# and cost memory everywhere.
DEFAULT_BATCH_PIXELS = 2**20


class DAARestorationPipeline(AdapterMixin, DiffusionPipeline):
    """Restores photos with a restorer that was adapted in noise space; the noise predictor takes no part in it.

    Args:
        restorer: `x (B, C, H, W) -> restored (B, C, H, W)` in the value range of its config. `RestorationUNet`, or any
            module; what it needs is read off it where it is there: `size_multiple` (else 1), `config.channels` (else
            3) and `config.value_range` (else [0, 1]). Only `ModelMixin`s can be saved.
        unet: the noise predictor that the restorer was trained with, kept for further training. Not used here.
        scheduler: the noise schedule of that training, likewise.

    Examples:
        >>> import numpy as np
        >>> from daa_diffusers import DAARestorationPipeline, RestorationUNet
        >>> pipe = DAARestorationPipeline(RestorationUNet(width=4, depth=2))
        >>> pipe(np.zeros((33, 65, 3), np.uint8), output_type="np").images[0].shape
        (33, 65, 3)
    """

    model_cpu_offload_seq = "restorer->unet"
    _optional_components = ["unet", "scheduler"]
    _callback_tensor_inputs = ["restored", "indices"]

    def __init__(
        self,
        restorer: nn.Module,
        unet: DAAUNet2DConditionModel | None = None,
        scheduler: SchedulerMixin | None = None,
    ):
        super().__init__()
        if not isinstance(restorer, nn.Module):
            raise TypeError(f"`restorer` must be a torch.nn.Module, got {type(restorer).__name__}")
        self.register_modules(restorer=restorer, unet=unet, scheduler=scheduler)

    # --- what the restorer needs ---

    @property
    def channels(self) -> int:
        """Colour channels of the restorer."""
        return getattr(getattr(self.restorer, "config", None), "channels", 3)

    @property
    def value_range(self) -> tuple[float, float]:
        """(low, high) in which the restorer takes and gives photos."""
        low, high = getattr(getattr(self.restorer, "config", None), "value_range", None) or (0.0, 1.0)
        return float(low), float(high)

    @property
    def device(self) -> torch.device:
        """Where the restorer is."""
        return next((t.device for t in _tensors(self.restorer)), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The restorer's floating point type."""
        return next((t.dtype for t in _tensors(self.restorer) if t.is_floating_point()), torch.float32)

    # --- restoring ---

    @torch.no_grad()
    def __call__(
        self,
        image: PhotoInput | Sequence[PhotoInput],
        output_type: str = "pil",
        batch_size: int | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict | None] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("restored",),
    ) -> DAARestorationPipelineOutput | tuple:
        """Restores photos; sizes, also of one pixel, come back as they were.

        Args:
            image: one PIL image, numpy array (H, W), (H, W, C) or (B, H, W, C), torch tensor (C, H, W) or
                (B, C, H, W), or a list of one of these kinds, sizes and bit depths mixed. uint8, uint16, or floating
                point in [0, 1]. PIL modes: 1, L, RGB, I;16, YCbCr, P (read as RGB), and those with alpha; alpha comes
                back untouched, in PIL images and arrays. Grey meets a restorer of three channels repeated, and comes
                back as their mean; colours meet a restorer of one channel one by one.
            output_type: "pil", "np" or "pt". The bit depth stays the photo's (PIL: 8 bits, or 16 for grey; floats
                become 8 bits). A list gives a list, anything else a batch: see `DAARestorationPipelineOutput`.
            batch_size: how many photos of one size share a pass at most. None: as many as make one megapixel.
            return_dict: return a `DAARestorationPipelineOutput` (default) or the tuple `(images,)`.
            callback_on_step_end: called after each pass as `callback(pipeline, step, timestep, callback_kwargs)`;
                `timestep` is always 0, restoring has one. A returned dict replaces what it names.
            callback_on_step_end_tensor_inputs: what `callback_kwargs` holds: "restored" (N, C, H, W), float32, in the
                restorer's range, not clamped, and "indices" (B,), the places of the pass's photos in `image`.

        Returns:
            The restored photos.

        Raises:
            TypeError, ValueError: on an `image` or another argument that cannot work, before anything is restored.
            FloatingPointError: where the restorer gives NaN or infinity (after a second try in float32, if it runs in
                float16).
        """
        # 1. Check inputs
        channels, value_range = self.channels, self.value_range
        photos, as_list = read_photos(image, channels)
        check_output_type(output_type, photos)
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check_options(batch_size, callback_on_step_end, callback_on_step_end_tensor_inputs)

        restored: dict[int, Photo] = {}
        device = self._execution_device
        with in_eval_mode(self.restorer), self.progress_bar(total=len(photos)) as progress_bar:
            for step, indices in enumerate(plan_batches(photos, batch_size)):
                # 2. Preprocess
                group = [photos[index] for index in indices]
                batch = to_batch(group, channels, value_range, device)  # (N, C, H, W)

                # 3. Restore
                rows = [index for index in indices for _ in range(photos[index].rows(channels))]  # (N,)
                batch = self._restore(batch, rows)
                if callback_on_step_end is not None:
                    local = {"restored": batch, "indices": torch.tensor(indices)}
                    kwargs = {name: local[name] for name in callback_on_step_end_tensor_inputs}
                    batch = (callback_on_step_end(self, step, 0, kwargs) or {}).get("restored", batch)

                # 4. Postprocess
                restored.update(zip(indices, from_batch(group, batch, channels, value_range), strict=True))
                progress_bar.update(len(indices))

        images = assemble([restored[index] for index in range(len(photos))], output_type, as_list)
        self.maybe_free_model_hooks()
        return DAARestorationPipelineOutput(images=images) if return_dict else (images,)

    def _check_options(self, batch_size, callback, callback_inputs) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"`batch_size` must be a positive integer or None, got {batch_size!r}")
        if callback is not None and not callable(callback):
            raise TypeError(f"`callback_on_step_end` must be callable, got {type(callback).__name__}")
        unknown = [name for name in callback_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be of {self._callback_tensor_inputs}, got {unknown}"
            )

    def _restore(self, batch: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """One pass: pads, restores in the restorer's dtype, crops; (N, C, H, W) float32 in and out.

        `rows` (N,) says which photo each row belongs to.
        """
        height, width = batch.shape[2:]
        padded = pad_to_multiple(batch, getattr(self.restorer, "size_multiple", 1))
        restored = self._run(padded.to(self.dtype))[:, :, :height, :width]
        broken = ~_finite_rows(restored)
        if broken.any() and self.dtype == torch.float16:
            logger.warning("float16 overflowed in photo %s; restoring it again in float32", _places(rows, broken))
            restored = restored.float()
            with _in_float32(self.restorer):
                restored[broken] = self._run(padded[broken])[:, :, :height, :width]
            broken = ~_finite_rows(restored)
        if broken.any():
            raise FloatingPointError(f"`restorer` gave NaN or infinite pixels for photo {_places(rows, broken)}")
        return restored.float()

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        restored = self.restorer(batch)
        if not isinstance(restored, torch.Tensor) or restored.shape != batch.shape:
            got = tuple(restored.shape) if isinstance(restored, torch.Tensor) else type(restored).__name__
            raise ValueError(f"`restorer` must return a tensor of its input's shape {tuple(batch.shape)}, got {got}")
        return restored

    # --- devices ---

    def to(self, *args, **kwargs) -> "DAARestorationPipeline":
        """Moves and casts the components, as `DiffusionPipeline.to`; also a restorer that is a plain module."""
        if isinstance(self.restorer, ModelMixin):
            return super().to(*args, **kwargs)
        kwargs.pop("silence_dtype_warnings", None)
        for module in (self.restorer, self.unet):
            if module is not None:
                module.to(*args, **kwargs)
        return self

    # --- files and the Hub ---

    def save_pretrained(self, save_directory: str | os.PathLike, safe_serialization: bool = True, **kwargs) -> None:
        """Saves the pipeline as safetensors and JSON; what was there stays whole if it fails.

        Args:
            save_directory: the folder, made if it does not exist.
            safe_serialization: must be True: this package writes and reads no pickle.
            kwargs: as for `DiffusionPipeline.save_pretrained` (`variant`, `max_shard_size`, `push_to_hub`, ...).

        Raises:
            TypeError: where the restorer is no `ModelMixin` (`save_pretrained` alone would leave it out).
            ValueError: on `safe_serialization=False`.
        """
        if not safe_serialization:
            raise ValueError("`safe_serialization` must be True: pickle files run code when they are opened")
        restorer = getattr(self.restorer, "_orig_mod", self.restorer)  # below torch.compile
        if not isinstance(restorer, ModelMixin):
            raise TypeError(f"`restorer` must be a diffusers ModelMixin to be saved, got {type(restorer).__name__}")
        target = Path(save_directory)
        if kwargs.get("push_to_hub"):  # uploads the folder that it wrote
            super().save_pretrained(str(target), **kwargs)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            super().save_pretrained(folder, **kwargs)
            # the index comes last: a folder with an index is complete
            for path in sorted(Path(folder).rglob("*"), key=lambda path: (path.name == self.config_name, path)):
                if path.is_file():
                    final = target / path.relative_to(folder)
                    final.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, final)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, load_noise_predictor: bool = False, **kwargs
    ) -> "DAARestorationPipeline":
        """Loads a pipeline, in float32 unless `dtype` says otherwise, whatever the files hold.

        Args:
            pretrained_model_name_or_path: in this order:
                - the name of a bundled checkpoint, e.g. "daa-denoise". It comes first, so that a name means the same
                  everywhere; where a local folder has that name too, a warning says so: write "./daa-denoise", or
                  pass a `Path`, for the folder;
                - a folder that `save_pretrained` wrote (of a pipeline, or of a restorer alone);
                - a .safetensors file of a restorer, with its config.json beside it, else sizes inferred;
                - the id of a Hub repository, "owner/name".
            load_noise_predictor: also load, and download, the noise predictor and its scheduler.
            kwargs: as for `DiffusionPipeline.from_pretrained`: `dtype`, `variant`, `revision`, `cache_dir`,
                `force_download`, `local_files_only`, `token`, or components that replace saved ones.

        Raises:
            CheckpointError: on an unknown name, missing files (all listed), pickle files, a config of another class,
                or weights that do not fit.
            RepositoryNotFoundError and the other errors of huggingface_hub: as they are.
        """
        if kwargs.pop("use_safetensors", True) is False:
            raise ValueError("`use_safetensors` must be True: pickle files run code when they are opened")
        source = hub.resolve(pretrained_model_name_or_path)
        if source.kind == "file":
            if load_noise_predictor and "unet" not in kwargs:
                raise CheckpointError(f"{source.location!r} holds no noise predictor: it is a restorer alone")
            parts = {name: kwargs[name] for name in cls._optional_components if name in kwargs}
            pipeline = cls(hub.load_restorer(Path(source.location), _dtype_of("restorer", kwargs)), **parts)
        else:
            folder = source.location
            if source.kind == "hub":
                options = {name: kwargs[name] for name in hub.DOWNLOAD_ARGUMENTS if name in kwargs}
                folder = cls.download(source.location, load_noise_predictor=load_noise_predictor, **options)
            pipeline = cls._load_folder(Path(folder), load_noise_predictor, kwargs)
        # diffusers notes the folder, which would carry the paths of this machine into saved configs
        pipeline.register_to_config(_name_or_path=source.name)
        for name, component in pipeline.components.items():
            if name in ("restorer", "unet") and hasattr(component, "register_to_config"):
                component.register_to_config(_name_or_path=source.name)
        return pipeline

    @classmethod
    def _load_folder(cls, folder: Path, load_noise_predictor: bool, kwargs: dict) -> "DAARestorationPipeline":
        wanted = ["restorer", *(cls._optional_components if load_noise_predictor else ())]
        kwargs = {**{name: None for name in cls._optional_components if name not in wanted}, **kwargs}
        saved = [name for name in wanted if name not in kwargs]
        names = [base.__name__ for base in cls.__mro__ if issubclass(base, DAARestorationPipeline)]
        files = hub.check_folder(folder, saved, names, kwargs.get("variant"))
        with hub.loading_errors(folder):
            pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        for name, weights in files.items():
            hub.check_keys(name, getattr(pipeline, name), weights)
        return pipeline

    @classmethod
    def download(cls, pretrained_model_name: str, *, load_noise_predictor: bool = False, **kwargs) -> str:
        """Downloads a repository of the Hub, or takes it from the cache, and returns its folder.

        The general `DiffusionPipeline.download` refuses components of other packages. Only configs and safetensors
        are fetched, and the noise predictor's only if `load_noise_predictor`.

        Args:
            pretrained_model_name: "owner/name".
            load_noise_predictor: also fetch the noise predictor and its scheduler.
            kwargs: `cache_dir`, `force_download`, `local_files_only`, `token`, `revision`, `variant`.
        """
        components = ("restorer", *(cls._optional_components if load_noise_predictor else ()))
        options = {name: kwargs[name] for name in hub.DOWNLOAD_ARGUMENTS if name in kwargs}
        return hub.download(pretrained_model_name, components=components, **options)


def plan_batches(photos: Sequence[Photo], batch_size: int | None) -> list[list[int]]:
    """Which photos share a pass: equal sizes, in order, at most `batch_size` (None: `DEFAULT_BATCH_PIXELS`)."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, photo in enumerate(photos):
        by_size.setdefault(photo.size, []).append(index)
    batches = []
    for (height, width), indices in by_size.items():
        cap = batch_size or max(1, DEFAULT_BATCH_PIXELS // (height * width))
        batches += [indices[start : start + cap] for start in range(0, len(indices), cap)]
    return batches


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    return chain(module.parameters(), module.buffers())


def _dtype_of(component: str, kwargs: dict[str, Any]) -> torch.dtype:
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    if isinstance(dtype, dict):
        dtype = dtype.get(component, dtype.get("default"))
    return dtype or torch.float32


def _places(rows: Sequence[int], broken: torch.Tensor) -> str:
    return ", ".join(str(index) for index in sorted({rows[row] for row in broken.nonzero().flatten().tolist()}))


def _finite_rows(batch: torch.Tensor) -> torch.Tensor:
    # NaN and infinity survive a sum; this is several times faster than looking at each pixel. (N,) bool
    return batch.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite()


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for a while; each submodule goes back to the mode that it was in."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def _in_float32(module: nn.Module) -> Iterator[None]:
    """Half-precision weights in float32 for a while; the very same tensors come back afterwards."""
    kept = [(t, t.data) for t in _tensors(module) if t.dtype == torch.float16]
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
