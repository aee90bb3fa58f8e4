"""Adapters in a pipeline: several side by side, exact in both directions, refused where they do not belong."""

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.adapters import AdapterConfig, Camera, attach, attached, fingerprint, save_adapter, updates_for
from daa_diffusers.adapters.updates import base_parameters, merge, statistics
from daa_diffusers.errors import CheckpointError, ConfigurationError


class WithStatistics(nn.Module):
    """A user's plain module, with batch statistics."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, x):
        return x + self.body(x)


def make(restorer, folder, kind="lora", seed=0, **info):
    """Writes an adapter with some values, and returns the restorer that it makes of `restorer`."""
    torch.manual_seed(seed)
    changed = copy.deepcopy(restorer)
    attach(changed, updates_for(changed, kind, rank=2))
    with torch.no_grad():
        for update in attached(changed).values():
            for parameter in update.parameters():
                parameter.copy_((parameter + 0.05 * torch.randn_like(parameter)).half())
        for buffer in statistics(changed).values():
            buffer += 0.1
    config = AdapterConfig(
        kind, fingerprint(base_parameters(changed)), rank=2 if kind == "lora" else None, base_name="tiny", **info
    )
    save_adapter(folder, config, attached(changed), statistics(changed))
    merge(changed)
    return changed.eval()


@pytest.fixture(params=["own", "plain module"])
def restorer(request):
    torch.manual_seed(0)
    return (RestorationUNet(width=4, depth=2) if request.param == "own" else WithStatistics()).eval()


@pytest.fixture
def own():
    torch.manual_seed(0)
    return RestorationUNet(width=4, depth=2).eval()


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["bias", "pointwise", "lora"])
def test_loaded_it_is_the_trained_restorer_and_unloaded_the_base_bit_for_bit(restorer, kind, tmp_path):
    wanted = state(make(restorer, tmp_path / "camera", kind))
    base = state(restorer)
    pipe = DAARestorationPipeline(restorer)
    assert pipe.active_adapter is None and pipe.adapters == {}
    assert pipe.load_adapter(tmp_path / "camera") == "camera" == pipe.active_adapter
    assert same(state(restorer), wanted) and not same(base, wanted)
    pipe.unload_adapter()
    assert same(state(restorer), base) and pipe.adapters == {}


def test_several_lie_side_by_side(own, tmp_path):
    wanted = {name: state(make(own, tmp_path / name, kind, seed)) for seed, (name, kind) in
              enumerate([("a", "lora"), ("b", "bias"), ("c", "lora")])}  # fmt: skip
    base = state(own)
    pipe = DAARestorationPipeline(own)
    for name in wanted:
        pipe.load_adapter(tmp_path / name)
    for name in ("a", "c", "b", "a"):
        pipe.set_adapter(name)
        assert same(state(own), wanted[name]) and pipe.active_adapter == name
    pipe.unload_adapter("a")
    assert same(state(own), base) and set(pipe.adapters) == {"b", "c"}
    pipe.set_adapter("b")
    pipe.unload_adapter("c")
    assert same(state(own), wanted["b"])
    pipe.set_adapter(None)
    assert same(state(own), base)


def test_the_scale_is_the_strength_of_the_change(own, tmp_path):
    wanted, base = state(make(own, tmp_path / "camera")), state(own)
    pipe = DAARestorationPipeline(own)
    pipe.load_adapter(tmp_path / "camera")
    pipe.set_adapter("camera", scale=0.5)
    for name, value in state(own).items():
        torch.testing.assert_close(value, (base[name] + wanted[name]) / 2)
    pipe.set_adapter("camera", scale=0)
    assert same(state(own), base)


def test_a_saved_pipeline_holds_the_base_unless_the_adapter_is_fused(own, tmp_path):
    wanted, base = state(make(own, tmp_path / "camera")), state(own)
    pipe = DAARestorationPipeline(own)
    pipe.load_adapter(tmp_path / "camera")

    def saved(name):
        pipe.save_pretrained(tmp_path / name)
        return state(DAARestorationPipeline.from_pretrained(tmp_path / name).restorer)

    assert same(saved("active"), base) and same(state(own), wanted)
    pipe.fuse_adapter()
    assert same(saved("fused"), wanted)
    for refused in (lambda: pipe.set_adapter(None), lambda: pipe.load_adapter(tmp_path / "camera", "twice")):
        with pytest.raises(ConfigurationError, match="while 'camera' is fused: unfuse_adapter"):
            refused()
    pipe.unfuse_adapter()
    assert same(saved("unfused"), base)
    pipe.set_adapter(None)
    assert same(state(own), base)


def test_unloaded_while_fused_the_change_stays_for_good(own, tmp_path):
    wanted = state(make(own, tmp_path / "camera"))
    pipe = DAARestorationPipeline(own)
    pipe.load_adapter(tmp_path / "camera")
    pipe.fuse_adapter()
    pipe.unload_adapter()
    pipe.set_adapter(None)
    assert same(state(own), wanted)
    with pytest.raises(CheckpointError, match="is for another restorer"):
        pipe.load_adapter(tmp_path / "camera")


def test_another_base_is_refused_by_its_fingerprint(own, tmp_path):
    make(own, tmp_path / "camera")
    with torch.no_grad():
        own.conv_out.bias[0] += 0.01
    base = state(own)
    pipe = DAARestorationPipeline(own)
    with pytest.raises(CheckpointError, match=r"another restorer: its base has the fingerprint \w{16} \(tiny\)"):
        pipe.load_adapter(tmp_path / "camera")
    assert same(state(own), base) and pipe.adapters == {}


def test_the_fingerprint_is_the_bases_also_while_an_adapter_is_active(own, tmp_path):
    make(own, tmp_path / "a")
    make(own, tmp_path / "b", seed=1)
    pipe = DAARestorationPipeline(own)
    pipe.load_adapter(tmp_path / "a")
    assert pipe.load_adapter(tmp_path / "b") == "b"


def test_tensors_that_do_not_fit_are_listed(own, tmp_path):
    from safetensors.torch import load_file, save_file

    make(own, tmp_path / "camera")
    path = tmp_path / "camera" / "adapter.safetensors"
    tensors = load_file(path)
    del tensors["conv_out.weight.lora_A"]
    tensors["conv_out.weight.lora_B"] = torch.zeros(3, 7)
    save_file({**tensors, "stray": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError) as error:
        DAARestorationPipeline(own).load_adapter(tmp_path / "camera")
    told = str(error.value)
    assert "missing tensors: conv_out.weight.lora_A" in told and "unknown tensors: stray" in told
    assert "conv_out.weight.lora_B (3, 7) instead of (3, 2)" in told


def test_half_precision_takes_the_change_and_gives_it_back(own, tmp_path):
    wanted = make(own, tmp_path / "camera")
    pipe = DAARestorationPipeline(own).to(torch.float16)
    base = state(own)
    pipe.load_adapter(tmp_path / "camera")
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name].float(), value, rtol=2e-3, atol=2e-4)
    pipe.set_adapter(None)
    assert same(state(own), base)


def test_a_pipeline_cast_in_between_gives_the_base_back(own, tmp_path):
    make(own, tmp_path / "camera")
    base = state(own)
    pipe = DAARestorationPipeline(own)
    pipe.load_adapter(tmp_path / "camera")
    pipe.to(torch.float16)
    pipe.set_adapter(None)
    assert same(state(own), {name: value.half() for name, value in base.items()})


def test_it_changes_what_is_restored_and_nothing_of_the_other_pipeline(own, tmp_path):
    make(own, tmp_path / "camera", "bias")
    first, second = DAARestorationPipeline(copy.deepcopy(own)), DAARestorationPipeline(own)
    photo = torch.rand(1, 3, 9, 11)
    before = first(photo, output_type="pt").images
    first.load_adapter(tmp_path / "camera")
    assert not torch.equal(first(photo, output_type="pt").images, before)
    assert torch.equal(second(photo, output_type="pt").images, before)


def test_a_new_restorer_starts_without_adapters(own, tmp_path):
    make(own, tmp_path / "camera")
    pipe = DAARestorationPipeline(own)
    pipe.load_adapter(tmp_path / "camera")
    pipe.restorer = RestorationUNet(width=4, depth=2)
    assert pipe.adapters == {} and pipe.active_adapter is None


def test_the_photo_chooses(own, tmp_path):
    make(own, tmp_path / "canon", make="Canon", models=["Canon EOS 80D"], iso=[800, 6400])
    make(own, tmp_path / "sony", make="SONY")
    pipe = DAARestorationPipeline(own)
    for name in ("canon", "sony"):
        pipe.load_adapter(tmp_path / name)
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    assert pipe.choose_adapter(image) is None
    exif = image.getexif()
    exif[0x010F] = "Sony"
    content = io.BytesIO()
    image.save(content, "JPEG", exif=exif)
    assert pipe.choose_adapter(Image.open(content)) == "sony" == pipe.choose_adapter(content.getvalue())
    assert pipe.choose_adapter(Camera("Canon", "Canon EOS 80D", 800)) == "canon"
    pipe.set_adapter(pipe.choose_adapter(Camera("Nikon")))
    assert pipe.active_adapter is None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda pipe, folder: pipe.set_adapter("none"), r"`name` must be one of \['camera'\] or None, got 'none'"),
        (lambda pipe, folder: pipe.unload_adapter("none"), "got 'none'"),
        (lambda pipe, folder: pipe.load_adapter(folder), "`name` 'camera' is already loaded"),
        (lambda pipe, folder: pipe.load_adapter(folder, name=""), "`name` must be a non-empty string or None, got ''"),
        (lambda pipe, folder: pipe.set_adapter("camera", scale=float("nan")), "`scale` must be a finite number"),
        (lambda pipe, folder: pipe.set_adapter("camera", scale="1"), "`scale` must be a finite number"),
        (lambda pipe, folder: pipe.unfuse_adapter(), "no adapter is fused"),
        (lambda pipe, folder: (pipe.set_adapter(None), pipe.fuse_adapter()), "no adapter is active"),
    ],
)
def test_what_cannot_be_done_is_said(own, act, message, tmp_path):
    make(own, tmp_path / "camera")
    pipe = DAARestorationPipeline(own)
    pipe.load_adapter(tmp_path / "camera")
    with pytest.raises(ConfigurationError, match=message):
        act(pipe, tmp_path / "camera")
