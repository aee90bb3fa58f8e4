"""A tiny checkpoint and a few photos of the kinds that people bring."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers import DAARestorationPipeline, RestorationUNet


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("demo") / "tiny"
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    """A JPEG that lies on its side and says so, a PNG with transparency, and a file that is no photo."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    Image.fromarray(data.coffee()[100:196, 200:328]).save(folder / "side.jpg", quality=92, exif=exif)
    alpha = np.linspace(0, 255, 64).round().astype(np.uint8)[:, None].repeat(80, 1)
    Image.fromarray(np.dstack([data.astronaut()[:64, 200:280], alpha])).save(folder / "glass.png")
    (folder / "no photo.jpg").write_bytes(b"a letter")
    return {path.name: str(path) for path in folder.iterdir()}
