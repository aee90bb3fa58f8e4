"""Import of diffusers in a third of the time, without the libraries and networks that no command needs.

While diffusers is imported, three things are avoided:

1. Libraries that only unused features need (transformers, scipy, torchvision) and modules that only compilation needs
   (torch's compiler; attention masks, which import sympy) are hidden.
2. Modules of diffusers of which only a few classes are used are imported at the first use of a class. They would import
   all transformers and autoencoders.
3. diffusers reads the lists of files of all installed packages, to find the names of three packages that no command
   needs. It gets an empty mapping instead.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

UNUSED = ("transformers", "scipy", "torchvision", "torch._dynamo")
# Modules that are imported at the first use of one of their classes.
LATE = (
    "torch.nn.attention.flex_attention",  # for video transformers
    "diffusers.models.transformers.dual_transformer_2d",
    "diffusers.models.transformers.transformer_2d",  # both for blocks of U-Nets
    "diffusers.models.unets.unet_3d_condition",
    "diffusers.models.unets.unet_dreamlite",
    "diffusers.models.unets.unet_i2vgen_xl",
    "diffusers.models.unets.unet_motion_model",
    "diffusers.models.unets.unet_spatio_temporal_condition",
    "requests",  # for downloads
)
# Module and name of a class; `DiffusionPipeline` only checks for instances of it.
AUTOENCODER = ("diffusers.models.autoencoders.autoencoder_kl", "AutoencoderKL")


def lean_diffusers() -> None:
    """Installs the import hook, unless diffusers is already imported. For processes without torch.compile only."""
    if "diffusers" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finder that makes `_Lean` the loader of diffusers."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "diffusers" or (spec := PathFinder.find_spec(fullname, path)) is None or spec.loader is None:
            return None
        spec.loader = _Lean(spec.loader)
        return spec


class _Lean(Loader):
    """Loader that imports diffusers and its modules for pipelines while the libraries are hidden."""

    def __init__(self, usual: Loader):
        self.usual = usual

    def __getattr__(self, name: str) -> Any:  # for importlib.resources and tracebacks
        return getattr(self.usual, name)

    def exec_module(self, module: ModuleType) -> None:
        import torch

        disable = _disabled_on_demand(torch.compiler.disable)
        no_packages = _replaced(importlib.metadata, "packages_distributions", dict)  # `dict()` is empty
        with _hidden(), no_packages, _replaced(torch.compiler, "disable", disable):
            self.usual.exec_module(module)
            utils = importlib.import_module("diffusers.utils.torch_utils")
            utils.is_compiled_module = _is_compiled  # type: ignore[attr-defined] # before other modules import it
            models = importlib.import_module("diffusers.models")
            models.AutoencoderKL = _late(*AUTOENCODER)  # type: ignore[attr-defined]
            importlib.import_module("diffusers.pipelines.pipeline_utils")  # takes this `AutoencoderKL`
            del models.AutoencoderKL  # all later imports get the real class, which `models` imports on demand
            importlib.import_module("diffusers.models.unets")  # for the noise predictor and the restorers' output class


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Context in which `module.name` is `value`."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _hidden() -> Iterator[None]:
    """Context in which `UNUSED` cannot be imported and `LATE` are placeholders, unless already imported."""
    hidden: dict[str, Any] = {name: None for name in UNUSED if name not in sys.modules}
    hidden |= {name: _Placeholder(name) for name in LATE if name not in sys.modules}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


class _Placeholder(ModuleType):
    """Stand-in for a module: its names are `_late` classes within `_hidden()`, afterwards those of the real module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return _late(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


def _late(module: str, name: str) -> type:
    """Makes a stand-in for a class of another module, which is imported at the first call; `isinstance` supports it."""

    class Late(type):  # the stand-in is a class as well, since annotations may contain `name | None`
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(module), name)(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            loaded = sys.modules.get(module)
            return loaded is not None and isinstance(instance, getattr(loaded, name))

    return Late(name, (), {})


def _disabled_on_demand(disable: Callable) -> Callable:
    """Wraps `torch.compiler.disable`: no effect, and no import of the compiler, until other code imports it."""

    def on_demand(function: Callable | None = None, recursive: bool = True, **options: Any) -> Callable:
        if function is None:
            return functools.partial(on_demand, recursive=recursive, **options)
        disabled = functools.cache(lambda: disable(function, recursive, **options))

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            return (disabled() if "torch._dynamo" in sys.modules else function)(*args, **kwargs)

        return called

    return on_demand


def _is_compiled(module: Any) -> bool:
    """Same as `diffusers.utils.torch_utils.is_compiled_module`, without importing the compiler."""
    loaded = sys.modules.get("torch._dynamo")
    return loaded is not None and isinstance(module, loaded.eval_frame.OptimizedModule)
