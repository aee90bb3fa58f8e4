"""`daa convert`: official files become pipelines, with their license."""

import json
import types

import pytest
import torch
from safetensors.torch import save_file

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.cli.app import main
from daa_diffusers.errors import CheckpointError

from ..official.to_official import to_official_state_dict
from ..parity import reference

# The official noise predictor has heads of 32 channels and groups of 32.
SMALL = {"block_out_channels": (32, 64), "layers_per_block": 1}


def networks(restorer=None, unet=None):
    torch.manual_seed(0)
    built = (
        RestorationUNet(**{"width": 4, "depth": 3, **(restorer or {})}, align_corners=True),
        DAAUNet2DConditionModel(**(unet or SMALL)),
    )
    for network in built:
        with torch.no_grad():  # fresh norms and biases are ones and zeros, and would hide a mix-up
            for parameter in network.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("task", "low"), [("denoise", 0), ("derain", -1), ("deblur", -1)])
def test_an_official_checkpoint_becomes_a_pipeline_with_its_license(tmp_path, capsys, task, low):
    restorer, unet = networks()
    torch.save(to_official_state_dict(restorer, unet), tmp_path / "200_Network.pth")
    assert main(["convert", str(tmp_path / "200_Network.pth"), str(tmp_path / "out"), "--task", task]) == 0
    assert "S-Lab 1.0: non-commercial" in capsys.readouterr().out
    pipeline = DAARestorationPipeline.from_pretrained(tmp_path / "out", load_noise_predictor=True)
    assert same(pipeline.restorer, restorer) and same(pipeline.unet, unet)
    assert pipeline.value_range == (low, 1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license_name: s-lab-license-1.0" in card and "200_Network.pth" in card and str(tmp_path) not in card
    assert json.loads((tmp_path / "out" / "training.json").read_text())["task"] == task
    assert main(["push", str(tmp_path / "out"), "org/mine", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "license_name: s-lab-license-1.0" in said and 'from_pretrained("org/mine")' in said


@pytest.mark.parametrize("prefix", ["denoise_fn.", "", "module."])
def test_restorer_and_predictor_may_lie_in_two_files(tmp_path, prefix):
    restorer, unet = networks()
    torch.save(to_official_state_dict(restorer), tmp_path / "restorer.pth")
    full = to_official_state_dict(restorer, unet)
    theirs = {name: tensor for name, tensor in full.items() if not name.startswith("RestorationNet.")}
    torch.save({name.replace("denoise_fn.", prefix): t for name, t in theirs.items()}, tmp_path / "predictor.pth")
    arguments = ["--task", "denoise", "--predictor", str(tmp_path / "predictor.pth")]
    assert main(["convert", str(tmp_path / "restorer.pth"), str(tmp_path / "out"), *arguments]) == 0
    pipeline = DAARestorationPipeline.from_pretrained(tmp_path / "out", load_noise_predictor=True)
    assert same(pipeline.restorer, restorer) and same(pipeline.unet, unet)


def test_official_names_in_safetensors_are_converted_and_said_so_when_loaded(tmp_path):
    restorer, _ = networks()
    save_file(to_official_state_dict(restorer), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="convert it first: `daa convert net.safetensors OUT`"):
        DAARestorationPipeline.from_pretrained(tmp_path / "net.safetensors")
    assert main(["convert", str(tmp_path / "net.safetensors"), str(tmp_path / "out"), "--task", "denoise"]) == 0
    assert same(DAARestorationPipeline.from_pretrained(tmp_path / "out").restorer, restorer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.pth", "out"], "`--task` must name the task of the official file"),
        (["net.pth", "out", "--task", "dehaze"], "`--task` must be one of"),
        (["net.pth", "out.onnx", "--task", "denoise"], "to a folder first"),
        (["net.pth", "there", "--task", "denoise"], "`folder` must be new, or contain no pipeline"),
        (["net.pth", "out", "--task", "denoise", "--predictor", "absent.pth"], "absent.pth"),
        (
            ["other.pth", "out", "--task", "denoise"],
            "'other.pth' has no architecture that spandrel recognizes",
        ),
        (["code.pth", "out", "--task", "denoise"], "needs more than tensors"),
        (["absent.pth", "out", "--task", "denoise"], "`checkpoint` must be an existing file"),
        (["there", "elsewhere"], "`output` must end in .onnx"),
        (["there", "out", "--task", "denoise"], "`--task` is only for weight files"),
        (["there.ckpt", "out"], "`output` must end in .onnx for 'there.ckpt'"),  # a pipeline, whatever it is called
    ],
)
def test_what_cannot_be_converted_is_said_in_a_line_and_leaves_nothing(
    tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    torch.save(to_official_state_dict(networks()[0]), "net.pth")
    torch.save({"other": torch.zeros(1)}, "other.pth")
    torch.save({"last.bias": torch.zeros(1), "x": types.SimpleNamespace()}, "code.pth")
    for folder in ("there", "there.ckpt"):
        DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(folder)
    before = sorted(tmp_path.iterdir())
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_full_official_sizes_compute_what_the_official_networks_do(tmp_path):
    """Random weights of the official sizes, by way of a file, against `reference`; in float64."""
    sizes = {"block_out_channels": (64, 128, 256, 512), "layers_per_block": 2}
    restorer, unet = networks({"width": 64, "depth": 4}, sizes)
    assert sum(p.numel() for p in restorer.parameters()) == 8_559_171
    weights = to_official_state_dict(restorer, unet)
    torch.save(weights, tmp_path / "net.pth")
    assert main(["convert", str(tmp_path / "net.pth"), str(tmp_path / "out"), "--task", "denoise"]) == 0
    pipeline = DAARestorationPipeline.from_pretrained(tmp_path / "out", load_noise_predictor=True, dtype=torch.float64)
    weights = {name: tensor.double() for name, tensor in weights.items()}
    theirs = {name.removeprefix("RestorationNet."): t for name, t in weights.items() if name.startswith("Rest")}
    predictors = {name.removeprefix("denoise_fn."): t for name, t in weights.items() if name.startswith("denoise_fn")}
    x = torch.rand(2, 3, 32, 40, dtype=torch.float64)
    nine = torch.randn(2, 9, 32, 40, dtype=torch.float64)
    level = torch.tensor([0.3, 0.9])
    with torch.no_grad():
        expected = reference.restore(theirs, x, depth=4)
        assert (pipeline.restorer(x) - expected).abs().max() <= 1e-9 * expected.std()
        expected = reference.predict_noise(predictors, nine, level, levels=4, layers=2, groups=32, head_channels=32)
        assert (pipeline.unet(nine, level).sample - expected).abs().max() <= 2e-5 * expected.std()
