"""Recipes for networks of other libraries: class and arguments as plain JSON, to rebuild a network."""

import importlib
import inspect
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from .weights import read_weights

logger = logging.getLogger(__name__)

LIBRARIES = ("spandrel", "transformers", "module")
NEEDS_ZOO = 'spandrel is missing: pip install "daa-diffusers[zoo]"'
SHOWN_KEYS = 4  # number of names of an unknown state dict in a message
NOISE_LEVEL = 15 / 255  # default for networks with this input: moderate camera noise, for photos in [0, 1]
# Exceptions of spandrel for weights that only resemble those of an architecture.
UNDETECTED = (KeyError, RuntimeError, ValueError, AssertionError, AttributeError, IndexError, TypeError)

# Size multiples to which networks pad their input themselves (NAFNet with zeros). As multiples of the restorer, the
# pipeline pads to them by reflection instead, and aligns tiles with the grid of windows and pooling.
OWN_PADDING: dict[str, Callable[[Any], int]] = {
    "NAFNet": lambda network: network.padder_size,
    "SwinIR": lambda network: network.window_size,
    "SCUNet": lambda network: 64,
}

_imports_code: ContextVar[bool] = ContextVar("imports_code", default=False)


@dataclass(frozen=True)
class Recipe:
    """Class and arguments of a network.

    Args:
        library: "spandrel", "transformers", or "module" for any importable class.
        architecture: id and class in spandrel ("NAFNet:NAFNet"), class name in transformers, or "package.module:Class".
        arguments: arguments of the constructor (spandrel, module) or of the model's config (transformers), plain JSON.
    """

    library: str
    architecture: str
    arguments: dict[str, Any]

    def build(self) -> nn.Module:
        """Builds the network with new weights.

        Raises:
            ValueError: unknown library or architecture, a class whose module is not imported (see `trusted_code`), or
                invalid arguments.
            ImportError: the library is not installed.
        """
        if self.library == "spandrel":
            make: Any = _spandrel_class(self.architecture)
        elif self.library == "transformers":
            make = _transformers_factory(self.architecture)
        elif self.library == "module":
            make = _imported_class(self.architecture)
        else:
            raise ValueError(f"`library` must be one of {LIBRARIES}, got {self.library!r}")
        try:
            return make(**self.arguments)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ValueError(f"{self.architecture} cannot be built from {self.arguments}: {error}") from error


@contextmanager
def trusted_code(allow: bool) -> Iterator[None]:
    """Context in which `Recipe.build` may, if `allow`, import the module that a config names (`trust_remote_code`)."""
    token = _imports_code.set(allow)
    try:
        yield
    finally:
        _imports_code.reset(token)


# --- from a network to its recipe ---


def recipe_of(network: nn.Module, arguments: Mapping[str, Any] | None = None) -> Recipe:
    """Returns the recipe to rebuild `network`; `arguments` are needed if the network does not store them.

    Raises:
        ValueError: the class cannot be found by name, or the arguments are unknown or not plain JSON.
    """
    network_class = type(network)
    if network_class.__module__.startswith("spandrel.architectures."):
        architecture = network_class.__module__.split(".")[2]
        public = vars(importlib.import_module(f"spandrel.architectures.{architecture}"))
        aliases = (name for name, value in public.items() if value is network_class)
        stored: Any = network.hyperparameters  # a class among them (the norm) is the default
        name = next(aliases, network_class.__name__)
        return Recipe("spandrel", f"{architecture}:{name}", _only_json(arguments or stored))
    if is_transformers(network):
        _transformers_factory(network_class.__name__)  # raises if it is not an image-to-image model
        model: Any = network
        config = model.config.to_diff_dict()
        config.pop("_name_or_path", None)  # a local path
        return Recipe("transformers", network_class.__name__, _only_json(config))
    return Recipe("module", _path_of(network_class), _arguments_of(network, arguments))


def is_transformers(network: nn.Module) -> bool:
    """Returns whether a network is a model of transformers, without importing that library."""
    return any(base.__module__ == "transformers.modeling_utils" for base in type(network).__mro__)


def _path_of(kind: type) -> str:
    """Returns "package.module:Class" of a class that can be imported."""
    if "<locals>" in kind.__qualname__:
        raise ValueError(
            f"{kind.__qualname__} is defined inside a function and cannot be found again by name: define the class at "
            "the top level of a module"
        )
    if kind.__module__.startswith("torch.nn."):
        raise ValueError(f"a torch.nn.{kind.__name__} cannot be rebuilt from arguments: wrap it in a class of your own")
    if kind.__module__ == "__main__":
        logger.warning("%s is defined in __main__: only programs that define it can load it again", kind.__name__)
    return f"{kind.__module__}:{kind.__qualname__}"


def _arguments_of(network: nn.Module, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the constructor's arguments: `given`, else `hyperparameters`, else attributes of the same names."""
    if given is not None:
        if wrong := sorted(given.keys() - _only_json(given).keys()):
            raise ValueError(f"`arguments` must be plain JSON (numbers, strings, lists, ...), unlike {wrong}")
        return _only_json(given)
    stored = getattr(network, "hyperparameters", None)
    if isinstance(stored, Mapping):
        return _only_json(stored)
    values, unknown = {}, []
    for name, parameter in inspect.signature(type(network).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(network, name, parameter.default)
        if value is not parameter.default and _is_json(value):
            values[name] = value
        elif parameter.default is parameter.empty:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"`arguments` must be a mapping with the constructor's arguments: {', '.join(unknown)} of "
            f"{type(network).__name__} cannot be read from the instance"
        )
    return _only_json(values)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _only_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries that are plain JSON; the others keep their defaults."""
    return {str(name): json.loads(json.dumps(value)) for name, value in values.items() if _is_json(value)}


# --- from a recipe to its class ---


def _registry() -> Any:
    """Returns spandrel's registry of architectures; raises ImportError if spandrel is not installed."""
    try:
        from spandrel import MAIN_REGISTRY
    except ImportError as error:
        raise ImportError(NEEDS_ZOO) from error
    return MAIN_REGISTRY


def _spandrel_class(architecture: str) -> type[nn.Module]:
    identity, _, name = architecture.partition(":")
    registry = _registry()
    if identity not in registry:
        known = ", ".join(sorted(entry.architecture.id for entry in registry))
        raise ValueError(f"`architecture` must be one of spandrel's ({known}), got {architecture!r}")
    public = importlib.import_module(f"spandrel.architectures.{identity}")
    return _network_class(getattr(public, name, None), architecture)


def _transformers_factory(name: str) -> Any:
    """Returns a function that builds a model of transformers from the entries of its config."""
    import transformers

    known = tuple(transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TO_IMAGE_MAPPING_NAMES.values())
    if name not in known:
        raise ValueError(f"only image-to-image models of transformers can restore: {', '.join(known)}; got {name}")
    model = getattr(transformers, name)
    return lambda **config: model(model.config_class.from_dict(config))


def _imported_class(path: str) -> type[nn.Module]:
    """Returns the class "package.module:Class", whose module is imported only within `trusted_code`."""
    module_name, _, qualified = path.partition(":")
    if module_name not in sys.modules:
        if not _imports_code.get():
            raise ValueError(
                f"the restorer is a {qualified} of module {module_name!r}, which is not imported: import it first, "
                "or load with trust_remote_code=True, which runs its code"
            )
        importlib.import_module(module_name)
    value: Any = sys.modules[module_name]
    for part in qualified.split("."):
        value = getattr(value, part, None)
    return _network_class(value, path)


def _network_class(value: Any, path: str) -> type[nn.Module]:
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        raise ValueError(f"`architecture` {path!r} must name a subclass of torch.nn.Module, got {value!r}")
    return value


# --- from a file to a network ---


def load_network(path: str | os.PathLike) -> nn.Module:
    """Loads a network in float32 from a file that spandrel recognizes, or a folder written by transformers.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be read safely, the architecture is unknown (the known ones are listed), or is not
            that of a restorer (its output has another size or number of channels than its input).
    """
    source = Path(path)
    if source.is_dir():
        return _load_transformers(source)
    return network_of(read_weights(source), source.name)


def network_of(tensors: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    """Builds a network in float32 from `tensors` (see `weights.read_weights`), by which spandrel recognizes it.

    Raises:
        CheckpointError, ValueError: see `load_network`; `name` is the file name for messages.
    """
    registry = _registry()
    from spandrel import UnsupportedModelError

    if "down_blocks.0.conv1.weight" in tensors or "down_path.0.block.0.weight" in tensors:
        raise ValueError(
            f"{name!r} holds a U-Net of Noise-DA: load it with DAARestorationPipeline.from_pretrained, or official "
            "files with convert_official_state_dict"
        )
    for candidate in (tensors, *_without_outer_names(tensors)):
        try:
            descriptor = registry.load(dict(candidate))
            break
        except UnsupportedModelError:
            continue
        except UNDETECTED as error:
            raise CheckpointError(
                f"{name!r} looks like a known architecture, but its weights do not fit it: {error}"
            ) from error
    else:
        tried = ", ".join(entry.architecture.id for entry in registry.architectures("detection"))
        raise CheckpointError(
            f"{name!r} has no architecture that spandrel recognizes. Its first tensors are "
            f"{', '.join(list(tensors)[:SHOWN_KEYS])}. Tried: {tried}. Build the network yourself and use "
            "ForeignRestorer.wrap(network)"
        )
    check_task(descriptor, name)
    return descriptor.model.float()


def _without_outer_names(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Removes the first part of all names ("model." of a training module) step by step, as long as it is the same."""
    while len({name.partition(".")[0] for name in tensors}) == 1 and all("." in name for name in tensors):
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
        yield dict(tensors)


def check_task(descriptor: Any, name: str) -> None:
    """Raises ValueError unless spandrel's descriptor states that the network maps photos to photos of the same size."""
    architecture = descriptor.architecture.name
    if descriptor.purpose == "Inpainting" or descriptor.scale != 1:
        does = "fills masks" if descriptor.purpose == "Inpainting" else f"enlarges photos {descriptor.scale} times"
        raise ValueError(f"{name!r} ({architecture}) {does}; a restorer must keep the size")
    if descriptor.input_channels != descriptor.output_channels:
        raise ValueError(
            f"{name!r} ({architecture}) has {descriptor.input_channels} input and {descriptor.output_channels} output "
            "channels; a restorer must have equal numbers"
        )


def _load_transformers(folder: Path) -> nn.Module:
    config = folder / "config.json"
    names = json.loads(config.read_text(encoding="utf-8")).get("architectures") if config.is_file() else None
    if not names:
        raise ValueError(f"{str(folder)!r} must be a checkpoint file, or a folder written by transformers")
    import transformers

    _transformers_factory(names[0])
    return getattr(transformers, names[0]).from_pretrained(folder, use_safetensors=True).float()


def descriptor_of(network: nn.Module, architecture: str) -> Any:
    """Spandrel's descriptor for one of its networks, with a copy as `model`; None if sizes cannot be detected.

    Raises:
        ValueError: see `check_task`.
    """
    identity = architecture.partition(":")[0]
    try:
        descriptor = _registry()[identity].architecture.load(dict(network.state_dict()))
    except UNDETECTED as error:
        logger.debug("spandrel cannot detect the sizes of this %s: %s", identity, error)
        return None
    check_task(descriptor, identity)
    return descriptor


def spandrel_traits(descriptor: Any) -> dict[str, Any]:
    """Traits of a network in spandrel, as arguments of `ForeignRestorer`."""
    identity, size = descriptor.architecture.id, descriptor.size_requirements
    traits = {
        "channels": descriptor.input_channels,
        "size_multiple": math.lcm(size.multiple_of, OWN_PADDING.get(identity, lambda network: 1)(descriptor.model)),
        "minimum_size": size.minimum or None,
        "square": size.square,
    }
    if identity == "DRUNet" or getattr(descriptor.model, "mode", None) == "FDnCNN":
        traits["noise_level"] = NOISE_LEVEL
    if identity == "FBCNN":  # the photo and the JPEG quality
        traits["output_item"] = 0
    return traits
