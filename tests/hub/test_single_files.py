"""Restorers in single weight files."""

import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from daa_diffusers import (
    DAARestorationPipeline,
    FastRestorationUNet,
)
from daa_diffusers.errors import CheckpointError

from .conftest import build, edit, same, weights

# --- single files ---


def test_a_folder_of_a_restorer_alone_loads(tmp_path, caplog):
    build(value_range=[-1, 1]).restorer.save_pretrained(str(tmp_path / "restorer"))
    pipeline = DAARestorationPipeline.from_pretrained(tmp_path / "restorer", dtype=torch.bfloat16)
    assert pipeline.value_range == (-1, 1) and pipeline.dtype == torch.bfloat16
    assert not pipeline.restorer.training and "should be kept in float32" not in caplog.text  # of diffusers, for a cast


def test_a_fast_restorer_loads_from_its_file_and_from_a_pipeline_with_its_own_class(tmp_path):
    restorer = FastRestorationUNet(widths=(4, 6), blocks=(1, 1), value_range=(-1, 1))
    DAARestorationPipeline(restorer).save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "restorer/diffusion_pytorch_model.safetensors"):
        loaded = DAARestorationPipeline.from_pretrained(source).restorer
        assert type(loaded) is FastRestorationUNet and loaded.config.value_range == [-1, 1]
        assert all(map(torch.equal, loaded.state_dict().values(), restorer.state_dict().values()))


def test_a_single_file_loads_with_its_config(saved):
    edit(saved / "restorer/config.json", value_range=[-1, 1])
    pipeline = DAARestorationPipeline.from_pretrained(saved / "restorer/diffusion_pytorch_model.safetensors")
    assert same(pipeline, build()) and pipeline.value_range == (-1, 1)


@pytest.mark.parametrize("sizes", [{"width": 4, "depth": 1}, {"width": 6, "depth": 4}, {"channels": 1, "depth": 2}])
def test_a_single_file_without_config_says_its_sizes(tmp_path, sizes, caplog):
    restorer = build(**sizes).to(torch.float16).restorer
    save_file(restorer.state_dict(), tmp_path / "my weights.safetensors")
    with caplog.at_level(logging.WARNING, logger="daa_diffusers"):
        pipeline = DAARestorationPipeline.from_pretrained(str(tmp_path / "my weights.safetensors"))
    assert any("no config.json next to my weights.safetensors: sizes inferred" in m for m in caplog.messages)
    assert pipeline.dtype == torch.float32
    assert {name: pipeline.restorer.config[name] for name in sizes} == sizes
    assert all(torch.equal(t, restorer.state_dict()[n].float()) for n, t in weights(pipeline).items())
    assert pipeline(torch.rand(1, 9, 9), output_type="pt").images.shape == (1, 1, 9, 9)


def test_a_single_file_that_does_not_fit_lists_everything(saved):
    file = saved / "restorer/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["other"] = state.pop("conv_out.bias")
    state["conv_out.weight"] = torch.zeros(3, 4, 1, 1)
    save_file(state, file)
    with pytest.raises(CheckpointError) as error:
        DAARestorationPipeline.from_pretrained(file)
    assert str(error.value).endswith(
        "missing tensors: conv_out.bias; unknown tensors: other; "
        "wrong shapes: conv_out.weight (3, 4, 1, 1) instead of (3, 4, 3, 3)"
    )


def test_a_single_file_of_something_else_is_refused(tmp_path, saved):
    def load(name, match):
        with pytest.raises(CheckpointError, match=match):
            DAARestorationPipeline.from_pretrained(tmp_path / name)

    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    load("other.safetensors", "has no architecture that spandrel recognizes.*Tried: .*NAFNet")
    save_file({"down_path.0.block.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "official.safetensors")
    load("official.safetensors", "convert it first: `daa convert official.safetensors OUT`")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10")
    load("broken.safetensors", "is damaged")
    (tmp_path / "photo.png").write_bytes(b"png")
    load("photo.png", "must be a folder or a weight file ..safetensors, .pth")
    torch.save({}, tmp_path / "model.pth")
    load("model.pth", r"must hold a state dict \(tensors by name\), got none")
    shutil.copy(saved / "restorer/diffusion_pytorch_model.safetensors", tmp_path / "good.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    load("good.safetensors", "has class UNet2DModel, expected RestorationUNet")
    (tmp_path / "config.json").write_text('{"_class_name": "RestorationUNet", "width": -4}')
    load("good.safetensors", "is not a valid config of RestorationUNet: `width` must be a positive integer")


def test_a_single_file_has_no_noise_predictor(saved):
    with pytest.raises(CheckpointError, match="holds no noise predictor"):
        DAARestorationPipeline.from_pretrained(
            saved / "restorer/diffusion_pytorch_model.safetensors", load_noise_predictor=True
        )
