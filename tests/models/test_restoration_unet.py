import pytest
import torch

from daa_diffusers.models.restoration_unet import RestorationUNet

from .contract import reach
from .paper_contract import PaperContract


class TestRestorationUNetContract(PaperContract):
    model_class = RestorationUNet
    paper_parameters = 8_559_171

    def build(self):
        return RestorationUNet(width=8, depth=3, negative_slope=0.1, align_corners=True, value_range=(-1.0, 1.0))

    def inputs(self, batch, height, width, dtype=torch.float32):
        return {"x": self.photos(batch, 3, height, width, 1, dtype)}


def test_presets_are_the_widths_of_the_issue_and_overrides_win():
    assert [RestorationUNet.from_preset(p).config.width for p in ("tiny", "small")] == [16, 32]
    model = RestorationUNet.from_preset("tiny", depth=2, align_corners=True)
    assert (model.config.width, model.config.depth, model.config.align_corners) == (16, 2, True)
    assert RestorationUNet.from_preset("tiny").config.align_corners is False


def test_the_output_is_input_plus_residual_and_never_clamped():
    model = RestorationUNet(width=4, depth=2)
    x = 5 * torch.randn(2, 3, 8, 8)
    torch.nn.init.zeros_(model.conv_out.weight)
    assert torch.equal(model(x), x)  # far outside [0, 1]
    torch.nn.init.constant_(model.conv_out.bias, 2.5)
    torch.testing.assert_close(model(x), x + 2.5)


def test_a_gray_model_takes_and_gives_one_channel():
    assert RestorationUNet(channels=1, width=4, depth=1)(torch.rand(1, 1, 3, 5)).shape == (1, 1, 3, 5)


def test_align_corners_is_what_the_upsampling_does():
    torch.manual_seed(0)
    straight = RestorationUNet(width=4, depth=3)
    aligned = RestorationUNet(width=4, depth=3, align_corners=True)
    aligned.load_state_dict(straight.state_dict())
    x = torch.rand(1, 3, 16, 16)
    assert (straight(x) - aligned(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["channels", "width", "depth"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3"])
def test_sizes_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got {value!r}"):
        RestorationUNet(**{name: value})


@pytest.mark.parametrize("value", [(0.0, 0.0), (1.0, -1.0), (0.0,), (0.0, 1.0, 2.0)])
def test_the_value_range_must_rise(value):
    with pytest.raises(ValueError, match="`value_range` must be .low, high."):
        RestorationUNet(width=4, value_range=value)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 4, 16, 16), (1, 3, 16, 16, 1)])
def test_another_rank_or_channel_count_raises(shape):
    with pytest.raises(ValueError, match=r"`x` must be \(B, 3, H, W\)"):
        RestorationUNet(width=4, depth=2)(torch.rand(shape))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 3, 0, 8), (1, 3, 8, 0)])
def test_an_empty_input_raises(shape):
    with pytest.raises(ValueError, match="positive multiples of 2"):
        RestorationUNet(width=4, depth=2)(torch.rand(shape))


def measured_radius(depth: int, align_corners: bool) -> int:
    return reach(RestorationUNet(channels=1, width=2, depth=depth, align_corners=align_corners).double())


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_receptive_radius_is_exact(depth):
    model = RestorationUNet(width=2, depth=depth)
    assert model.receptive_radius == measured_radius(depth, align_corners=False)
    assert model.receptive_radius == {1: 3, 2: 12, 3: 30, 4: 66, 5: 138}[depth]


@pytest.mark.parametrize("depth", [2, 3])
def test_with_align_corners_the_radius_still_bounds_the_reach(depth):
    assert measured_radius(depth, align_corners=True) <= RestorationUNet(width=2, depth=depth).receptive_radius


def restore_a_tile(model: RestorationUNet, x: torch.Tensor, overlap: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The inner part of one tile of `x`, cut at multiples of the pooling grid, and the same part of the whole."""
    low, high = overlap + 2 * model.size_multiple, overlap + 6 * model.size_multiple
    with torch.no_grad():
        whole = model(x)[..., low:high, low:high]
        tile = model(x[..., low - overlap : high + overlap, low - overlap : high + overlap])
    return tile[..., overlap:-overlap, overlap:-overlap], whole


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_tile_agrees_with_the_whole_where_it_overlaps_by_the_radius(depth):
    torch.manual_seed(depth)
    model = RestorationUNet(width=2, depth=depth).double().eval()
    grid = model.size_multiple
    overlap = -(-model.receptive_radius // grid) * grid  # rounded up to the multiple
    x = torch.rand(1, 3, 2 * overlap + 9 * grid, 2 * overlap + 8 * grid, dtype=torch.float64)
    tile, whole = restore_a_tile(model, x, overlap)
    assert tile.shape == whole.shape == (1, 3, 4 * grid, 4 * grid)
    torch.testing.assert_close(tile, whole, rtol=0, atol=1e-10)


def test_a_smaller_overlap_or_aligned_corners_would_not_do():
    torch.manual_seed(0)
    model = RestorationUNet(width=2, depth=3).double().eval()
    x = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    tile, whole = restore_a_tile(model, x, 28)  # 30 is the radius, 32 its next multiple of 4
    assert (tile - whole).abs().max() > 1e-8
    aligned = RestorationUNet(width=2, depth=3, align_corners=True).double().eval()
    aligned.load_state_dict(model.state_dict())
    tile, whole = restore_a_tile(aligned, x, 32)
    assert (tile - whole).abs().max() > 1e-6


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model = RestorationUNet(width=4, depth=3).train()
    x = torch.rand(2, 3, 16, 16)
    calls = []
    model.down_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        assert model.is_gradient_checkpointing == checkpointing
        model.zero_grad()
        model(x).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert len(calls) == 3  # the block was run again
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-8) for p, q in zip(*gradients, strict=True))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("margins", [(0, 0, 0, 5), (13, 0, 22, 9), (31, 32, 40, 17)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_margins_are_left_out_and_the_rest_is_the_same(depth, margins, align_corners):
    torch.manual_seed(0)
    model = RestorationUNet(width=2, depth=depth, align_corners=align_corners).double().eval()
    x = torch.rand(1, 3, 64, 72, dtype=torch.float64)
    top, bottom, left, right = margins
    with torch.no_grad():
        whole = model(x)
        inside = model(x, margins=margins)
    torch.testing.assert_close(inside, whole[:, :, top : 64 - bottom, left : 72 - right], rtol=0, atol=1e-12)


def test_margins_save_work():
    model = RestorationUNet(width=4, depth=4).eval()
    pixels = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: pixels.append(output.numel()))
    with torch.no_grad():
        model(torch.rand(1, 3, 256, 256))
        whole = sum(pixels)
        pixels.clear()
        model(torch.rand(1, 3, 256, 256), margins=(66, 66, 66, 66))
    assert sum(pixels) < 0.6 * whole


def test_margins_change_no_bit_of_photos_in_the_pipelines_order():
    torch.manual_seed(0)
    model = RestorationUNet(width=16, depth=3).eval()
    x = torch.rand(1, 3, 160, 128).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(model(x, margins=(33, 41, 32, 30)), model(x)[:, :, 33 : 160 - 41, 32 : 128 - 30])
