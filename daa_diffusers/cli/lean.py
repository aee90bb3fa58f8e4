"""Import of diffusers in half the time, without the optional libraries that no command needs.

diffusers works without transformers, scipy and torchvision, except for features that restoring and training do not
use. torch's compiler, and a module of attention masks that imports sympy, are slow to import and needed only for
compilation. All of these are hidden from diffusers only while it is imported.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

UNUSED = ("transformers", "scipy", "torchvision", "torch._dynamo")
MASKS = "torch.nn.attention.flex_attention"  # imported by diffusers' video transformers


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

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        import torch

        with _hidden(), _compiler_on_demand(torch.compiler):
            self.usual.exec_module(module)
            utils = importlib.import_module("diffusers.utils.torch_utils")
            utils.is_compiled_module = _is_compiled  # type: ignore[attr-defined] # before other modules import it
            importlib.import_module("diffusers.pipelines.pipeline_utils")


@contextmanager
def _hidden() -> Iterator[None]:
    """Context in which `UNUSED` cannot be imported and `MASKS` is a placeholder, unless already imported."""
    hidden = {name: None for name in UNUSED if name not in sys.modules}
    hidden |= {MASKS: _Placeholder(MASKS)} if MASKS not in sys.modules else {}  # type: ignore[dict-item]
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


class _Placeholder(ModuleType):
    """Module whose names are empty classes while it replaces the real module, and the real names afterwards."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return type(name, (), {})
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _compiler_on_demand(compiler: Any) -> Iterator[None]:
    """Context in which `@torch.compiler.disable` does not import the compiler; until then it has no effect."""
    disable = compiler.disable

    def on_demand(function: Callable | None = None, recursive: bool = True, **options: Any) -> Callable:
        if function is None:
            return functools.partial(on_demand, recursive=recursive, **options)
        disabled: list[Callable] = []

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            if not disabled:
                disabled.append(disable(function, recursive, **options))
            return disabled[0](*args, **kwargs)

        return called

    compiler.disable = on_demand
    try:
        yield
    finally:
        compiler.disable = disable


def _is_compiled(module: Any) -> bool:
    """Same as `diffusers.utils.torch_utils.is_compiled_module`, without importing the compiler."""
    loaded = sys.modules.get("torch._dynamo")
    return loaded is not None and isinstance(module, loaded.eval_frame.OptimizedModule)
