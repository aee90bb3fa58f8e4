"""Archives and datasets of small photos."""

import io
import tarfile

import datasets
import numpy as np
import pytest
from PIL import Image

from daa_diffusers.degradations.gaussian import BlindGaussian
from daa_diffusers.sources.specs import StreamSource

NOISE = BlindGaussian(10, 10)


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def pack(path, files):
    """A tar file of `files`: name and content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def files_in(folder):
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def table(files, **columns):
    """A map-style dataset of encoded images, as parquet files and `save_to_disk` hold them."""
    images = {"image": [{"bytes": content, "path": name} for name, content in files]}
    features = {name: datasets.Image() for name in ({**images, **columns})}
    return datasets.Dataset.from_dict({**images, **columns}, features=datasets.Features(features))


def stream(count, window, **options):
    """`count` photos of 4 x 4 pixels, number n being n everywhere."""
    files = []
    for value in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(buffer, "png")
        files.append((f"{value}.png", buffer.getvalue()))
    dataset = table(files).to_iterable_dataset(num_shards=min(2, count))
    return StreamSource(dataset, window=window, channels=1, **options)
