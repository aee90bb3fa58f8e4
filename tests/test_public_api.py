"""The public names and their module paths, frozen: saved pipelines and other people's code hold them."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import daa_diffusers

# model_index.json and config files store these paths. Changing one breaks every saved pipeline: add, never move.
PUBLIC = {
    "DAARestorationPipeline": "daa_diffusers.pipelines.pipeline_daa_restoration",
    "DAARestorationPipelineOutput": "daa_diffusers.pipelines.pipeline_output",
    "DAAUNet2DConditionModel": "daa_diffusers.models.daa_unet",
    "FastRestorationUNet": "daa_diffusers.models.fast_restoration_unet",
    "ForeignRestorer": "daa_diffusers.foreign.restorer",
    "NoiseSpaceAdaptation": "daa_diffusers.objectives.noise_space",
    "RestorationUNet": "daa_diffusers.models.restoration_unet",
    "convert_official_state_dict": "daa_diffusers.official.convert",
}
# what a saved pipeline is made of
COMPONENTS = ["DAAUNet2DConditionModel", "FastRestorationUNet", "ForeignRestorer", "RestorationUNet"]


def test_the_list_of_public_names_is_frozen():
    assert set(daa_diffusers.__all__) == {*PUBLIC, "__version__"}
    assert set(daa_diffusers.__all__) <= set(dir(daa_diffusers))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_lives_where_saved_files_look_for_it(name):
    value = getattr(daa_diffusers, name)
    assert (value.__name__, value.__module__) == (name, PUBLIC[name])
    assert getattr(importlib.import_module(PUBLIC[name]), name) is value


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_and_its_module_are_what_diffusers_looks_for(name):
    from diffusers import ConfigMixin, ModelMixin

    component = getattr(daa_diffusers, name)
    assert issubclass(component, ModelMixin) and issubclass(component, ConfigMixin)
    assert importlib.import_module(PUBLIC[name]).ModelMixin is ModelMixin


def test_a_star_import_brings_every_public_name():
    namespace = {}
    exec("from daa_diffusers import *", namespace)
    assert set(daa_diffusers.__all__) <= set(namespace)


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="daa_diffusers.*Restorer42"):
        daa_diffusers.Restorer42  # noqa: B018
    with pytest.raises(ImportError, match="Restorer42"):
        from daa_diffusers import Restorer42  # noqa: F401


def test_type_checkers_see_the_same_names_in_the_same_modules():
    tree = ast.parse(Path(daa_diffusers.__file__).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.name: f"daa_diffusers.{node.module}" for node in block.body for alias in node.names}
    assert seen == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_and_its_public_methods_are_documented(name):
    value = getattr(daa_diffusers, name)
    assert value.__doc__
    if inspect.isclass(value):
        own = [m for m in vars(value).values() if inspect.isfunction(m) and not m.__name__.startswith("_")]
        assert [m.__qualname__ for m in own if not inspect.getdoc(m)] == []


def test_the_errors_are_value_errors_of_their_own():
    from daa_diffusers import errors

    classes = [getattr(errors, name) for name in errors.__all__]
    assert errors.__all__ == ["CheckpointError", "ConfigurationError", "MissingPackageError", "UnreadablePhotoError"]
    assert all(issubclass(c, ValueError) and c.__doc__ for c in classes)
