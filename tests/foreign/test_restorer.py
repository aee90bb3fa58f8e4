"""Networks of other makes as restorers: each keeps the contract; unfit ones are refused with what to declare."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from daa_diffusers import DAARestorationPipeline, ForeignRestorer, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.foreign.probe import Traits, measure_reach
from daa_diffusers.objectives.base import Batch
from daa_diffusers.pipelines.tiling import auto_tile
from daa_diffusers.training.config import resolve
from daa_diffusers.training.loop import train
from daa_diffusers.training.setup import build_model, prepare_networks

from ..models.contract import DiffusersContract, ModelContract
from .foreign_contract import ForeignContract

architectures = pytest.importorskip("spandrel.architectures", reason='needs the extra "zoo"')


def nafnet(**options):
    from spandrel.architectures.NAFNet import NAFNet

    return NAFNet(**{"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], **options})


def dncnn(**options):
    from spandrel.architectures.DnCNN import DnCNN

    return DnCNN(**{"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 5, "act_mode": "R", **options})


def swinir(**options):
    from spandrel.architectures.SwinIR import SwinIR

    sizes = {"img_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "mlp_ratio": 2.0}
    return SwinIR(**{**sizes, "upscale": 1, "upsampler": "", **options})


def swin2sr(**options):
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    sizes = {"image_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "num_channels": 1}
    return Swin2SRForImageSuperResolution(Swin2SRConfig(**{**sizes, "upscale": 1, "upsampler": "", **options}))


class Layers(nn.Module):
    """A user's network, which takes [-1, 1] and gives the noise."""

    def __init__(self, width: int, depth: int = 3, normalize: bool = False):
        super().__init__()
        self.width, self.depth, self.normalize = width, depth, normalize
        layers = [nn.Conv2d(3, width, 3, padding=1)]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1)]
            layers += [nn.BatchNorm2d(width)] if normalize else []
            layers += [nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x):
        return self.layers(x)


class TestNAFNet(ForeignContract):
    is_global = True

    def network(self):
        network = nafnet()
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                nn.init.normal_(parameter, std=0.3)  # they start at zero, and the blocks would do nothing
        return network


class TestDnCNN(ForeignContract):
    def network(self):
        return dncnn()


class TestDnCNNAsAModelOfDiffusers(DiffusersContract):
    def build(self):
        return ForeignRestorer.wrap(dncnn())

    def inputs(self, batch, height, width, dtype=torch.float32):
        return {"x": ModelContract.photos(batch, 3, height, width, 1, dtype)}


class TestDnCNNWithBatchNorm(ForeignContract):
    def network(self):
        return dncnn(act_mode="BR")


class TestDRUNet(ForeignContract):
    def restore(self, network, photos):
        level = torch.full_like(photos[:, :1], 15 / 255)
        return network(torch.cat([photos, level], dim=1))

    def network(self):
        from spandrel.architectures.DRUNet import DRUNet

        return DRUNet(in_nc=4, out_nc=3, nc=[8, 8, 8, 16], nb=2)


class TestSwinIR(ForeignContract):
    def network(self):
        return swinir()


@pytest.mark.slow
class TestSCUNet(ForeignContract):
    adaptation = {"steps": 24, "batch_size": 1, "log_every": 6, "learning_rate": 5e-4}

    def network(self):
        from spandrel.architectures.SCUNet import SCUNet

        return SCUNet(config=[1] * 7)


@pytest.mark.slow
class TestUformer(ForeignContract):
    is_global = True  # as far as can be measured: 128 pixels are its least size, and windows at five scales span them
    adaptation = {"steps": 60, "batch_size": 2, "log_every": 12, "learning_rate": 1e-2}

    def network(self):
        from spandrel.architectures.Uformer import Uformer

        return Uformer(embed_dim=4, depths=[1] * 9, num_heads=[1] * 9, dd_in=3)


class TestSwin2SR(ForeignContract):
    def network(self):
        return swin2sr()

    def restore(self, network, photos):
        return network(photos).reconstruction


class TestAModuleOfOnesOwn(ForeignContract):
    options = {"value_range": (-1, 1), "output": "noise"}

    def network(self):
        return Layers(width=8, depth=4)

    def restore(self, network, photos):
        return photos - network(photos)


# --- checkpoint files ---


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("make", [nafnet, swinir], ids=["NAFNet", "SwinIR"])
def test_a_checkpoint_file_is_recognized(tmp_path, make, suffix):
    network = make().eval()
    path = tmp_path / f"my weights{suffix}"
    if suffix == ".pth":
        torch.save({"params": {f"module.{name}": t for name, t in network.state_dict().items()}}, path)
    else:
        save_file(network.state_dict(), path)
    restorer = ForeignRestorer.from_checkpoint(path)
    assert (restorer.config.library, restorer.training) == ("spandrel", False)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(restorer(x), network(x))


def test_a_class_that_spandrel_shows_under_another_name_is_found_again(tmp_path):
    from spandrel.architectures.ESRGAN import ESRGAN

    network = ESRGAN(num_filters=8, num_blocks=1, scale=1)
    assert type(network).__name__ != "ESRGAN"
    restorer = ForeignRestorer.wrap(network)
    assert restorer.config.architecture == "ESRGAN:ESRGAN"
    restorer.save_pretrained(tmp_path)
    assert type(ForeignRestorer.from_pretrained(tmp_path).network) is ESRGAN


def test_a_folder_of_transformers_is_recognized(tmp_path):
    network = swin2sr().eval()
    network.save_pretrained(tmp_path)
    restorer = ForeignRestorer.from_checkpoint(tmp_path)
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(restorer(x), network(x).reconstruction)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the file's code was run",))


def test_a_file_with_code_is_not_opened(tmp_path):
    torch.save({"params": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(
        ValueError, match=r"needs more than tensors \(a \S+Fail\) and is not opened.*ForeignRestorer.wrap"
    ):
        ForeignRestorer.from_checkpoint(tmp_path / "trap.pth")


def test_an_unknown_checkpoint_lists_what_was_tried(tmp_path):
    torch.save(Layers(width=4).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(ValueError, match=r"'mine.pth' is of no architecture .*layers.0.weight.*Tried: .*NAFNet.*wrap"):
        ForeignRestorer.from_checkpoint(tmp_path / "mine.pth")


def test_a_checkpoint_that_enlarges_is_refused_with_its_scale(tmp_path):
    torch.save(swinir(upscale=2, upsampler="pixelshuffledirect").state_dict(), tmp_path / "x2.pth")
    with pytest.raises(ValueError, match="SwinIR.* enlarges photos 2 times; a restorer gives a photo of the size"):
        ForeignRestorer.from_checkpoint(tmp_path / "x2.pth")
    with pytest.raises(ValueError, match=r"enlarges photos 2 times \(config.upscale\).*only upscale=1"):
        ForeignRestorer.wrap(swin2sr(upscale=2, upsampler="pixelshuffle"))


def test_other_models_of_transformers_are_refused():
    from transformers import Swin2SRConfig, Swin2SRModel

    with pytest.raises(ValueError, match="only image-to-image models can restore: Swin2SR.*got Swin2SRModel"):
        ForeignRestorer.wrap(Swin2SRModel(Swin2SRConfig(embed_dim=12, depths=[1], num_heads=[2])))


def test_a_missing_file_the_own_u_net_and_a_lone_tensor_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        ForeignRestorer.from_checkpoint(tmp_path / "nowhere.pth")
    torch.save(RestorationUNet(width=4, depth=2).state_dict(), tmp_path / "own.pth")
    with pytest.raises(ValueError, match="holds the U-Net of this method"):
        ForeignRestorer.from_checkpoint(tmp_path / "own.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="must hold a state dict, tensors by name, got Tensor"):
        ForeignRestorer.from_checkpoint(tmp_path / "tensor.pth")


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
        ("strict", r"multiples of 8, not of 1 alone: declare size_multiple=8"),
        ("crop", r"multiples of 4, not of 1 alone: declare size_multiple=4"),
        ("square", r"square photos only: declare square=True$"),
        ("double", r"\(2, 3, 64, 65\) became \(2, 3, 128, 130\) \(2 times the size\); it must not"),
        ("valid", r"\(2, 3, 64, 65\) became \(2, 3, 62, 63\); it must not"),
        ("tuple", r"returns a list, not a tensor: declare .* output_item=1 \(or 2\)"),
        ("mapping", r"returns a dict, not a tensor: declare .* output_item='restored'"),
        ("dropout", r"not deterministic in eval mode"),
        ("batch", r"otherwise when it shares a batch"),
        ("gray", r"takes 1 channels: declare channels=1"),
        ("none", r"returns a NoneType without a tensor"),
        ("nan", r"gives NaN or infinity"),
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
    with pytest.raises(ValueError, match="NaN or infinite weights: layers.1.bias; the checkpoint is broken"):
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
    with pytest.raises(ValueError, match="`arguments` must be given.*: width of Layers cannot be read off"):
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
    with pytest.raises(ValueError, match="restores otherwise than the network, with the same weights"):
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
    with pytest.raises(ValueError, match=r"'NAFNot:NAFNot' is none of spandrel's: .*NAFNet"):
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
    with pytest.raises(ValueError, match="is a ForeignRestorer already"):
        ForeignRestorer.wrap(restorer)
    with pytest.raises(ValueError, match=r"`x` must be \(B, 3, H, W\), got \(1, 4, 8, 8\)"):
        restorer(torch.rand(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"multiples of 8, got \(8, 12\)"):
        ForeignRestorer.wrap(Faulty("strict"), size_multiple=8)(torch.rand(1, 3, 8, 12))


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
        assert "uses the whole photo" not in caplog.text
        pipe(photo, tile=96)
    assert "uses the whole photo: tiles of 96 px" in caplog.text
