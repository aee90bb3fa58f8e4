"""Networks saved where the disk is full, or that is no folder: a message, and what was there stays."""

import shutil

import pytest
import torch

from daa_diffusers import DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.files import UnwritableError
from daa_diffusers.foreign.restorer import ForeignRestorer

from ..foreign.networks import dncnn


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NETWORKS = {
    "a restorer": lambda: RestorationUNet(width=4, depth=2),
    "a foreign one": lambda: ForeignRestorer.wrap(dncnn()),
    "a noise predictor": lambda: DAAUNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_full_disk_is_named_with_what_is_needed_and_the_earlier_weights_stay(name, disk_of):
    disk, network = disk_of("4m"), NETWORKS[name]()
    network.save_pretrained(disk / "kept")
    before = contents(disk)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
    for target in ("kept", "new"):
        full = f"the disk of '{disk}.*' is full: '{target}' needs about .* kB, .* are free; make room"
        with pytest.raises(UnwritableError, match=full):
            network.save_pretrained(disk / target)
    (disk / "ballast").unlink()
    assert contents(disk) == before and [path.name for path in disk.iterdir()] == ["kept"]
    network.save_pretrained(disk / "kept")
    loaded = type(network).from_pretrained(disk / "kept")
    assert all(torch.equal(one, other) for one, other in zip(loaded.parameters(), network.parameters(), strict=True))


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UnwritableError, match="taken' is not a folder"):
        RestorationUNet(width=4, depth=2).save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file"


def test_one_file_replaces_earlier_shards_and_shards_a_file(tmp_path):
    network = RestorationUNet(width=4, depth=2)
    network.save_pretrained(tmp_path)
    network.save_pretrained(tmp_path, max_shard_size="4KB")
    shards = list(tmp_path.glob("*-of-*.safetensors"))
    assert len(shards) > 1 and not (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    network.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "diffusion_pytorch_model.fp16.safetensors").exists() and shards[0].exists()
    network.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*-of-*")) and not list(tmp_path.glob("*index.json"))
    RestorationUNet.from_pretrained(tmp_path)


def test_an_argument_that_has_no_effect_is_named(tmp_path, caplog):
    RestorationUNet(width=4, depth=2).save_pretrained(tmp_path, use_flashpack=True)
    assert "ignores `use_flashpack`" in caplog.text and (tmp_path / "diffusion_pytorch_model.safetensors").exists()
