"""Restoration pipeline for photos of any size, with one pass of the restorer."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import nn

from ..checkpoints.tasks import judged_by_noise, judged_by_streaks
from ..errors import CheckpointError
from ..files import check_writable, replacing_folder
from ..foreign.networks import trusted_code
from ..foreign.restorer import ForeignRestorer  # noqa: F401
from ..hub import record_files, records, resolving
from ..hub.repository import write_loader
from ..hub.saving import move_files
from ..hub.single_files import load_restorer
from ..hub.untrusted import check_keys, loading_errors

# diffusers looks up a saved component's class in sys.modules, so every component module is imported here.
from ..models.daa_unet import DAAUNet2DConditionModel
from ..models.record_mixin import RecordMixin
from ..models.registry import RESTORERS  # noqa: F401
from ..models.restorer import RestorerContract, in_eval_mode, unwrapped
from ..telemetry import without_onnxruntime
from .adapter_mixin import AdapterMixin
from .canvases import check_out, untouched
from .conventions import (
    FILE_ARGUMENTS,
    ConventionsMixin,
    dtype_of,
    keep_unloaded,
    quiet_loading,
    warn_of_unknown,
    warn_of_unused_arguments,
    with_dtypes,
)
from .image_processor import PhotoInput, as_floats, assemble, check_output_type, in_own_depth, read_photos
from .passes import bytes_of, tensors_of
from .pipeline_output import DAARestorationPipelineOutput
from .precision import MixedPrecisionMixin
from .rain_guard import undo_non_rain
from .run import Run, bar_of, check_options, checked_names, plan_batches


class DAARestorationPipeline(AdapterMixin, ConventionsMixin, MixedPrecisionMixin, DiffusionPipeline):
    """Pipeline that restores photos with a restorer adapted in noise space. It does not use the noise predictor.

    Args:
        restorer: `x (B, C, H, W) -> restored (B, C, H, W)` in the value range of its config. `RestorationUNet`, or any
            module; its `size_multiple` (default 1), `config.channels` (default 3) and `config.value_range` (default
            [0, 1]) are read if present. Only a `ModelMixin` can be saved.
        unet: noise predictor used in training, kept for further training only.
        scheduler: noise schedule used in training, kept for further training only.

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

    # --- properties of the restorer ---

    @property
    def channels(self) -> int:
        """Number of color channels of the restorer."""
        return RestorerContract.of(self.restorer).channels

    @property
    def value_range(self) -> tuple[float, float]:
        """Value range (low, high) of the restorer's input and output."""
        return RestorerContract.of(self.restorer).value_range

    @property
    def task(self) -> str | None:
        """Task, a key of `checkpoints.tasks.TASKS`, from the restorer's config or record; None if neither states it."""
        stated = RestorerContract.of(self.restorer).task
        return stated or record_files.task_of(records.record_of(self.restorer).training)

    @property
    def device(self) -> torch.device:
        """Device of the restorer."""
        return next((t.device for t in tensors_of(self.restorer)), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Floating point dtype of the restorer's computation."""
        if isinstance(restorer := unwrapped(self.restorer), ModelMixin):
            return restorer.dtype  # differs from that of the weights after `enable_layerwise_casting`
        return next((t.dtype for t in tensors_of(self.restorer) if t.is_floating_point()), torch.float32)

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
        *,
        tile: int | Literal["auto"] | None = "auto",
        strength: float = 1.0,
        self_ensemble: bool = False,
        guard: bool = False,
        out: np.ndarray | None = None,
        as_float: bool | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
    ) -> DAARestorationPipelineOutput | tuple:
        """Restores photos of any size; the size does not change.

        Args:
            image: PIL image, numpy array (H, W), (H, W, C) or (B, H, W, C), torch tensor (C, H, W) or (B, C, H, W), or
                a list of one of these types, of mixed sizes and bit depths; uint8, uint16, or floating point in [0, 1].
                PIL modes: 1, L, RGB, I;16, YCbCr, P (read as RGB), and those with alpha. Alpha of PIL images and arrays
                is returned unchanged. For a three-channel restorer, grayscale is repeated to three channels, and their
                mean is returned; a one-channel restorer restores each color channel separately.
            output_type: "pil", "np" or "pt", in the photo's bit depth (PIL: 8 bits, or 16 for grayscale; floats become
                8 bits), but see `as_float`. The result is a list if `image` is a list, else a batch.
            batch_size: maximum number of photos of one size per pass. None: one megapixel in total.
            return_dict: return a `DAARestorationPipelineOutput` (default) or the tuple `(images,)`.
            callback_on_step_end: called after each pass (a batch or a tile) as `callback(pipeline, step, timestep,
                callback_kwargs)`, with `timestep` 0. The entries of a returned dict replace tensors.
            callback_on_step_end_tensor_inputs: names of the tensors in `callback_kwargs`: "restored" (N, C, H, W),
                float32, in the restorer's range, not clamped, and "indices" (B,), indices of the photos in `image`.
            tile: side in pixels, at least 32, of the tiles into which larger photos are divided. "auto": from 512 x
                512 pixels on `strips`, or, above a megapixel, tiles as memory allows. None: no tiles. Tiles larger than
                the receptive field do not change the result (see `tiling`). When memory runs out, they are halved.
            strength: s in [0, 1] in `x + s (f(x) - x)`; 0 returns the photo unchanged.
            self_ensemble: average over the eight flips and rotations of the photo, at eight times the cost.
            guard: undo changes that do not resemble noise (for derainers: rain); the output's `guard` has the verdicts.
            out: array for the result if `image` is a single numpy array and `output_type` is "np"; of the same shape
                and dtype, possibly an `np.memmap`. `images` is then a view of it.
            as_float: return "np" and "pt" as float32 in [0, 1], not rounded (True), or in the photo's bit depth
                (False). None: True for PIL images, as in diffusers; False for arrays and tensors.
            generator, num_inference_steps: no effect; accepted for compatibility with other pipelines.

        Raises:
            TypeError, ValueError: invalid `image` or other argument; nothing has been restored.
            FloatingPointError: the restorer returns NaN or infinity (a float16 restorer: again in float32).
        """
        # 1. Check inputs
        contract = RestorerContract.of(self.restorer)
        photos, as_list = read_photos(image, contract.channels)
        check_output_type(output_type, photos)
        check_options(batch_size, tile, strength)
        check_out(out, photos, image, output_type)
        names = checked_names(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        warn_of_unused_arguments(num_inference_steps)
        if output_type != "pil" and not in_own_depth(image, as_float, out):
            photos = [as_floats(photo) for photo in photos]
        judges_noise, judges_rain = guard and judged_by_noise(self.task), guard and judged_by_streaks(self.task)
        run = Run(self, contract, tile, self_ensemble, image, out, callback_on_step_end, names)

        with in_eval_mode(self.restorer), bar_of(self, photos, tile) as progress_bar:
            # 2. Preprocess: strength for each photo, batches
            verdicts = [run.judge(photo, index) for index, photo in enumerate(photos)] if judges_noise else None
            strengths = [strength * (verdicts[index].strength if verdicts else 1) for index in range(len(photos))]
            restored = {index: untouched(photo, out) for index, photo in enumerate(photos) if strengths[index] == 0}
            progress_bar.update(len(restored))
            left = {index: photo for index, photo in enumerate(photos) if index not in restored}

            # 3. Restore: each batch whole, or tile by tile
            for batch in plan_batches(left, batch_size):
                restored |= run.restore(batch, strengths, progress_bar)
            verdicts = [undo_non_rain(p, restored[i]) for i, p in enumerate(photos)] if judges_rain else verdicts

        # 4. Postprocess
        images = assemble([restored[i] for i in range(len(photos))], output_type, as_list) if out is None else out[None]
        self.maybe_free_model_hooks()
        return DAARestorationPipelineOutput(images=images, guard=verdicts) if return_dict else (images,)

    # --- files and the Hub ---

    def save_pretrained(self, save_directory: str | os.PathLike, safe_serialization: bool = True, **kwargs) -> None:
        """Saves the pipeline and the record of its weights (see `hub.records`). A failure leaves files unchanged.

        Args:
            save_directory: folder, created if it does not exist.
            safe_serialization: must be True; this package writes and reads no pickle files.
            kwargs: `variant`, `max_shard_size`, and `push_to_hub=True` to upload the folder, with `repo_id` (default:
                the folder's name) and the other arguments of the method `push_to_hub`.

        Raises:
            TypeError: the restorer is not a `ModelMixin` (diffusers would silently not save it).
            ValueError: `safe_serialization` is False.
            UnwritableError: the folder cannot be written.
        """
        if not safe_serialization:
            raise ValueError("`safe_serialization` must be True: pickle files run code when they are opened")
        restorer = unwrapped(self.restorer)
        if not isinstance(restorer, ModelMixin):
            raise TypeError(f"`restorer` must be a diffusers ModelMixin to be saved, got {type(restorer).__name__}")
        target = Path(save_directory)
        pushed = kwargs.pop("push_to_hub", False)
        upload = {name: kwargs.pop(name) for name in [*kwargs] if name not in ("variant", "max_shard_size")}
        if not pushed:
            warn_of_unknown(set(upload), "save_pretrained without `push_to_hub`")
        check_writable(target)
        with replacing_folder(target, needed=bytes_of(self.restorer, self.unet)) as folder:
            super().save_pretrained(str(folder), **kwargs)
            if not isinstance(restorer, RecordMixin):
                with self._adapters.as_saved():
                    records.write_record(restorer, folder / "restorer")
            record_files.move_record(folder / "restorer", folder)  # in a pipeline, the record is in the top folder
            record_files.move_record(folder / "unet", None)
            stale = record_files.stale_files(target, folder)
            keep_unloaded(self, target, folder / self.config_name)
            write_loader(folder)
            move_files(folder, target, self.config_name, kwargs.get("variant"), stale)
        if pushed:
            self.push_to_hub(upload.pop("repo_id", target.name), variant=kwargs.get("variant"), **upload)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, load_noise_predictor: bool = False, **kwargs
    ) -> "DAARestorationPipeline":
        """Loads a pipeline, in float32 unless `dtype` is given.

        Args:
            pretrained_model_name_or_path: one of these, tried in this order:
                - name of a bundled checkpoint, e.g. "daa-denoise". It takes precedence, with a warning, over a local
                  folder of the same name; for the folder, write "./daa-denoise" or pass a `Path`;
                - folder written by `save_pretrained` of a pipeline or a restorer;
                - weight file of a restorer of this package, defined by the config.json next to it or else with inferred
                  sizes, or of a network that spandrel recognizes, loaded as a `ForeignRestorer`;
                - id of a Hub repository, "owner/name", of a pipeline or a restorer.
            load_noise_predictor: also load, and download, the noise predictor and its scheduler.
            kwargs: arguments of `DiffusionPipeline.from_pretrained`: `dtype`, `variant`, `revision`, `cache_dir`,
                `force_download`, `local_files_only`, `token`, `trust_remote_code` (allows a `ForeignRestorer` to
                import the module of its network), or components to use instead of the saved ones.

        Raises:
            CheckpointError: unknown name, missing files (all are listed), pickle files, a config of another class, or
                weights that do not fit.
            RepositoryNotFoundError, ...: the errors of huggingface_hub, unchanged.
        """
        if kwargs.pop("use_safetensors", True) is False:
            raise ValueError("`use_safetensors` must be True: pickle files run code when they are opened")
        kwargs = with_dtypes(kwargs)
        source = resolving.resolve(pretrained_model_name_or_path, variant=kwargs.get("variant"))
        if source.kind == "hub":
            options = {name: kwargs[name] for name in resolving.DOWNLOAD_ARGUMENTS if name in kwargs}
            folder = cls.download(source.location, load_noise_predictor=load_noise_predictor, **options)
            source = replace(resolving.resolve(Path(folder), variant=kwargs.get("variant")), name=source.name)
        if source.kind == "file":
            pipeline = cls._load_file(Path(source.location), load_noise_predictor, kwargs)
        else:
            pipeline = cls._load_folder(Path(source.location), load_noise_predictor, kwargs)
        # diffusers records the folder, so that saved configs would contain local paths
        pipeline.register_to_config(_name_or_path=source.name)
        for name, component in pipeline.components.items():
            if name in ("restorer", "unet") and hasattr(component, "register_to_config"):
                component.register_to_config(_name_or_path=source.name)
        return pipeline

    @classmethod
    def _load_file(cls, file: Path, load_noise_predictor: bool, kwargs: dict) -> "DAARestorationPipeline":
        if load_noise_predictor and "unet" not in kwargs:
            raise CheckpointError(f"{str(file)!r} holds no noise predictor, only a restorer")
        parts = {name: kwargs[name] for name in ("restorer", *cls._optional_components) if name in kwargs}
        warn_of_unknown({*kwargs} - {*parts, *resolving.DOWNLOAD_ARGUMENTS, *FILE_ARGUMENTS}, file)
        if "restorer" not in parts:
            with trusted_code(bool(kwargs.get("trust_remote_code"))):
                parts["restorer"] = load_restorer(file, dtype_of("restorer", kwargs))
            if file.with_name("config.json").is_file():
                records.attach_record(parts["restorer"], file.parent)
        return cls(**parts)

    @classmethod
    def _load_folder(cls, folder: Path, load_noise_predictor: bool, kwargs: dict) -> "DAARestorationPipeline":
        wanted = ["restorer", *(cls._optional_components if load_noise_predictor else ())]
        skipped = [name for name in cls._optional_components if name not in wanted and name not in kwargs]
        kwargs = {**dict.fromkeys(skipped), **kwargs}
        saved = [name for name in wanted if name not in kwargs]
        names = [base.__name__ for base in cls.__mro__ if issubclass(base, DAARestorationPipeline)]
        files = resolving.check_folder(folder, saved, names, kwargs.get("variant"))
        trusted = trusted_code(bool(kwargs.get("trust_remote_code")))
        with loading_errors(folder), trusted, without_onnxruntime(), quiet_loading():
            pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        for name, weights in files.items():
            check_keys(name, getattr(pipeline, name), weights)
        for network in (pipeline.restorer, pipeline.unet):
            if network is not None and not isinstance(network, RecordMixin):
                records.attach_record(network, folder)
        pipeline._unloaded = (folder.resolve(), skipped)
        return pipeline

    @classmethod
    def load_config(cls, *args, **kwargs):
        """Same as in diffusers, but with this package's classes instead of code in the repository."""
        config = super().load_config(*args, **kwargs)
        return resolving.own_classes(config) if isinstance(config, dict) else config

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Pushes the pipeline with its model card to the Hub, in one commit. Returns the commit's URL.

        Args:
            repo_id: "owner/name", or a name in the user's namespace; created if it does not exist.
            kwargs: arguments `private`, `token`, `revision`, `commit_message`, `commit_description`, `create_pr` (the
                URL is then that of the pull request), `license`, `card` and `variant` of `hub.publish.push`.
        """
        from ..hub.publish import push

        return push(self, repo_id, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, *, load_noise_predictor: bool = False, **kwargs) -> str:
        """Downloads a repository of the Hub, unless it is cached, and returns its folder.

        Unlike `DiffusionPipeline.download`, it supports components from other packages. Only configs, safetensors
        and the record of the weights are downloaded.

        Args:
            pretrained_model_name: "owner/name".
            load_noise_predictor: also download the noise predictor and its scheduler.
            kwargs: `cache_dir`, `force_download`, `local_files_only`, `token`, `revision`, `variant`.
        """
        components = ("restorer", *(cls._optional_components if load_noise_predictor else ()))
        options = {name: kwargs[name] for name in resolving.DOWNLOAD_ARGUMENTS if name in kwargs}
        return resolving.download(pretrained_model_name, components=components, **options)
