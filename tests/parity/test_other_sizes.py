"""Sizes that no golden has: the package's networks against `reference`, weights going there and back.

In float64, where only a true difference is larger than the tolerance: untrained networks amplify rounding.
"""

import pytest
import torch

from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.models.restoration_unet import RestorationUNet
from daa_diffusers.official.convert import convert_official_state_dict

from ..official.to_official import to_official_state_dict
from . import reference

TOLERANCE = 2e-5


def under(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def shake(model: torch.nn.Module) -> None:
    """Random norms and biases: fresh ones are ones and zeros, and would hide a mix-up."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


def relative(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """In units of the reference's spread: untrained networks give large values."""
    return tensor / scale.std()


def test_the_reference_reproduces_the_goldens(golden, table):
    restorer = under(golden.weights, "RestorationNet.")
    for kind in ("synthetic", "real"):
        ours = reference.restore(restorer, golden[f"input.{kind}"], depth=4)
        table.add(f"restored_{kind}", ours, golden[f"output.restored_{kind}"], tolerance=TOLERANCE)
    sizes = golden.config["unet"]
    for i, nine_channels in golden.under("output.denoiser_input_").items():
        ours = reference.predict_noise(
            under(golden.weights, "denoise_fn."),
            nine_channels,
            golden["draw.noise_level"],
            levels=len(sizes["channel_mults"]),
            layers=sizes["res_blocks"],
            groups=32,
            head_channels=sizes["num_head_channels"],
        )
        table.add(f"noise_prediction_{i}", ours, golden[f"output.noise_prediction_{i}"], tolerance=TOLERANCE)
    table.check()


@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 64, "depth": 4},  # the paper's
        {"width": 6, "depth": 1},
        {"width": 5, "depth": 2, "channels": 1},
        {"width": 4, "depth": 3, "channels": 4},
        {"width": 3, "depth": 5},
    ],
    ids=lambda sizes: "-".join(f"{value}" for value in sizes.values()),
)
def test_restorers_of_other_sizes(sizes, table):
    torch.manual_seed(0)
    model = RestorationUNet(**sizes, align_corners=True).eval()
    shake(model)
    official = to_official_state_dict(model.double())
    converted, unet = convert_official_state_dict(official)
    assert unet is None
    assert {name: converted.config[name] for name in sizes} == sizes
    x = torch.rand(2, model.config.channels, 2 * model.size_multiple, 3 * model.size_multiple, dtype=torch.float64)
    with torch.no_grad():
        expected = reference.restore(official, x, depth=model.config.depth)
        for name, network in (("restored", model), ("the same, converted back", converted.double())):
            table.add(name, relative(network(x), expected), relative(expected, expected), tolerance=TOLERANCE)
    table.check()


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"block_out_channels": (64, 128, 256, 512)}, marks=pytest.mark.slow),  # the paper's
        {"block_out_channels": (16,), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 4},
        {"block_out_channels": (8, 24), "layers_per_block": 3, "norm_num_groups": 4, "attention_head_dim": 8},
        {"block_out_channels": (16, 8, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 32},
        {"block_out_channels": (8,) * 5, "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 2},
        {"block_out_channels": (8, 16), "layers_per_block": 5, "norm_num_groups": 8, "attention_head_dim": 8},
        {
            "in_channels": 3,
            "out_channels": 1,
            "block_out_channels": (8, 8),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        },
    ],
    ids=lambda sizes: "-".join(f"{value}" for value in sizes.values()).replace(" ", ""),
)
def test_noise_predictors_of_other_sizes(sizes, table):
    torch.manual_seed(0)
    model = DAAUNet2DConditionModel(**sizes, dropout=0.1).eval()
    shake(model)
    restorer = RestorationUNet(channels=model.config.out_channels, width=2, depth=1, align_corners=True)
    official = to_official_state_dict(restorer.double(), model.double())
    heads, groups = model.config.attention_head_dim, model.config.norm_num_groups
    _, converted = convert_official_state_dict(official, head_channels=heads, groups=groups, dropout=0.1)
    assert {name: converted.config[name] for name in model.config} == dict(model.config)
    x = torch.randn(2, model.config.in_channels, 2 * model.size_multiple, model.size_multiple, dtype=torch.float64)
    levels = torch.tensor([0.2, 0.999])
    with torch.no_grad():
        expected = reference.predict_noise(
            under(official, "denoise_fn."),
            x,
            levels,
            levels=len(model.config.block_out_channels),
            layers=model.config.layers_per_block,
            groups=groups,
            head_channels=heads,
        )
        for name, network in (("noise_prediction", model), ("the same, converted back", converted.double())):
            predicted = network(x, levels).sample
            table.add(name, relative(predicted, expected), relative(expected, expected), tolerance=TOLERANCE)
    table.check()
