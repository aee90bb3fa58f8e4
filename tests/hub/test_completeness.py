"""Folders of checkpoints: missing, damaged and unfitting files are named."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from daa_diffusers import (
    DAARestorationPipeline,
)
from daa_diffusers.errors import CheckpointError

from .conftest import build, edit, same

# --- folders ---


def test_all_missing_files_are_listed(saved):
    (saved / "restorer/diffusion_pytorch_model.safetensors").unlink()
    (saved / "restorer/config.json").unlink()
    (saved / "unet/config.json").unlink()
    with pytest.raises(CheckpointError) as error:
        DAARestorationPipeline.from_pretrained(saved, load_noise_predictor=True)
    expected = "missing files: restorer/config.json, restorer/diffusion_pytorch_model.safetensors, unet/config.json"
    assert f"{expected} (there is restorer/diffusion_pytorch_model.bin: only safetensors are read" in str(error.value)


def test_a_missing_shard_is_listed(tmp_path):
    build(width=32).save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted((tmp_path / "restorer").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert same(DAARestorationPipeline.from_pretrained(tmp_path), build(width=32))
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=f"missing files: restorer/{shards[1].name}"):
        DAARestorationPipeline.from_pretrained(tmp_path)


def test_a_config_of_another_class_is_named(saved):
    edit(saved / "restorer/config.json", _class_name="UNet2DModel")
    with pytest.raises(CheckpointError, match="has class UNet2DModel, expected RestorationUNet"):
        DAARestorationPipeline.from_pretrained(saved)
    edit(saved / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(CheckpointError, match="has class StableDiffusionPipeline, expected DAARestorationPipeline"):
        DAARestorationPipeline.from_pretrained(saved)


def test_a_broken_config_is_named(saved):
    (saved / "restorer/config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json' is not a JSON file"):
        DAARestorationPipeline.from_pretrained(saved)
    (saved / "model_index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="model_index.json' must hold a JSON object, got list"):
        DAARestorationPipeline.from_pretrained(saved)


@pytest.mark.parametrize("change", ["truncated", "missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused(saved, change):
    path = saved / "restorer/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "missing":
        del state["conv_out.bias"]
    elif change == "unknown":
        state["other.bias"] = torch.zeros(3)
    else:
        state["conv_out.bias"] = torch.zeros(4)
    if change != "truncated":
        save_file(state, path)
    message = {"truncated": "cannot be loaded", "shape": "conv_out.bias", "unknown": "unknown tensors: other.bias"}
    with pytest.raises(CheckpointError, match=message.get(change, "missing tensors: conv_out.bias")):
        DAARestorationPipeline.from_pretrained(saved)


def test_pickle_is_never_written_nor_read(saved, tmp_path):
    with pytest.raises(ValueError, match="`safe_serialization` must be True"):
        build().save_pretrained(tmp_path / "new", safe_serialization=False)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="`use_safetensors` must be True"):
        DAARestorationPipeline.from_pretrained(saved, use_safetensors=False)


def test_saving_again_replaces_the_files(tmp_path):
    build().save_pretrained(tmp_path)
    build(seed=5).save_pretrained(tmp_path)
    assert same(DAARestorationPipeline.from_pretrained(tmp_path), build(seed=5))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
