"""Photos in all the places that bulk restoration reads, and a job over them."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from skimage import data

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.bulk import BulkSettings, plan_job
from daa_diffusers.restoring.options import Options

from ..photos.files import rich_bytes

PHOTO = np.ascontiguousarray(data.astronaut()[100:148, 200:264])


def noisy(seed):
    noise = np.random.default_rng(seed).normal(0, 20, PHOTO.shape)
    return Image.fromarray((PHOTO + noise).clip(0, 255).round().astype(np.uint8))


def png(seed):
    stream = io.BytesIO()
    noisy(seed).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_files(path):
    """Name -> content, in order."""
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def pipeline(checkpoint):
    pipeline = DAARestorationPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def album(tmp_path):
    """Seven files, of which one is no photo and one is cut short."""
    album = tmp_path / "album"
    (album / "day 1").mkdir(parents=True)
    for number in range(3):
        (album / f"{number}.png").write_bytes(png(number))
    (album / "bad.jpg").write_bytes(b"no photo")
    (album / "cut.png").write_bytes(png(7)[:900])
    (album / "day 1/b.v2.jpg").write_bytes(rich_bytes("jpeg"))
    (album / "day 1/c.tif").write_bytes(rich_bytes("tif16"))
    return album


@pytest.fixture
def plan(tmp_path, checkpoint):
    """Plans a job in tmp_path/out over sources."""

    def plan(*sources, photos_per_shard=3, fingerprint=None, folder="out", **options):
        options = Options(**{"guard": False, **options})
        settings = BulkSettings(tuple(map(str, sources)), checkpoint, "float32", photos_per_shard, options)
        return plan_job(tmp_path / folder, settings, fingerprint)

    return plan
