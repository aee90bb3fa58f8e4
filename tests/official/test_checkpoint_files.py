"""Files of official checkpoints: tensors alone are read, and no code is run."""

import os
import pickle
import types

import pytest
import torch
from safetensors.torch import save_file

from daa_diffusers.errors import CheckpointError
from daa_diffusers.official.convert import convert_official_state_dict, load_official_file

from .conftest import SIZES, official, restorer_only
from .to_official import to_official_state_dict

# --- files ---


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".safetensors"])
def test_a_file_gives_its_tensors(tmp_path, suffix):
    state = official()
    path = tmp_path / f"best model{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    for given in (path, str(path)):
        loaded = load_official_file(given)
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("wrapper", ["state_dict", "params"])
def test_wrapped_weights_are_unwrapped(tmp_path, wrapper):
    state = restorer_only(official())
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "net.pth")
    assert load_official_file(tmp_path / "net.pth").keys() == state.keys()


def test_an_official_file_is_read_from_start_to_finish(tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in official().items()}, tmp_path / "net.pth")
    restorer, unet = convert_official_state_dict(load_official_file(tmp_path / "net.pth"), **SIZES)
    assert to_official_state_dict(restorer, unet).keys() == official().keys()


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must name a checkpoint file, got .*nowhere.pth"):
        load_official_file(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError):
        load_official_file(tmp_path)  # a folder


class RunsCode:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run_it(tmp_path):
    torch.save({"last.bias": torch.zeros(3), "extra": RunsCode(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="needs more than tensors.*safetensors"):
        load_official_file(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2))
    with pytest.raises(CheckpointError):
        load_official_file(tmp_path / "plain.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_object_is_refused(tmp_path):
    torch.save(types.SimpleNamespace(weights=1), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="needs more than tensors"):
        load_official_file(tmp_path / "model.pth")


@pytest.mark.parametrize("content", ["truncated", "empty", "html", "text"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_named(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    if suffix == ".pth":
        torch.save(official(), path)
    else:
        save_file(official(), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "empty": b"", "html": b"<html>404</html>", "text": b"text"}[content]
    )
    with pytest.raises(CheckpointError, match=path.name):
        load_official_file(path)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "weights.onnx").write_bytes(b"0")
    with pytest.raises(CheckpointError, match=r"must end in one of .safetensors, .pth, .pt, .ckpt, .bin, got '.onnx'"):
        load_official_file(tmp_path / "weights.onnx")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {}, {"a": 1}, {3: torch.zeros(1)}], ids=str)
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other.pth must hold"):
        load_official_file(tmp_path / "other.pth")
