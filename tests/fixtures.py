"""Fixtures of several rooms: small folders of real photos, the options of a short run, a disk that is soon full."""

import subprocess

import numpy as np
import pytest
import skimage.data
from PIL import Image

from .photo_folders import write_photos


@pytest.fixture
def clean_folder(tmp_path):
    return write_photos(tmp_path / "clean", 5)


@pytest.fixture
def real_folder(tmp_path):
    return write_photos(tmp_path / "real", 3, photo=skimage.data.chelsea())


@pytest.fixture(scope="session")
def photo_folders(tmp_path_factory):
    """`clean`, `real` and a paired `degraded` folder: small cuts of photos, with a space in a name."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    astronaut, cat = skimage.data.astronaut(), skimage.data.chelsea()
    for name in ("clean", "real", "degraded"):
        (root / name).mkdir()
    for index in range(4):
        cut = astronaut[40 * index : 40 * index + 48, 100:164]
        noisy = np.clip(cut + rng.normal(0, 25, cut.shape), 0, 255).astype(np.uint8)
        Image.fromarray(cut).save(root / "clean" / f"photo {index}.png")
        Image.fromarray(noisy).save(root / "degraded" / f"photo {index}.png")
        real = cat[20 * index : 20 * index + 40, 50:114]
        real = np.clip(real + rng.normal(0, 20, real.shape), 0, 255).astype(np.uint8)
        Image.fromarray(real).save(root / "real" / f"cat_{index}.jpg", quality=90)
    return root


@pytest.fixture
def tiny_config(photo_folders, tmp_path):
    """Options of a run that takes a second or two; override by keywords."""
    from daa_diffusers.training.config import resolve

    def make(**changes):
        options = {
            "preset": "tiny",
            "output_dir": str(tmp_path / "run"),
            "clean": [str(photo_folders / "clean")],
            "real": [str(photo_folders / "real")],
            "objective": {
                "type": "noise_space",
                "noise_predictor_options": {
                    "block_out_channels": [8, 16],
                    "layers_per_block": 1,
                    "norm_num_groups": 4,
                    "attention_head_dim": 8,
                },
            },
            "patch": 16,
            "batch_size": 2,
            "steps": 6,
            "log_every": 1,
            "checkpoint_every": 2,
            "validate_every": 0,
            "report_to": "none",
            "health": False,  # has tests of its own
            "threads": 1,
        }
        return resolve(options, changes)

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder of a tiny restorer of random weights, which changes photos visibly."""
    import torch

    from daa_diffusers import DAARestorationPipeline, RestorationUNet

    torch.manual_seed(0)
    restorer = RestorationUNet(width=4, depth=2)
    for parameter in restorer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("checkpoint")
    DAARestorationPipeline(restorer).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def disk_of(tmp_path):
    """Mounts a file system of a size such as "64k"; the folder's name holds a space."""
    folder = tmp_path / "small disk"

    def mount(size):
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            folder.rmdir()
            pytest.skip("a file system of its own can only be mounted by root")
        return folder

    yield mount
    if folder.exists():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(disk_of):
    """A file system of 64 kB."""
    return disk_of("64k")
