"""Modules wrapped as restorers: faulty ones are refused with what to declare; configs run no code."""

import importlib
import sys

import pytest
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline, ForeignRestorer
from daa_diffusers.errors import CheckpointError

from .networks import Layers, dncnn

# --- what the probe refuses ---


class Faulty(nn.Module):
    """A network with one fault."""

    def __init__(self, fault: str = ""):
        super().__init__()
        self.fault = fault
        channels = 1 if fault == "gray" else 3
        self.conv = nn.Conv2d(channels, channels, 3, padding=0 if fault == "valid" else 1)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False) if fault == "batch" else nn.Identity()

    def forward(self, x):
        if self.fault == "strict" and (x.shape[2] % 8 or x.shape[3] % 8):
            raise RuntimeError("sizes must match\nat dimension 2")
        if self.fault == "square" and x.shape[2] != x.shape[3]:
            raise RuntimeError("square only")
        if self.fault == "crop":
            x = x[:, :, : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4]
        out = self.norm(self.conv(x))
        if self.fault == "double":
            return out.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if self.fault == "tuple":
            return [out.mean(), out, out]
        if self.fault == "mapping":
            return {"mask": out[:, :1], "restored": out}
        if self.fault == "dropout":
            return nn.functional.dropout(out, 0.5, training=True)
        if self.fault == "none":
            return None
        if self.fault == "nan":
            return out / 0 * 0
        return out


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("strict", r"multiples of 8, not only of 1: declare size_multiple=8"),
        ("crop", r"multiples of 4, not only of 1: declare size_multiple=4"),
        ("square", r"requires square photos: declare square=True$"),
        ("double", r"\(2, 3, 64, 65\) became \(2, 3, 128, 130\) \(2 times the size\)"),
        ("valid", r"\(2, 3, 64, 65\) became \(2, 3, 62, 63\)"),
        ("tuple", r"returns a list, not a tensor: declare .* output_item=1 \(or 2\)"),
        ("mapping", r"returns a dict, not a tensor: declare .* output_item='restored'"),
        ("dropout", r"deterministic in eval mode"),
        ("batch", r"must not depend on the other photos of its batch"),
        ("gray", r"requires 1 channels: declare channels=1"),
        ("none", r"returns a NoneType without such a tensor"),
        ("nan", r"returns NaN or infinity"),
    ],
)
def test_a_faulty_network_is_refused_with_what_to_declare(fault, message):
    with pytest.raises(ValueError, match=message):
        ForeignRestorer.wrap(Faulty(fault))


@pytest.mark.parametrize(
    ("fault", "declared"),
    [
        ("strict", {"size_multiple": 8}),
        ("crop", {"size_multiple": 4}),
        ("square", {"square": True}),
        ("tuple", {"output_item": 1}),
        ("mapping", {"output_item": "restored"}),
    ],
)
def test_what_the_message_says_to_declare_helps(fault, declared):
    network = Faulty(fault)
    pipe = DAARestorationPipeline(ForeignRestorer.wrap(network, **declared))
    photo = torch.rand(1, 3, 21, 34)
    assert pipe(photo, output_type="pt").images.shape == photo.shape


def test_nan_weights_are_named():
    network = Layers(width=4)
    with torch.no_grad():
        network.layers[1].bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite weights: layers.1.bias; the checkpoint is damaged"):
        ForeignRestorer.wrap(network)


def test_wrapping_leaves_modes_weights_and_random_numbers_as_they_were():
    network = dncnn(act_mode="BR").train()
    network.model[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    restorer = ForeignRestorer.wrap(network)
    assert restorer.network is network
    assert network.model[2].training and not network.model[0].training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert torch.equal(state, torch.get_rng_state())


# --- a class of one's own ---


def test_arguments_that_cannot_be_read_off_or_build_something_else_are_refused():
    class Inner(nn.Module):
        pass

    with pytest.raises(ValueError, match="Inner is defined inside a function"):
        ForeignRestorer.wrap(Inner())
    with pytest.raises(ValueError, match="torch.nn.Sequential cannot be rebuilt from arguments"):
        ForeignRestorer.wrap(nn.Sequential(nn.Conv2d(3, 3, 1)))
    network = Layers(width=4)
    del network.width
    with pytest.raises(ValueError, match="`arguments` must be a mapping.*: width of Layers cannot be read from"):
        ForeignRestorer.wrap(network)
    with pytest.raises(ValueError, match=r"has other tensors than the network \(layers.0.bias"):
        ForeignRestorer.wrap(network, arguments={"width": 5})
    with pytest.raises(ValueError, match=r"cannot be built from .*unexpected keyword"):
        ForeignRestorer.wrap(network, arguments={"width": 4, "breadth": 5})
    with pytest.raises(ValueError, match=r"`arguments` must be plain JSON .*\['width'\]"):
        ForeignRestorer.wrap(network, arguments={"width": torch.tensor(4)})
    assert ForeignRestorer.wrap(network, arguments={"width": 4}).config.arguments == {"width": 4}


class Scaled(nn.Module):
    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.conv, self.gain = nn.Conv2d(3, 3, 3, padding=1), factor

    def forward(self, x):
        return self.gain * self.conv(x)


def test_a_hidden_argument_that_changes_the_result_is_noticed():
    with pytest.raises(ValueError, match="gives other results than the network with the same weights"):
        ForeignRestorer.wrap(Scaled(2.0))
    ForeignRestorer.wrap(Scaled(2.0), arguments={"factor": 2.0})


@pytest.fixture
def foreign_module(tmp_path, monkeypatch):
    """A module of a user's own that is not imported; the class in it."""
    (tmp_path / "nets_of_mine.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv2d(3, 3, 3, padding=1)\n\n"
        "    def forward(self, x):\n        return self.conv(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)
    yield importlib.import_module("nets_of_mine").Net
    sys.modules.pop("nets_of_mine", None)


def test_code_that_is_not_imported_needs_trust(foreign_module, tmp_path):
    pipe = DAARestorationPipeline(ForeignRestorer.wrap(foreign_module()))
    pipe.save_pretrained(tmp_path / "saved")
    DAARestorationPipeline.from_pretrained(tmp_path / "saved")
    del sys.modules["nets_of_mine"]
    with pytest.raises(CheckpointError, match="'nets_of_mine', which is not imported: .*trust_remote_code=True"):
        DAARestorationPipeline.from_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="'nets_of_mine', which is not imported"):
        ForeignRestorer.from_pretrained(tmp_path / "saved" / "restorer")
    assert "nets_of_mine" not in sys.modules
    loaded = DAARestorationPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert "nets_of_mine" in sys.modules
    assert torch.equal(loaded.restorer.network.conv.weight, pipe.restorer.network.conv.weight)


@pytest.mark.parametrize("path", ["subprocess:Popen", "os:system", "torch.nn:functional", "sys:nothing.here"])
def test_a_config_cannot_call_what_is_no_network(path):
    with pytest.raises(ValueError, match=r"must name a subclass of torch.nn.Module"):
        ForeignRestorer(library="module", architecture=path, arguments={"args": ["true"]})


def test_unknown_libraries_architectures_and_traits_are_named():
    with pytest.raises(ValueError, match=r"`library` must be one of .*got 'timm'"):
        ForeignRestorer(library="timm", architecture="x", arguments={})
    with pytest.raises(ValueError, match=r"one of spandrel's .*NAFNet.* got 'NAFNot:NAFNot'"):
        ForeignRestorer(library="spandrel", architecture="NAFNot:NAFNot", arguments={})
    with pytest.raises(ValueError, match="unknown traits multiple; known: .*size_multiple"):
        ForeignRestorer.wrap(Faulty(), multiple=8)
    with pytest.raises(ValueError, match="`output` must be one of .*got 'clean'"):
        ForeignRestorer.wrap(Faulty(), output="clean")
    with pytest.raises(ValueError, match="`value_range` must be"):
        ForeignRestorer.wrap(Faulty(), value_range=(1, 0))
    with pytest.raises(ValueError, match="`value_range` must be .*, got '01'"):
        ForeignRestorer.wrap(Faulty(), value_range="01")
    with pytest.raises(ValueError, match="`size_multiple` must be a positive integer, got '8'"):
        ForeignRestorer.wrap(Faulty(), size_multiple="8")
    with pytest.raises(ValueError, match="must be a torch.nn.Module, got str"):
        ForeignRestorer.wrap("NAFNet")
    restorer = ForeignRestorer.wrap(Faulty())
    with pytest.raises(ValueError, match="is already a ForeignRestorer"):
        ForeignRestorer.wrap(restorer)
    with pytest.raises(ValueError, match=r"`x` must be \(B, 3, H, W\), got \(1, 4, 8, 8\)"):
        restorer(torch.rand(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"multiples of 8, got \(8, 12\)"):
        ForeignRestorer.wrap(Faulty("strict"), size_multiple=8)(torch.rand(1, 3, 8, 12))
