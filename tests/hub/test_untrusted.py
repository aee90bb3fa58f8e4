"""Checkpoints from anybody: what is refused before memory is taken, a file is followed or a network is built."""

import json
import os
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from daa_diffusers import DAARestorationPipeline, FastRestorationUNet, RestorationUNet
from daa_diffusers.errors import CheckpointError
from daa_diffusers.hub.untrusted import check_name, read_json

WEIGHTS = "restorer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "saved"
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(folder)
    return folder


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10**6}, "`width` in .*config.json' must be at most 4096, got 1000000"),
        ({"width": 10**30}, "`width` in .* must be at most 4096, got a number of more than 18 digits"),
        ({"depth": 40}, "`depth` in .* must be at most 10, got 40"),
        ({"channels": 10**9}, "`channels` in .* must be at most 1024"),
        ({"value_range": [-1e300, 1]}, "`value_range` in .* must be finite and at most 1e\\+09, got -1e\\+300"),
        ({"value_range": [float("-inf"), 1]}, "`value_range` in .* must be finite"),
        ({"negative_slope": float("nan")}, "`negative_slope` in .* must be finite"),
        ({"other": [0] * 5000}, "`other` in .* must have at most 4096 entries, got 5000"),
        ({"width": 4096, "depth": 10}, "the weights do not fit the restorer of"),
        ({"width": "4"}, "is not a valid config of RestorationUNet: `width` must be a positive integer, got '4'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_absurd_configs_are_refused_before_memory_is_taken(saved, changes, message):
    path = saved / "restorer/config.json"
    edit(path, **changes)
    before = peak()
    for source in (saved, saved / WEIGHTS):
        with pytest.raises(CheckpointError, match=message):
            DAARestorationPipeline.from_pretrained(source)
    assert peak() - before < 200 * 2**20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": [4, 10**6]}, "`widths` in .*config.json' must be at most 4096, got 1000000"),
        ({"widths": [1] * 11}, "`widths` in .* must have at most 10 entries, got 11"),
        ({"blocks": [1, 10**4]}, "`blocks` in .* must be at most 64"),
        ({"unshuffle": 1000}, "`unshuffle` in .* must be at most 16"),
        ({"widths": [4096] * 9, "blocks": [64] * 9}, "the weights do not fit the restorer of"),
        ({"widths": "48"}, "is not a valid config of FastRestorationUNet: `widths` must be a list of integers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_absurd_configs_of_a_fast_restorer_are_refused_before_memory_is_taken(tmp_path, changes, message):
    DAARestorationPipeline(FastRestorationUNet(widths=(4, 6), blocks=(1, 1))).save_pretrained(tmp_path)
    edit(tmp_path / "restorer/config.json", **changes)
    before = peak()
    with pytest.raises(CheckpointError, match=message):
        DAARestorationPipeline.from_pretrained(tmp_path)
    assert peak() - before < 200 * 2**20


@pytest.mark.parametrize("content", ["[" * 100_000, '{"width": 1' + "0" * 5000 + "}"], ids=["nested", "long number"])
def test_what_python_refuses_to_read_is_no_config(saved, content):
    (saved / "restorer/config.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not a JSON file"):
        DAARestorationPipeline.from_pretrained(saved)


def test_a_deeply_nested_config_is_refused(saved):
    nested = {"a": 1}
    for _ in range(20):
        nested = {"a": nested}
    edit_me = saved / "restorer/config.json"
    edit_me.write_text(json.dumps({"_class_name": "RestorationUNet", **nested}))
    with pytest.raises(CheckpointError, match="is nested more than 8 deep"):
        DAARestorationPipeline.from_pretrained(saved)


def test_a_huge_config_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="at most 10485760 are read"):
        read_json(tmp_path / "config.json", "")


@pytest.mark.parametrize("component", ["restorer/config.json", WEIGHTS, "model_index.json"])
def test_a_link_out_of_the_folder_is_not_followed(saved, tmp_path, component):
    shutil.move(saved / component, tmp_path / "outside")
    os.symlink(tmp_path / "outside", saved / component)
    with pytest.raises(CheckpointError, match=f"'{component}' in .* is a link to a place outside the folder"):
        DAARestorationPipeline.from_pretrained(saved)


def test_a_link_within_the_folder_and_to_the_folder_is_followed(saved, tmp_path):
    shutil.move(saved / WEIGHTS, saved / "weights.safetensors")
    os.symlink("../weights.safetensors", saved / WEIGHTS)
    os.symlink(saved, tmp_path / "latest")
    assert DAARestorationPipeline.from_pretrained(tmp_path / "latest").restorer.config.width == 4


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "", 3])
def test_a_shard_outside_the_folder_is_refused(saved, tmp_path, name):
    shutil.copy(saved / WEIGHTS, tmp_path / "saved" / "outside.safetensors")
    (saved / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": {"conv_out.bias": name}}
    (saved / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names the file .* which is not inside its folder"):
        DAARestorationPipeline.from_pretrained(saved)


@pytest.mark.parametrize("table", [None, [], {}, "x"])
def test_a_damaged_index_of_shards_is_named(saved, table):
    (saved / WEIGHTS).unlink()
    (saved / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointError, match="`weight_map` in .* must be an object"):
        DAARestorationPipeline.from_pretrained(saved)


def test_ordinary_names_pass():
    assert (
        check_name("restorer/model-00001-of-00002.safetensors", "index") == "restorer/model-00001-of-00002.safetensors"
    )


def test_tensors_that_do_not_fit_are_all_listed(saved):
    state = load_file(saved / WEIGHTS)
    state["other"] = state.pop("conv_out.bias")
    state["conv_out.weight"] = torch.zeros(3, 4, 1, 1)
    save_file(state, saved / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        DAARestorationPipeline.from_pretrained(saved)
    assert str(error.value).endswith(
        "missing tensors: conv_out.bias; unknown tensors: other; "
        "wrong shapes: conv_out.weight (3, 4, 1, 1) instead of (3, 4, 3, 3)"
    )


def test_a_class_that_a_config_names_is_not_imported(saved):
    edit(saved / "model_index.json", restorer=["antigravity", "RestorationUNet2"])
    edit(saved / "restorer/config.json", _class_name="RestorationUNet2")
    with pytest.raises(CheckpointError, match="antigravity is not one of the libraries"):
        DAARestorationPipeline.from_pretrained(saved)
