"""Checkpoints by their names: bundled, local, and alone in folders."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from daa_diffusers import (
    DAARestorationPipeline,
    checkpoints,
)
from daa_diffusers.checkpoints import bundled_names, bundled_path
from daa_diffusers.cli.info import facts_of
from daa_diffusers.errors import CheckpointError
from daa_diffusers.hub.resolving import resolve
from daa_diffusers.restoring.loading import check_model

from .conftest import build, same, weights

# --- bundled names ---


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_checkpoint_loads_as_float32(name):
    pipeline = DAARestorationPipeline.from_pretrained(name)
    stored = load_file(bundled_path(name) / "restorer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert {tensor.dtype for tensor in weights(pipeline).values()} == {torch.float32}
    assert pipeline.config._name_or_path == pipeline.restorer.config._name_or_path == name


@pytest.fixture
def bundle(monkeypatch, tmp_path):
    """A package folder with one checkpoint in float16."""
    monkeypatch.setattr(checkpoints, "_FOLDER", tmp_path / "package")
    build(seed=3).to(torch.float16).save_pretrained(tmp_path / "package" / "daa-test")
    return "daa-test"


def test_a_bundled_name_needs_no_path_and_loads_float16_files_as_float32(bundle):
    pipeline = DAARestorationPipeline.from_pretrained(bundle)
    assert pipeline.dtype == torch.float32
    expected = weights(build(seed=3).to(torch.float16))
    assert all(torch.equal(tensor, expected[name].float()) for name, tensor in weights(pipeline).items())
    assert DAARestorationPipeline.from_pretrained(bundle, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_local_folder_of_a_bundled_name_neither_wins_nor_loses_silently(bundle, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    build(seed=4).save_pretrained(bundle)
    bundled = {name: tensor.float() for name, tensor in weights(build(seed=3).to(torch.float16)).items()}
    with caplog.at_level(logging.WARNING, logger="daa_diffusers"):
        pipeline = DAARestorationPipeline.from_pretrained(bundle)
    assert all(torch.equal(bundled[name], tensor) for name, tensor in weights(pipeline).items())
    assert [r.getMessage() for r in caplog.records if r.name.startswith("daa_diffusers")] == [
        "'daa-test' is the bundled checkpoint, not the local folder of the same name; for that, write './daa-test'"
    ]
    for local in (f"./{bundle}", Path(bundle)):
        assert same(DAARestorationPipeline.from_pretrained(local), build(seed=4))


@pytest.mark.parametrize(
    "name", ["daa-tset", "nothing-like-it", "a/b/c", "./absent", "/absent/folder", "x.safetensors"]
)
def test_an_unknown_name_lists_the_known_ones(bundle, name):
    with pytest.raises(
        CheckpointError, match=rf"{name}' is not a bundled checkpoint \(daa-test\), an existing"
    ) as error:
        DAARestorationPipeline.from_pretrained(name)
    assert ("did you mean 'daa-test'?" in str(error.value)) == (name == "daa-tset")


def test_names_are_strings_or_paths(bundle):
    with pytest.raises(TypeError, match="`pretrained_model_name_or_path` must be a string or a path, got int"):
        DAARestorationPipeline.from_pretrained(3)
    with pytest.raises(KeyError, match="`name` must be one of .*daa-test.*, got 'other'"):
        bundled_path("other")
    assert bundled_names() == ("daa-test",)


@pytest.mark.parametrize(
    "saving", [{"max_shard_size": "100KB"}, {"variant": "fp16"}, {"variant": "v", "max_shard_size": "100KB"}]
)
def test_a_restorer_alone_in_shards_or_as_a_variant_loads_from_folder_and_hub(hub, load, tmp_path, saving):
    start = build(width=32)
    start.restorer.save_pretrained(tmp_path / "alone", **saving)
    hub.revisions["org/alone"] = {"main": tmp_path / "alone"}
    variant = saving.get("variant")
    for options in ({}, {"variant": variant}):
        assert same(DAARestorationPipeline.from_pretrained(tmp_path / "alone", **options), start)
        assert same(load("org/alone", **options), start)
    check_model(str(tmp_path / "alone"))
    assert facts_of(str(tmp_path / "alone"))["parameters"] == sum(p.numel() for p in start.restorer.parameters())
    with pytest.raises(CheckpointError, match="`variant` is 'bf16', but .* has no such weights"):
        DAARestorationPipeline.from_pretrained(tmp_path / "alone", variant="bf16")
    if "max_shard_size" in saving:
        shard = sorted((tmp_path / "alone").glob("*-of-*.safetensors"))[1]
        shard.unlink()
        with pytest.raises(CheckpointError, match=f"missing files: {shard.name}"):
            DAARestorationPipeline.from_pretrained(tmp_path / "alone")


def test_a_dtype_may_be_given_by_component(saved):
    dtypes = {"restorer": torch.bfloat16, "default": torch.float32}
    pipeline = DAARestorationPipeline.from_pretrained(saved, dtype=dtypes, load_noise_predictor=True)
    assert (pipeline.dtype, pipeline.unet.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`checkpoint` is empty"),
        ("https://huggingface.co/org/name/tree/main", "is an address; use the repository id, 'org/name'"),
        ("org/name@v2", "use the id 'org/name', and 'v2' as the argument `revision`"),
    ],
)
def test_what_is_nearly_an_id_is_explained(text, message):
    with pytest.raises(CheckpointError, match=message):
        resolve(text, "checkpoint")
