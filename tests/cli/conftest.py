"""A folder of noisy photos, and `daa restore` with a tiny checkpoint."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from daa_diffusers.cli.app import main

from ..photos.files import rich_bytes


@pytest.fixture
def noisy_folder(tmp_path):
    """Three noisy photos of 160 x 200 pixels; the folder's name holds a space."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(3):
        photo = data.coffee()[40 * number : 40 * number + 160, 100:300] + draws.normal(0, 15, (160, 200, 3))
        Image.fromarray(photo.clip(0, 255).round().astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def restore(checkpoint):
    def run(*arguments, guard=False):
        options = ["--checkpoint", checkpoint, "--device", "cpu", *([] if guard else ["--no-guard"])]
        return main(["restore", *map(str, arguments), *options])

    return run


PHOTO = np.ascontiguousarray(data.astronaut()[100:148, 200:264])


NOISY = (PHOTO + np.random.default_rng(0).normal(0, 20, PHOTO.shape)).clip(0, 255).round().astype(np.uint8)


@pytest.fixture
def album(tmp_path):
    album = tmp_path / "album"
    (album / "day 1/ночь").mkdir(parents=True)
    Image.fromarray(NOISY).save(album / "a.png")
    (album / "day 1/b.jpg").write_bytes(rich_bytes("jpeg"))
    (album / "day 1/ночь/c.tif").write_bytes(rich_bytes("tif16"))
    (album / "notes.txt").write_text("no photo")
    return album


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
