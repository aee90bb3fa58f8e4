"""Files and folders of other libraries' networks: recognized, or refused with the reason."""

import pytest
import torch
from safetensors.torch import save_file

from daa_diffusers import ForeignRestorer, RestorationUNet

from .networks import Layers, nafnet, swin2sr, swinir

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
    with pytest.raises(ValueError, match=r"'mine.pth' has no architecture .*layers.0.weight.*Tried: .*NAFNet.*wrap"):
        ForeignRestorer.from_checkpoint(tmp_path / "mine.pth")


def test_a_checkpoint_that_enlarges_is_refused_with_its_scale(tmp_path):
    torch.save(swinir(upscale=2, upsampler="pixelshuffledirect").state_dict(), tmp_path / "x2.pth")
    with pytest.raises(ValueError, match="SwinIR.* enlarges photos 2 times; a restorer must keep the size"):
        ForeignRestorer.from_checkpoint(tmp_path / "x2.pth")
    with pytest.raises(ValueError, match=r"enlarges photos 2 times \(config.upscale\).*upscale=1"):
        ForeignRestorer.wrap(swin2sr(upscale=2, upsampler="pixelshuffle"))


def test_other_models_of_transformers_are_refused():
    from transformers import Swin2SRConfig, Swin2SRModel

    with pytest.raises(
        ValueError, match="only image-to-image models of transformers can restore: Swin2SR.*got Swin2SRModel"
    ):
        ForeignRestorer.wrap(Swin2SRModel(Swin2SRConfig(embed_dim=12, depths=[1], num_heads=[2])))


def test_a_missing_file_the_own_u_net_and_a_lone_tensor_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        ForeignRestorer.from_checkpoint(tmp_path / "nowhere.pth")
    torch.save(RestorationUNet(width=4, depth=2).state_dict(), tmp_path / "own.pth")
    with pytest.raises(ValueError, match="holds a U-Net of Noise-DA"):
        ForeignRestorer.from_checkpoint(tmp_path / "own.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match=r"must hold a state dict \(tensors by name\), got Tensor"):
        ForeignRestorer.from_checkpoint(tmp_path / "tensor.pth")
