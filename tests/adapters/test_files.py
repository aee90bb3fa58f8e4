"""An adapter's folder: what is written is what is read, and what is no adapter is said to be none."""

import json
import shutil

import pytest
import torch

from daa_diffusers import RestorationUNet
from daa_diffusers.adapters import AdapterConfig, read_adapter, save_adapter, updates_for
from daa_diffusers.errors import CheckpointError, ConfigurationError

from ..hub.hub_server import loopback_hub

CONFIG = AdapterConfig(
    "lora", "0123456789abcdef", rank=2, make="Canon", models=["EOS 80D"], iso=[800, 3200], licence="CC0-1.0"
)


@pytest.fixture
def updates():
    torch.manual_seed(0)
    updates = updates_for(RestorationUNet(width=4, depth=2), "lora", rank=2)
    for update in updates.values():
        update.reset_parameters()
    return updates


@pytest.fixture
def folder(updates, tmp_path):
    return save_adapter(tmp_path / "canon", CONFIG, updates)


def test_what_is_read_is_what_was_written(folder, updates):
    config, tensors, name = read_adapter(folder)
    assert config == CONFIG and name == "canon"
    assert {path.name for path in folder.iterdir()} == {"adapter.json", "adapter.safetensors"}
    for parameter, update in updates.items():
        for key, value in update.state_dict().items():
            assert torch.equal(tensors[f"{parameter}.{key}"], value.half())


def test_it_is_replaced_when_it_is_saved_again(folder, updates):
    save_adapter(folder, AdapterConfig("lora", "other", rank=2), updates)
    assert read_adapter(folder)[0].base == "other"


def test_from_the_hub_only_the_adapter_is_fetched(folder, tmp_path, monkeypatch):
    (folder / "adapters" / "sony").mkdir(parents=True)
    shutil.copy(folder / "adapter.safetensors", folder / "adapters" / "sony")
    (folder / "adapters" / "sony" / "adapter.json").write_text('{"kind": "bias", "base": "x"}')
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with loopback_hub(monkeypatch) as hub:
        hub.revisions["org/canon"] = {"main": folder}
        config, _, name = read_adapter("org/canon", cache_dir=tmp_path / "cache")
        assert (config, name) == (CONFIG, "canon")
        assert hub.downloaded() == {"adapter.json", "adapter.safetensors"}
        config, _, name = read_adapter("org/canon", subfolder="adapters/sony", cache_dir=tmp_path / "cache")
        assert (config.kind, name) == ("bias", "sony")
    assert read_adapter("org/canon", cache_dir=tmp_path / "cache", local_files_only=True)[0] == CONFIG


def change(folder, **fields):
    path = folder / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapter.safetensors").unlink(), "adapter.safetensors is missing"),
        (lambda f: (f / "adapter.json").unlink(), "adapter.json is missing"),
        (lambda f: (f / "adapter.json").write_text("{"), "is not an adapter's config"),
        (lambda f: (f / "adapter.json").write_text("[]"), "must hold a JSON object"),
        (lambda f: (f / "adapter.json").write_text("{}"), "is not an adapter's config"),
        (lambda f: change(f, color="red"), "unknown fields color"),
        (lambda f: change(f, format_version=2), "`format_version` must be 1, got 2"),
        (lambda f: change(f, kind="full"), "`kind` must be one of"),
        (lambda f: change(f, rank=None), "`rank` must be a positive number for lora"),
        (lambda f: change(f, iso=[3200, 800]), "`iso` must be"),
        (lambda f: change(f, models="EOS 80D"), "`models` must be a list"),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"\0" * 20), "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(folder)


def test_tensors_that_are_not_finite_are_refused(updates, tmp_path):
    with torch.no_grad():
        updates["down_blocks.0.conv1.weight"].lora_A[0, 0] = float("nan")
    message = r"NaN, infinite or not floating point: down_blocks\.0\.conv1\.weight\.lora_A"
    with pytest.raises(CheckpointError, match=message):
        read_adapter(save_adapter(tmp_path / "broken", CONFIG, updates))


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "a/b/c", "/nowhere/at/all"])
def test_what_is_neither_folder_nor_repository_is_refused(name):
    with pytest.raises(CheckpointError, match="is neither a folder nor a Hub repository"):
        read_adapter(name)


@pytest.mark.parametrize("subfolder", ["..", "a/../..", "/etc"])
def test_a_subfolder_lies_inside(folder, subfolder):
    with pytest.raises(CheckpointError, match="`subfolder` must lie inside"):
        read_adapter(folder, subfolder=subfolder)


def test_an_unknown_option_of_the_hub_is_named(folder):
    with pytest.raises(TypeError, match="unknown option cachedir"):
        read_adapter(folder, cachedir="x")


def test_a_large_one_is_spoken_of(tmp_path, caplog):
    restorer = RestorationUNet(width=64, depth=4)
    save_adapter(tmp_path / "large", AdapterConfig("pointwise", "x"), updates_for(restorer, "pointwise"))
    assert "the adapter is large" in caplog.text


def test_a_config_that_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="`rank`"):
        AdapterConfig("bias", "x", rank=3)
