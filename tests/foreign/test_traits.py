"""Traits of foreign networks: range, radius, global pooling, batch statistics, export and tiles."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from daa_diffusers import DAARestorationPipeline, ForeignRestorer, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.foreign.probe import Traits, measure_reach
from daa_diffusers.objectives.base import Batch
from daa_diffusers.pipelines.tiling import auto_tile
from daa_diffusers.training.config import resolve
from daa_diffusers.training.loop import train
from daa_diffusers.training.setup import build_model, prepare_networks

from .networks import dncnn, nafnet, swinir

# --- ranges and reach ---


class Doubling(nn.Module):
    """Gives twice its input: tells which range arrives."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("output", ["restored", "residual", "noise"])
def test_a_network_of_another_range_works_on_0_to_1(output):
    restorer = ForeignRestorer.wrap(Doubling(), value_range=(0, 255), output=output)
    assert restorer.config.value_range == [0.0, 1.0]
    x = torch.rand(1, 3, 8, 8)
    expected = {"restored": 2 * x, "residual": 3 * x, "noise": -x}[output]
    torch.testing.assert_close(restorer(x), expected)
    shifted = ForeignRestorer.wrap(Doubling(), value_range=(-2, 2))  # x = 0.5 is 0 there, and stays 0
    torch.testing.assert_close(shifted(torch.full((1, 3, 8, 8), 0.5)), torch.full((1, 3, 8, 8), 0.5))
    assert ForeignRestorer.wrap(Doubling(), value_range=(-1, 1)).config.value_range == [-1.0, 1.0]


def test_the_radius_is_that_of_the_layers_however_they_start():
    for network, radius in ((dncnn(nb=5), 5), (RestorationUNet(width=2, depth=3), 30)):
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        measured, is_global = measure_reach(network, Traits(size_multiple=getattr(network, "size_multiple", 1)))
        assert radius <= measured < radius + 8 and not is_global


class HiddenMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x) * x.mean(dim=(2, 3), keepdim=True)


def test_pooling_is_found_where_no_layer_tells():
    assert measure_reach(HiddenMean(), Traits()) == (None, True)
    deep = RestorationUNet(width=2, depth=5)  # reaches 138 px, but not everything
    assert measure_reach(deep, Traits(size_multiple=16)) == (None, False)


# --- training ---


def test_batch_statistics_are_found_inside():
    assert NoiseSpaceAdaptation(ForeignRestorer.wrap(dncnn(act_mode="BR")), torch.nn.Identity()).has_batch_statistics
    assert not NoiseSpaceAdaptation(ForeignRestorer.wrap(dncnn()), torch.nn.Identity()).has_batch_statistics


@pytest.mark.parametrize("select", ["last", "psnr"])
def test_batch_statistics_are_blended_and_selected_with_the_weights(tmp_path, select):
    draw = np.random.default_rng(0)
    for name in ("degraded", "clean"):
        (tmp_path / name).mkdir()
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name / "photo.png")
    start = ForeignRestorer.wrap(dncnn(act_mode="BR"))
    DAARestorationPipeline(start).save_pretrained(tmp_path / "start")
    pairs = {f"validation_{name}": str(tmp_path / name) for name in ("degraded", "clean")}
    quiet = {"health": False, "report_to": "none", "threads": 1, "validate_every": 1}
    options = {"preset": "tiny", "variant": "vanilla", "steps": 2, "patch": 16, "batch_size": 2, "select_by": select}
    config = resolve(
        {
            **options,
            **quiet,
            **pairs,
            "clean": [str(tmp_path / "clean")],
            "init_from": str(tmp_path / "start"),
            "output_dir": str(tmp_path / "run"),
            "blend": 1e-4,
        }
    )
    result = train(config.check(), progress_bar=False)
    after = DAARestorationPipeline.from_pretrained(result.pipeline).restorer.state_dict()
    for name, tensor in start.state_dict().items():  # running means moved by a tenth in each step
        if tensor.is_floating_point():
            torch.testing.assert_close(after[name], tensor, rtol=1e-3, atol=1e-3)


def test_a_gray_network_gets_a_noise_predictor_of_its_channels(tmp_path):
    DAARestorationPipeline(ForeignRestorer.wrap(dncnn(in_nc=1, out_nc=1))).save_pretrained(tmp_path)
    model = build_model(resolve({"preset": "tiny", "init_from": str(tmp_path)}))
    assert (model.unet.config.in_channels, model.unet.config.out_channels) == (3, 1)
    gray = torch.rand(2, 1, 16, 16)
    assert torch.isfinite(model(Batch(gray, gray, gray)).loss)


def test_gradient_checkpointing_is_refused(tmp_path):
    DAARestorationPipeline(ForeignRestorer.wrap(dncnn())).save_pretrained(tmp_path)
    config = resolve({"preset": "tiny", "init_from": str(tmp_path), "gradient_checkpointing": True})
    with pytest.raises(ConfigurationError, match="`gradient_checkpointing`: ForeignRestorer does not support it"):
        prepare_networks(config, build_model(config))


@pytest.mark.slow
def test_it_can_be_exported_with_its_padding():
    restorer = ForeignRestorer.wrap(swinir()).eval()
    x = torch.rand(1, 3, 32, 24)
    exported = torch.export.export(restorer, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), restorer(x))


def test_a_damaged_folder_is_refused(tmp_path):
    DAARestorationPipeline(ForeignRestorer.wrap(dncnn())).save_pretrained(tmp_path)
    config = tmp_path / "restorer" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "arguments": {**values["arguments"], "nc": 12}}))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        DAARestorationPipeline.from_pretrained(tmp_path)


def test_tiles_of_a_global_network_are_as_large_as_memory_allows_and_warned_of(caplog):
    assert auto_tile(1e5, torch.device("cpu"), is_global=True) > auto_tile(1e5, torch.device("cpu"))
    pipe = DAARestorationPipeline(ForeignRestorer.wrap(nafnet(width=4)))
    photo = torch.rand(1, 3, 160, 160)
    with caplog.at_level("WARNING", logger="daa_diffusers"):
        pipe(photo)
        assert "global reach" not in caplog.text
        pipe(photo, tile=96)
    assert "global reach: tiles of 96 px" in caplog.text
