"""Mixin that saves and loads a network with the record of its weights: license, training and evaluation.

The implementation is in `hub.records`. Hub repositories contain a copy of this module for users without the package; it
then saves weights and config only.
"""

import importlib
import logging
import os
from contextlib import nullcontext
from typing import Any

logger = logging.getLogger(__name__)


class RecordMixin:
    """Mixin that loads, saves and pushes the record with the weights; must precede `ModelMixin` in the bases."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, **kwargs: Any) -> Any:
        """Loads a network from safetensors, as `ModelMixin.from_pretrained`, and its record as `weights_record`.

        Args:
            pretrained_model_name_or_path: folder, or id of a Hub repository.
            kwargs: arguments of `ModelMixin.from_pretrained`.

        Raises:
            ValueError: `use_safetensors=False`, or the folder holds a pipeline, or another class of this package.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("`use_safetensors` must be True: pickle files run code when they are opened")
        kwargs["use_safetensors"] = True
        records = _package_module("hub.records")
        if records is not None:
            records.check_class(cls, pretrained_model_name_or_path, kwargs.get("subfolder"))
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        if records is not None:
            network = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
            records.attach_from(network, pretrained_model_name_or_path, kwargs)
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves weights as safetensors, config and record. A failure leaves existing files unchanged.

        Args:
            save_directory: folder, created if it does not exist.
            is_main_process, save_function, variant, max_shard_size: see `ModelMixin.save_pretrained`.
            safe_serialization: must be True; this package writes no pickle files.
            push_to_hub: also upload the folder, with a model card.
            kwargs: with `push_to_hub`, `repo_id` (default: the folder's name) and arguments of that method.

        Raises:
            ValueError: `safe_serialization=False`.
            UnwritableError: nothing can be written there, or the disk is full.
        """
        if not safe_serialization:
            raise ValueError("`safe_serialization` must be True: pickle files run code when they are opened")
        if kwargs and not push_to_hub:
            logger.warning("save_pretrained without `push_to_hub` ignores `%s`", "`, `".join(kwargs))
        destination: Any = nullcontext(save_directory)
        if is_main_process and (saving := _package_module("hub.saving")) is not None:
            config = self.config_name  # type: ignore[attr-defined]
            destination = saving.saving(self, save_directory, config, variant)
        with destination as folder:
            super().save_pretrained(  # type: ignore[misc]
                os.fspath(folder),
                is_main_process=is_main_process,
                save_function=save_function,
                variant=variant,
                max_shard_size=max_shard_size,
            )
        if push_to_hub and is_main_process:
            repo_id = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(repo_id, variant=variant, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Pushes the network with its record and model card to the Hub, in one commit. Returns the commit's URL.

        Args:
            repo_id: "owner/name"; created if it does not exist.
            kwargs: arguments of `hub.publish.push`: `token`, `revision`, `license`, `card`, ...

        Raises:
            ImportError: the package daa-diffusers, which renders the card, is not installed.
        """
        publish = _package_module("hub.publish")
        if publish is None:
            raise ImportError("`push_to_hub` needs the package that renders the model card: pip install daa-diffusers")
        return publish.push(self, repo_id, **kwargs)


def _package_module(name: str) -> Any:
    """Imports a module of the package when it is used, since it imports this one; None without the package."""
    try:
        return importlib.import_module(f"daa_diffusers.{name}")
    except ImportError:
        return None
