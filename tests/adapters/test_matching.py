"""The camera of a photo, and the adapter that was made for it."""

import io

import numpy as np
import pytest
from PIL import Image

from daa_diffusers.adapters import AdapterConfig, Camera, choose_adapter, read_camera
from daa_diffusers.adapters.matching import summarize


def photo(make="Canon", model="Canon EOS 80D", iso=3200, **more):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    exif = image.getexif()
    exif[0x010F], exif[0x0110] = make, model
    exif.get_ifd(0x8769)[0x8827] = iso
    exif.get_ifd(0x8769).update(more)
    content = io.BytesIO()
    image.save(content, "JPEG", exif=exif)
    return content.getvalue()


def test_a_file_its_bytes_an_image_and_its_exif_tell_the_same(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(photo())
    image = Image.open(tmp_path / "photo.jpg")
    wanted = Camera("Canon", "Canon EOS 80D", 3200)
    assert read_camera(tmp_path / "photo.jpg") == read_camera(photo()) == wanted
    assert read_camera(image) == read_camera(image.getexif()) == read_camera(image.convert("L")) == wanted


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_other_formats_tell_as_well(suffix, tmp_path):
    image = Image.open(io.BytesIO(photo()))
    image.save(tmp_path / f"photo.{suffix}", exif=image.getexif())
    assert read_camera(tmp_path / f"photo.{suffix}") == Camera("Canon", "Canon EOS 80D", 3200)


def test_iso_numbers_beyond_16_bits_stand_elsewhere():
    exif = Image.open(io.BytesIO(photo(iso=65535))).getexif()
    exif.get_ifd(0x8769)[0x8832] = 102400
    assert read_camera(exif).iso == 102400


def test_padded_names_and_lists_of_numbers_are_understood():
    assert read_camera(photo("NIKON CORPORATION\0  ", "  NIKON D750 ", (400, 0))) == Camera(
        "NIKON CORPORATION", "NIKON D750", 400
    )


def test_a_photo_that_does_not_tell_gives_nothing(tmp_path):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(tmp_path / "plain.png")
    assert read_camera(tmp_path / "plain.png") == read_camera(image) == read_camera(b"no photo") == Camera()
    assert read_camera(photo()[:200]) in (Camera(), Camera("Canon", "Canon EOS 80D", 3200))
    with pytest.raises(FileNotFoundError):
        read_camera(tmp_path / "none.jpg")
    with pytest.raises(TypeError, match="got ndarray"):
        read_camera(np.zeros((8, 8, 3), np.uint8))


ADAPTERS = {
    "any": AdapterConfig("bias", "x"),
    "canon": AdapterConfig("bias", "x", make="Canon"),
    "canon, high": AdapterConfig("bias", "x", make="Canon", iso=(3200, 25600)),
    "80D": AdapterConfig("bias", "x", make="Canon", models=("Canon EOS 80D", "Canon EOS 70D")),
    "80D, high": AdapterConfig("bias", "x", models=("Canon EOS 80D",), iso=(3200, 12800)),
    "sony": AdapterConfig("bias", "x", make="SONY", iso=(100, 6400)),
}


@pytest.mark.parametrize(
    ("camera", "name"),
    [
        (Camera("Canon", "Canon EOS 80D", 6400), "80D, high"),
        (Camera("Canon", "canon  eos 80d", 12800), "80D, high"),
        (Camera("Canon", "Canon EOS 80D", 25600), "80D"),
        (Camera("Canon", "Canon EOS 80D"), "80D"),  # an unknown ISO number is in no range
        (Camera("CANON", "Canon EOS 5D", 6400), "canon, high"),
        (Camera("Canon", None, 200), "canon"),
        (Camera("Sony", "A7", 200), "sony"),
        (Camera("Sony", "A7", 12800), None),
        (Camera("NIKON", "D750", 200), None),
        (Camera(), None),  # an adapter that states nothing is chosen by hand
    ],
)
def test_the_adapter_that_says_most_of_the_camera_is_chosen(camera, name):
    assert choose_adapter(camera, ADAPTERS) == name


def test_cameras_are_summed_up():
    assert summarize([Camera("Canon", "80D", 800), Camera("Canon", "5D", 3200), Camera()]) == {
        "make": "Canon",
        "models": ["5D", "80D"],
        "iso": [800, 3200],
    }
    assert summarize([Camera("Canon", "80D"), Camera("Sony", "A7")])["make"] is None
    assert summarize([Camera()]) == {"make": None, "models": [], "iso": None}
