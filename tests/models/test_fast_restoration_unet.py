import numpy as np
import pytest
import torch
from torch import nn

from daa_diffusers.models.fast_restoration_unet import FAST_PRESETS, FastRestorationUNet

from .contract import ModelContract, reach


class TestFastRestorationUNetContract(ModelContract):
    model_class = FastRestorationUNet

    def build(self):
        return FastRestorationUNet(widths=(8, 12, 16), blocks=(1, 0, 1), value_range=(-1.0, 1.0))

    def inputs(self, batch, height, width, dtype=torch.float32):
        return {"x": self.photos(batch, 3, height, width, 1, dtype)}

    def test_the_preset_has_the_number_of_parameters_of_the_table_of_architectures(self):
        with torch.device("meta"):
            model = FastRestorationUNet.from_preset("fast")
        assert sum(parameter.numel() for parameter in model.parameters()) == 1_938_780

    def test_presets_grow_and_take_overrides(self):
        with torch.device("meta"):
            counts = [
                sum(p.numel() for p in FastRestorationUNet.from_preset(preset, channels=1).parameters())
                for preset in ("fast-tiny", "fast", "fast-large")
            ]
        assert counts[0] < counts[1] / 3 < counts[2] / 9

    def test_an_unknown_preset_is_named_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"`preset` must be one of \['fast', 'fast-large', .*\], got 'huge'"):
            FastRestorationUNet.from_preset("huge")

    def test_weights_start_kaiming_normal_but_at_a_tenth_at_the_ends_of_branches(self, model):
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                assert not module.bias.any()
                scale = (module.weight * module.weight[0].numel() ** 0.5).std().item()
                expected = 2**0.5 if name.endswith("conv1") else 0.1 if name.endswith(("conv2", "conv_out")) else 1
                assert abs(scale / expected - 1) < 6 / module.weight.numel() ** 0.5, name


def tiny(**options) -> FastRestorationUNet:
    torch.manual_seed(0)
    return FastRestorationUNet(**{"widths": (4, 6), "blocks": (1, 1), **options})


def test_the_output_is_input_plus_residual_and_never_clamped():
    model = tiny()
    x = 5 * torch.randn(2, 3, 8, 8)
    assert (model(x) - x).std() < x.std()  # close to its input from the start: training begins at "untouched"
    nn.init.zeros_(model.conv_out.weight)
    assert torch.equal(model(x), x)  # far outside [0, 1]
    nn.init.constant_(model.conv_out.bias, 2.5)
    torch.testing.assert_close(model(x), x + 2.5)


def test_a_grayscale_model_takes_and_gives_one_channel():
    assert tiny(channels=1, unshuffle=1)(torch.rand(1, 1, 4, 6)).shape == (1, 1, 4, 6)


@pytest.mark.parametrize("name", ["channels", "unshuffle"])
@pytest.mark.parametrize("value", [0, 1.5, "3"])
def test_counts_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got {value!r}"):
        tiny(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 0)}, r"`widths` must be a list of integers of at least 1, got \(4, 0\)"),
        ({"widths": 4}, "`widths` must be a list of integers of at least 1, got 4"),
        ({"blocks": (1, -1)}, "`blocks` must be a list of integers of at least 0"),
        ({"blocks": (1,)}, r"`widths` and `blocks` must have the same length, at least 1, got \(4, 6\) and \(1,\)"),
        ({"widths": (), "blocks": ()}, "`widths` and `blocks` must have the same length, at least 1"),
        ({"value_range": (1.0, 1.0)}, "`value_range` must be .low, high."),
    ],
)
def test_other_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (0, 3, 8, 8)])
def test_another_rank_channel_count_or_an_empty_input_raises(shape):
    with pytest.raises(ValueError, match="`x` must be|positive multiples of 4"):
        tiny()(torch.rand(shape))


SIZES = [
    ({"widths": (2,), "blocks": (1,)}, 9),
    ({"widths": (2,), "blocks": (2,), "unshuffle": 1}, 6),
    ({"widths": (2, 2), "blocks": (1, 1)}, 23),
    ({"widths": (2, 2), "blocks": (0, 1), "unshuffle": 4}, 31),
    (FAST_PRESETS["fast"] | {"widths": (2, 2, 2)}, 67),
]


@pytest.mark.parametrize(("options", "radius"), SIZES)
def test_the_receptive_radius_is_exact(options, radius):
    model = FastRestorationUNet(channels=1, **options).double()
    assert reach(model) == model.receptive_radius == radius


def test_a_tile_agrees_with_the_whole_where_it_overlaps_by_the_radius():
    model = tiny(widths=(4, 4, 4), blocks=(1, 1, 1)).double().eval()
    grid = model.size_multiple
    overlap = -(-model.receptive_radius // grid) * grid
    x = torch.rand(1, 3, 2 * overlap + 4 * grid, 2 * overlap + 8 * grid, dtype=torch.float64)
    with torch.no_grad():
        whole, tile = model(x), model(x[..., 2 * grid :, 2 * grid : -2 * grid])
    inside = tile[..., overlap:, overlap:-overlap]
    torch.testing.assert_close(inside, whole[..., overlap + 2 * grid :, overlap + 2 * grid : -overlap - 2 * grid],
                               rtol=0, atol=1e-12)  # fmt: skip


def test_gradient_checkpointing_changes_no_gradient():
    model = tiny().train()
    x = torch.rand(2, 3, 16, 16)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(x).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-8) for p, q in zip(*gradients, strict=True))


def test_an_onnx_file_gives_the_numbers_of_torch_at_other_sizes(tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install 'daa-diffusers[onnx]'")
    pytest.importorskip("onnxscript")
    from daa_diffusers.export import OnnxRestorer, export_onnx

    model = tiny(value_range=(-1.0, 1.0)).eval()
    found = OnnxRestorer(export_onnx(model, tmp_path / "restorer.onnx"))
    assert (found.size_multiple, found.receptive_radius) == (model.size_multiple, model.receptive_radius)
    for shape in ((1, 3, 4, 4), (3, 3, 20, 8)):
        x = torch.rand(shape)
        with torch.no_grad():
            np.testing.assert_allclose(found(x).numpy(), model(x).numpy(), atol=1e-5)
