"""Wrapper for networks of other libraries (spandrel, transformers) or of the user as restorers."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from ..models.forward import as_output, check_batch, check_positive, check_range
from ..models.record_mixin import RecordMixin
from ..models.restorer import in_eval_mode, round_up, unwrapped
from .networks import Recipe, descriptor_of, load_network, network_of, recipe_of, spandrel_traits, trusted_code
from .probe import Traits, call, photos_of, probe, same_output

OUTPUTS = ("restored", "residual", "noise")


class ForeignRestorer(RecordMixin, ModelMixin, ConfigMixin):
    """Restorer that wraps a network of another library, with the restorer's contract in its config.

    Use `wrap` or `from_checkpoint` to create it: they run the network on test photos, and raise if it is unsuitable.
    The constructor builds the network from the config without running it.

    Args:
        library, architecture, arguments: class of the network and its arguments (see `Recipe`).
        channels: number of color channels of a photo.
        value_range: `[low, high]`, value range of input and output.
        network_range: value range of the wrapped network; None: same as `value_range`.
        size_multiple: integer of which height and width of an input must be multiples.
        minimum_size: minimum height and width of the network's input. Smaller photos are padded, then cropped.
        square: whether the network requires square photos. Others are padded, then cropped.
        output: output of the network: "restored" photos, the "residual" to add to its input, or the "noise" to subtract
            from it.
        noise_level: constant noise level, in the network's range, for networks with this input (DRUNet, FDnCNN).
        output_item: index or name of the photo in the network's output; None: the output is the photo.
        receptive_radius: maximum distance, in pixels, between an output pixel and an input pixel that affects it; None:
            unknown.
        is_global: whether every output pixel depends on the whole photo (global pooling), so that tiles change the
            result.
        task: key of `daa_diffusers.checkpoints.tasks.TASKS`; None: unknown.
        license: license of the weights, an identifier of the Hub or a name; None: not stated.

    The wrapped network is the attribute `network`. The output is not clamped.
    """

    @register_to_config
    def __init__(
        self,
        library: str,
        architecture: str,
        arguments: dict[str, Any],
        channels: int = 3,
        value_range: Sequence[float] = (0.0, 1.0),
        network_range: Sequence[float] | None = None,
        size_multiple: int = 1,
        minimum_size: int = 1,
        square: bool = False,
        output: str = "restored",
        noise_level: float | None = None,
        output_item: int | str | None = None,
        receptive_radius: int | None = None,
        is_global: bool = False,
        task: str | None = None,
        license: str | None = None,
    ):
        super().__init__()
        check_positive(channels=channels, size_multiple=size_multiple, minimum_size=minimum_size)
        check_range("value_range", value_range)
        check_range("network_range", network_range or value_range)
        if output not in OUTPUTS:
            raise ValueError(f"`output` must be one of {OUTPUTS}, got {output!r}")
        self.register_to_config(
            value_range=[float(v) for v in value_range],
            network_range=None if network_range is None else [float(v) for v in network_range],
        )
        self.network = Recipe(library, architecture, dict(arguments)).build()

    # --- construction ---

    @classmethod
    def wrap(
        cls,
        network: nn.Module,
        *,
        arguments: Mapping[str, Any] | None = None,
        value_range: Sequence[float] = (0.0, 1.0),
        output: str = "restored",
        **traits: Any,
    ) -> "ForeignRestorer":
        """Wraps a network instance. As a test, it is run on small random photos, and rebuilt from `arguments`.

        Args:
            network: network of spandrel, of transformers (scale 1), or of an importable class.
            arguments: constructor arguments of the network, plain JSON. None: its `hyperparameters`, as networks of
                spandrel have, else attributes of the same names. A network of transformers has them in its config.
            value_range: value range of the network's input and output, such as [-1, 1] or [0, 255]. If it exceeds
                [-1, 1], the restorer has the range [0, 1] and converts.
            output: "restored", "residual" or "noise" (see the class).
            traits: `channels`, `size_multiple`, `square`, `noise_level` and `output_item`, if they differ from the
                defaults and from what spandrel and transformers report; `minimum_size`, `receptive_radius` and
                `is_global`, to set them instead of measuring them.

        Raises:
            ValueError: the network is unsuitable (see `probe.probe`), its class cannot be found by name, or `arguments`
                build another network.
        """
        if not isinstance(network, nn.Module):
            raise ValueError(f"`network` must be a torch.nn.Module, got {type(network).__name__}")
        network = unwrapped(network)
        if isinstance(network, cls):
            raise ValueError("`network` is already a ForeignRestorer")
        check_range("value_range", value_range)
        known = set(Traits.__dataclass_fields__) - {"value_range"}
        if unknown := sorted(set(traits) - known):
            raise ValueError(f"unknown traits {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        check_positive(
            **{name: traits[name] for name in ("channels", "size_multiple", "minimum_size") if name in traits}
        )
        with torch.random.fork_rng(devices=[]):  # rebuilding draws random weights
            return cls._wrap(network, arguments, (float(value_range[0]), float(value_range[1])), output, traits)

    @classmethod
    def _wrap(
        cls, network: nn.Module, arguments: Any, value_range: tuple[float, float], output: str, traits: dict[str, Any]
    ) -> "ForeignRestorer":
        recipe = recipe_of(network, arguments)
        descriptor, reported = None, {}
        if recipe.library == "spandrel":
            descriptor = descriptor_of(network, recipe.architecture)
            reported = {} if descriptor is None else spandrel_traits(descriptor)
        elif recipe.library == "transformers":
            reported = _transformers_traits(network.config, recipe.architecture)
        probed = probe(network, Traits(**{**reported, **traits}, value_range=value_range))
        _check_rebuilding(network, recipe, probed)
        fits = value_range[0] >= -1 and value_range[1] <= 1
        config = {**asdict(probed), "value_range": list(value_range) if fits else [0.0, 1.0]}
        restorer = cls(
            library=recipe.library,
            architecture=recipe.architecture,
            arguments=recipe.arguments,
            network_range=None if fits else list(value_range),
            output=output,
            **config,
        )
        restorer.network = network
        is_declared = value_range != (0, 1) or output != "restored" or bool(traits)
        if descriptor is not None and not is_declared:
            _check_like_spandrel(restorer, descriptor)
        restorer.training = network.training  # without changing the modes of submodules
        return restorer

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike, **options: Any) -> "ForeignRestorer":
        """Wraps the network of a checkpoint file that spandrel recognizes, or of a folder written by transformers.

        Args:
            path: folder, or file: .safetensors, .pth, .pt, .ckpt, .bin (pickle files with `weights_only=True`).
            options: arguments of `wrap` that the checkpoint does not determine.

        Raises:
            FileNotFoundError, ValueError: see `networks.load_network` and `wrap`.
            ImportError: the extra `zoo` (spandrel) is not installed.
        """
        return cls.wrap(load_network(path), **options).eval()

    @classmethod
    def from_weights(cls, weights: Mapping[str, torch.Tensor], name: str, **options: Any) -> "ForeignRestorer":
        """Wraps the network of tensors that were read from the file `name`, like `from_checkpoint`."""
        return cls.wrap(network_of(weights, name), **options).eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *, trust_remote_code: bool = False, **kwargs: Any
    ) -> "ForeignRestorer":
        """Loads a restorer saved by `save_pretrained`.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            trust_remote_code: import the module of the network's class, which runs its code, if not yet imported.
            kwargs: arguments of `ModelMixin.from_pretrained`; `use_safetensors` must not be False.
        """
        if kwargs.get("device_map") is None:
            # a constructor may compute tensors, which would be lost on the meta device
            kwargs["low_cpu_mem_usage"] = False
        if not trust_remote_code:  # keep the setting of a pipeline that is being loaded
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        with trusted_code(True):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    # --- the contract of a restorer ---

    @property
    def size_multiple(self) -> int:
        """Integer of which height and width of an input must be multiples."""
        return self.config.size_multiple

    @property
    def receptive_radius(self) -> int | None:
        """Maximum distance, in pixels, between an output pixel and an input pixel that affects it; None: unknown."""
        return self.config.receptive_radius

    @property
    def is_global(self) -> bool:
        """Whether every output pixel depends on the whole photo, so that tiles change the result."""
        return self.config.is_global

    def forward(
        self, x: torch.Tensor, return_dict: bool | None = None
    ) -> torch.Tensor | UNet2DOutput | tuple[torch.Tensor]:
        """Restores a batch.

        Args:
            x: degraded photos (B, C, H, W), floating point, in `config.value_range` (noise may exceed it); H and W
                multiples of `size_multiple`.
            return_dict: None (default): return the tensor. Otherwise as for any diffusers model: return a
                `UNet2DOutput` with the tensor as `sample` (True), or the tuple `(tensor,)` (False).

        Returns:
            Restored photos (B, C, H, W), not clamped.

        Raises:
            ValueError: wrong rank or number of channels, or a size that is not a multiple of `size_multiple`.
        """
        config = self.config
        check_batch(x, config.channels, config.size_multiple)
        outer, inner = config.value_range, config.network_range
        padded = self._pad(x)
        given = padded if inner is None else _rescaled(padded, outer, inner)
        # autocast, since networks that create float32 tensors (attention masks) fail in half precision
        is_half = x.dtype in (torch.float16, torch.bfloat16)
        with torch.autocast(x.device.type, dtype=x.dtype) if is_half else nullcontext():
            output = call(self.network, given, config.noise_level, config.output_item).to(x.dtype)
        if config.output == "residual":
            output = given + output
        elif config.output == "noise":
            output = given - output
        restored = output if inner is None else _rescaled(output, inner, outer)
        return as_output(restored[:, :, : x.shape[2], : x.shape[3]], return_dict)

    def _pad(self, x: torch.Tensor) -> torch.Tensor:
        """Pads (B, C, H, W) at the right and bottom to the minimum size, or to a square if that is required."""
        height, width = x.shape[2:]
        multiple = self.config.size_multiple
        least = round_up(self.config.minimum_size, multiple)
        if least == multiple and not self.config.square:
            return x  # any x has this size; without a comparison, an export keeps the size dynamic
        if self.config.square:
            least = max(least, height, width)
        if height >= least and width >= least:
            return x
        return F.pad(x, (0, max(0, least - width), 0, max(0, least - height)), mode="replicate")


def _rescaled(x: torch.Tensor, before: Sequence[float], after: Sequence[float]) -> torch.Tensor:
    """Converts pixels from one value range [low, high] to another."""
    (low, high), (new_low, new_high) = before, after
    return (x - low) * ((new_high - new_low) / (high - low)) + new_low


def _transformers_traits(config: Any, architecture: str) -> dict[str, Any]:
    if config.upscale != 1:
        raise ValueError(
            f"{architecture} enlarges photos {config.upscale} times (config.upscale); a restorer must keep the "
            "size: upscale=1"
        )
    return {
        "channels": config.num_channels,
        "size_multiple": config.window_size,
        "output_item": "reconstruction",
    }


def _check_like_spandrel(restorer: ForeignRestorer, descriptor: Any) -> None:
    """Raises ValueError if spandrel does more than call the network, such as converting the value range."""
    photo = photos_of(restorer.network, restorer.config, max(64, restorer.config.minimum_size))
    with in_eval_mode(restorer), torch.no_grad():
        ours = restorer(photo).clamp(0, 1).cpu().float()
        theirs = descriptor.float().cpu()(photo.cpu().float())
    if (ours - theirs).abs().max() > 2e-2:  # more than rounding, in half precision as well
        raise ValueError(
            f"spandrel calls a {descriptor.architecture.name} differently, perhaps with another value range: declare "
            "`value_range`, `output` or `noise_level`"
        )


def _check_rebuilding(network: nn.Module, recipe: Recipe, traits: Traits) -> None:
    """Raises ValueError unless the recipe builds a network with the same tensors and output as `network`."""
    rebuilt = recipe.build()
    ours, theirs = (
        {(name, tensor.shape) for name, tensor in module.state_dict().items()} for module in (network, rebuilt)
    )
    differing = sorted({name for name, _ in ours ^ theirs})
    hint = "pass the right ones as `arguments`"
    if differing:
        raise ValueError(
            f"{recipe.architecture} built from {recipe.arguments} has other tensors than the network "
            f"({', '.join(differing[:4])}): {hint}"
        )
    rebuilt.load_state_dict(network.state_dict())
    if not same_output(network, rebuilt, traits):
        raise ValueError(
            f"{recipe.architecture} built from {recipe.arguments} gives other results than the network with the same "
            f"weights: {hint}"
        )
