"""The formats of the extras: telephones' HEIC, cameras' raw files."""

import sys

import numpy as np
import pytest

from daa_diffusers.errors import ConfigurationError, UnreadablePhotoError
from daa_diffusers.photos import open_photo, save_photo
from daa_diffusers.photos.exif import read_tags, reader_of
from daa_diffusers.photos.stored import with_bits

from .files import ALPHA, DEEP, MAKER_NOTE, PHOTO, WIDE, XMP, dng, exif, heic_file


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "10 bits", "gray"])
def test_heic_in_heic_out(tmp_path, kind):
    pixels = {"RGB": PHOTO, "RGBA": np.dstack([PHOTO, ALPHA]), "10 bits": DEEP, "gray": PHOTO[..., :1]}[kind]
    photo = open_photo(heic_file(tmp_path / "a.heic", pixels, exif=b"Exif\0\0" + exif(1)))
    assert photo.pixels.shape[2] == (1 if kind == "gray" else 3) and photo.bits == (16 if kind == "10 bits" else 8)
    assert np.abs(with_bits(photo.pixels, 8).astype(int) - with_bits(pixels[..., :3], 8)).mean() < 4
    if kind == "10 bits":
        assert photo.pixels.max() == 65535 and len(np.unique(photo.pixels)) > 256
    saved = save_photo(tmp_path / "b.heic", photo)
    again = open_photo(saved.path)
    assert again.encoding == photo.encoding and again.bits == photo.bits and saved.notes == ()
    assert np.abs(with_bits(again.pixels, 8).astype(int) - with_bits(photo.pixels, 8)).mean() < 3
    assert again.metadata.icc == WIDE and again.metadata.xmp == XMP
    tags = read_tags(reader_of(again.metadata.exif))
    assert tags.exif[0x927C].data == MAKER_NOTE and len(tags.gps) == 5
    assert (again.alpha is None) == (kind != "RGBA")


def test_heic_comes_upright_once(tmp_path):
    path = heic_file(tmp_path / "a.heic", PHOTO, exif=b"Exif\0\0" + exif(6))
    photo = open_photo(path)
    save_photo(tmp_path / "b.jpg", photo, format="jpeg")
    turned = np.rot90(PHOTO, -1)
    for opened in (photo, open_photo(tmp_path / "b.jpg")):
        assert opened.orientation == 1 and opened.pixels.shape == turned.shape
        assert np.abs(opened.pixels.astype(int) - turned).mean() < 5


def test_heic_is_limited_damaged_and_missing_like_all_others(tmp_path, monkeypatch):
    path = heic_file(tmp_path / "a.heic", PHOTO)
    with pytest.raises(UnreadablePhotoError, match="60 x 40 pixels are more than `max_megapixels` 0.001"):
        open_photo(path, max_megapixels=0.001)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for turn in range(60):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[rng.integers(len(damaged) if turn % 2 else 400)] = rng.integers(256)
        (tmp_path / "b.heic").write_bytes(damaged[: rng.integers(20, len(damaged))] if turn % 3 == 0 else damaged)
        try:
            assert open_photo(tmp_path / "b.heic", max_megapixels=1).pixels.dtype in (np.uint8, np.uint16)
        except UnreadablePhotoError as error:
            assert "b.heic" in str(error)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ConfigurationError, match=r"daa-diffusers\[heic\]"):
        open_photo(path)


def test_raw_is_developed_upright_to_a_tiff_of_16_bits(tmp_path):
    pytest.importorskip("rawpy")
    photo = open_photo(dng(tmp_path / "a.dng"))
    assert photo.pixels.dtype == np.uint16 and photo.pixels.shape[2] == 3
    assert photo.pixels.shape[0] > photo.pixels.shape[1]  # orientation 6
    assert "developed from raw" in photo.notes[0] and photo.metadata.icc is not None
    saved = save_photo(tmp_path / "b.tif", photo)
    again = open_photo(saved.path)
    assert (again.format, again.bits, again.orientation) == ("TIFF", 16, 1)
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert read_tags(reader_of(again.metadata.exif)).main[0x0110].data == b"Canon EOS 6D\0"


def test_raw_is_limited_damaged_and_missing_like_all_others(tmp_path, monkeypatch):
    pytest.importorskip("rawpy")
    path = dng(tmp_path / "a.dng")
    with pytest.raises(UnreadablePhotoError, match="`max_megapixels` 0.001"):
        open_photo(path, max_megapixels=0.001)
    (tmp_path / "b.dng").write_bytes(b"no raw file")
    with pytest.raises(UnreadablePhotoError, match="b.dng"):
        open_photo(tmp_path / "b.dng")
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ConfigurationError, match=r"daa-diffusers\[raw\]"):
        open_photo(path)
