"""Camera adapters of a pipeline: loading, selection, fusing, unloading."""

import os
from typing import Any

from PIL import Image
from torch import nn

from ..adapters.files import AdapterConfig, read_adapter
from ..adapters.loaded import LoadedAdapters
from ..adapters.matching import Camera, choose_adapter, read_camera
from ..errors import ConfigurationError
from ..models.restorer import unwrapped


class AdapterMixin:
    """Mixin for camera adapters of a pipeline whose `restorer` is any `torch.nn.Module`.

    An adapter's update is added to the parameters of the restorer, so that inference is as fast as before. Removing it
    recovers the parameters bit for bit. Load adapters before casting to bfloat16.

    Examples:
        >>> import tempfile
        >>> from daa_diffusers import DAARestorationPipeline, RestorationUNet
        >>> from daa_diffusers.adapters import AdapterConfig, fingerprint, save_adapter, updates_for
        >>> restorer = RestorationUNet(width=4, depth=2)
        >>> base = fingerprint(dict(restorer.named_parameters()))
        >>> config = AdapterConfig("lora", base, rank=1, make="Canon", iso=(1600, 6400))
        >>> folder = save_adapter(tempfile.mkdtemp(), config, updates_for(restorer, "lora", rank=1))
        >>> pipe = DAARestorationPipeline(restorer)
        >>> pipe.load_adapter(folder, name="canon")
        'canon'
        >>> pipe.set_adapter(None)
    """

    restorer: nn.Module
    _loaded_adapters: LoadedAdapters | None = None

    @property
    def adapters(self) -> dict[str, AdapterConfig]:
        """Configs of the loaded adapters, by name."""
        return dict(self._adapters.configs)

    @property
    def active_adapter(self) -> str | None:
        """Name of the active adapter, or None."""
        return self._adapters.active

    def load_adapter(
        self, adapter: str | os.PathLike, name: str | None = None, *, subfolder: str | None = None, **hub_options: Any
    ) -> str:
        """Loads an adapter in addition to those already loaded, and activates it.

        Args:
            adapter: folder of the adapter, or id of a Hub repository ("owner/name"); a `Path` is always a folder.
            name: name of the adapter in this pipeline. None: the folder's name.
            subfolder: subfolder of the adapter in a folder or repository that holds several.
            hub_options: `cache_dir`, `force_download`, `local_files_only`, `token`, `revision`.

        Returns:
            Name of the adapter in this pipeline.

        Raises:
            CheckpointError: no adapter found, damaged files, or an adapter for another restorer.
            ConfigurationError: the name is in use, or an adapter is fused.
            RepositoryNotFoundError, ...: the errors of huggingface_hub, unchanged.
        """
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigurationError(f"`name` must be a non-empty string or None, got {name!r}")
        config, tensors, own_name = read_adapter(adapter, subfolder=subfolder, **hub_options)
        name = name or own_name
        self._adapters.add(name, config, tensors)
        self._adapters.activate(name)
        return name

    def set_adapter(self, name: str | None, scale: float = 1.0) -> None:
        """Activates a loaded adapter and deactivates the others.

        Args:
            name: name of the adapter. None: deactivate all, which recovers the original restorer bit for bit.
            scale: factor of the adapter's update, e.g. 0 (no update) to 1 (full update).

        Raises:
            ConfigurationError: unknown adapter, `scale` is not a finite number, or an adapter is fused.
        """
        self._adapters.activate(name, scale)

    def choose_adapter(self, photo: Image.Image | Image.Exif | str | os.PathLike | bytes | Camera) -> str | None:
        """Returns the name of the loaded adapter for the camera and ISO number of `photo`, or None.

        Args:
            photo: PIL image with EXIF, its EXIF, path or bytes of a file, or `Camera`.

        Examples:
            `pipe.set_adapter(pipe.choose_adapter(photo))`
        """
        camera = photo if isinstance(photo, Camera) else read_camera(photo)
        return choose_adapter(camera, self._adapters.configs)

    def fuse_adapter(self) -> None:
        """Merges the update of the active adapter into the restorer, so that `save_pretrained` saves it.

        Raises:
            ConfigurationError: no adapter is active.
        """
        self._adapters.fuse()

    def unfuse_adapter(self) -> None:
        """Undoes `fuse_adapter`: the adapter remains active, but is no longer saved with the restorer.

        Raises:
            ConfigurationError: no adapter is fused.
        """
        self._adapters.unfuse()

    def unload_adapter(self, name: str | None = None) -> None:
        """Removes one adapter, or all of them. The update of a fused adapter stays in the restorer.

        Raises:
            ConfigurationError: unknown adapter.
        """
        self._adapters.remove(name)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the pipeline, without the update of an active adapter unless it is fused."""
        with self._adapters.as_saved():
            super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    @property
    def _adapters(self) -> LoadedAdapters:
        restorer = unwrapped(self.restorer)
        if self._loaded_adapters is None or self._loaded_adapters.restorer is not restorer:
            self._loaded_adapters = LoadedAdapters(restorer)
        return self._loaded_adapters
