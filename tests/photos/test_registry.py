"""One record a format and one decoder: what is restored is trained on and measured as well."""

import sys

import numpy as np
import pytest
import torch

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation.photo_pairs import PhotoPairs
from daa_diffusers.photos import list_photos, open_photo, read_photo
from daa_diffusers.photos.reading import photo_size
from daa_diffusers.photos.registry import FORMATS, PHOTO_SUFFIXES, REGISTRY, checked_format, suffix_for
from daa_diffusers.photos.stored import upright
from daa_diffusers.sources.folders import PhotoFolder

from .files import PHOTO, SUFFIX, dng, heic_file, pillow_bytes, rich_bytes


def test_records_share_no_name_and_no_suffix_and_are_written_somehow():
    names = [name for one in REGISTRY for name in (one.name, *one.aliases)]
    suffixes = [suffix for one in REGISTRY for suffix in one.suffixes]
    assert len(names) == len(set(names)) and len(suffixes) == len(set(suffixes)) == len(PHOTO_SUFFIXES)
    for one in REGISTRY:
        assert (one.write is None) == (one.name not in FORMATS) and (one.write or one.saved_as in FORMATS), one.name
        assert all(checked_format(alias.upper()) == one.name for alias in (*one.aliases, *[one.name] * bool(one.write)))
    assert (suffix_for(".NEF"), suffix_for(".JPG"), suffix_for(".nef", "jpeg")) == (".tif", ".JPG", ".jpg")


def album(folder):
    """A photo of every format, stored sideways where the format can say so."""
    folder.mkdir()
    for kind, suffix in SUFFIX.items():
        (folder / f"{kind}.{suffix}").write_bytes(rich_bytes(kind, orientation=6))
    (folder / "bmp.bmp").write_bytes(pillow_bytes(PHOTO, "BMP"))
    (folder / "pnm.ppm").write_bytes(b"P6\n60 40\n1023\n" + (PHOTO.astype(">u2") * 4).tobytes())
    heic_file(folder / "heic.heic", PHOTO)
    pytest.importorskip("rawpy")
    dng(folder / "raw.dng")
    return folder


def test_every_format_is_trained_on_and_measured_as_it_is_restored(tmp_path):
    folder = album(tmp_path / "album")
    paths = list_photos(folder)
    assert len(paths) == len(SUFFIX) + 4
    source, pairs = PhotoFolder(folder), PhotoPairs(folder)
    for index, path in enumerate(paths):
        opened = open_photo(path)
        expected = upright(opened.pixels, opened.orientation)
        np.testing.assert_array_equal(read_photo(path), expected, err_msg=path.name)
        np.testing.assert_array_equal(source.photo(index).permute(1, 2, 0).numpy(), expected, err_msg=path.name)
        assert pairs.read(index)[0].shape[1:] == expected.shape[:2]
        stored = (128, 192) if path.suffix == ".dng" else opened.pixels.shape[:2]  # developed upright
        assert photo_size(path) == photo_size(path.read_bytes(), path.name) == source.size(index) == stored[::-1]
    assert not source.skipped


class FromWorker(torch.utils.data.Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source.photo(index)


def test_loader_processes_decode_every_format(tmp_path):
    source = PhotoFolder(album(tmp_path / "album"), cache_bytes=0)
    loader = torch.utils.data.DataLoader(FromWorker(source), batch_size=None, num_workers=1)
    for index, photo in enumerate(loader):
        assert torch.equal(photo, source.photo(index))


def test_a_missing_package_leaves_its_photos_out_of_training_by_name(tmp_path, monkeypatch):
    heic_file(tmp_path / "phone.heic", PHOTO)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    source = PhotoFolder(tmp_path, argument="real")
    with pytest.raises(ConfigurationError, match=r"`real`: none of .*phone\.heic.*daa-diffusers\[heic\]"):
        source.photo(0)
    (tmp_path / "camera.png").write_bytes(pillow_bytes(PHOTO, "PNG"))
    source = PhotoFolder(tmp_path)
    assert source.photo(1).shape == (3, 40, 60)
    assert "pillow-heif" in source.skipped[tmp_path / "phone.heic"]
