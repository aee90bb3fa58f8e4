"""Kinds of photos: PIL modes, alpha, profiles, bit depths and unusual memory of arrays."""

import numpy as np
import PIL.Image
import pytest
import torch

from .conftest import pil
from .contract import photo


@pytest.mark.parametrize(
    ("mode", "restored_mode"),
    [
        ("L", "L"),
        ("1", "L"),
        ("RGB", "RGB"),
        ("P", "RGB"),
        ("YCbCr", "RGB"),
        ("LA", "LA"),
        ("RGBA", "RGBA"),
        ("RGBa", "RGBA"),
        ("I;16", "I;16"),
        ("I;16B", "I;16"),
        ("I", "I;16"),
    ],
)
def test_a_pil_mode_keeps_its_meaning(pipe, mode, restored_mode):
    image = pil(mode)
    restored = pipe(image).images[0]
    assert (restored.mode, restored.size) == (restored_mode, image.size)
    reference = image if mode in ("I", "I;16B") else image.convert(restored_mode)
    difference = np.array(restored).astype(float) - np.array(reference).astype(float)
    top = 65535 if restored_mode == "I;16" else 255
    assert 0 < np.abs(difference).mean() < 0.2 * top
    array = pipe(image, output_type="np", as_float=False).images[0]
    assert np.array_equal(array, np.array(restored))
    floats = pipe(image, output_type="np").images[0]
    assert floats.dtype == np.float32 and np.abs(floats - array / top).max() <= 0.5 / top + 1e-6


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_comes_back_untouched(pipe, mode):
    image = pil(mode)
    alpha = np.array(image)[:, :, -1]
    assert np.ptp(alpha) > 100
    assert np.array_equal(np.array(pipe(image).images[0])[:, :, -1], alpha)
    array = np.array(image).astype(np.float32) / 255
    assert np.array_equal(pipe(array, output_type="np").images[0][:, :, -1], array[:, :, -1])
    deep = np.array(image).astype(np.uint16) * 257
    assert np.array_equal(pipe(deep, output_type="np").images[0][:, :, -1], deep[:, :, -1])
    as_tensor = pipe(image, output_type="pt", as_float=False).images
    assert as_tensor.shape[1] == len(mode) and np.array_equal(as_tensor[0, -1].numpy(), alpha)
    # alpha is no input: the colors are those of the photo without it
    opaque = pipe(np.array(image)[:, :, :-1], output_type="np").images[0]
    assert np.array_equal(pipe(np.array(image), output_type="np").images[0][:, :, :-1], opaque)


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_color_becomes_alpha(pipe, mode, tmp_path):
    image = PIL.Image.new(mode, (8, 8))
    if mode == "P":
        image.putpalette([200, 100, 50, 1, 1, 1])
    image.paste(1 if mode != "RGB" else (1, 1, 1), (0, 0, 4, 8))
    image.save(tmp_path / "key.png", transparency=1 if mode != "RGB" else (1, 1, 1))
    restored = pipe(PIL.Image.open(tmp_path / "key.png")).images[0]
    assert restored.mode == ("LA" if mode == "L" else "RGBA")
    alpha = np.array(restored)[:, :, -1]
    assert (alpha[:, :4] == 0).all() and (alpha[:, 4:] == 255).all()
    restored.save(tmp_path / "restored.png")
    assert np.array_equal(np.array(PIL.Image.open(tmp_path / "restored.png")), np.array(restored))


def test_profile_and_exif_stay_with_a_pil_image(pipe, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x010F] = "A camera"
    pil("RGB").save(tmp_path / "photo.png", icc_profile=b"a profile", exif=exif, dpi=(300, 300))
    restored = pipe(PIL.Image.open(tmp_path / "photo.png")).images[0]
    restored.save(tmp_path / "restored.png", exif=restored.getexif())
    again = PIL.Image.open(tmp_path / "restored.png")
    assert again.info["icc_profile"] == b"a profile"
    assert again.getexif()[0x010F] == "A camera"


def test_sixteen_bits_are_not_eight(pipe):
    """Neighboring 16-bit levels stay apart, as they could not in 8 bits."""
    ramp = np.arange(30000, 30000 + 32 * 32, dtype=np.uint16).reshape(32, 32)
    restored = np.array(pipe(PIL.Image.fromarray(ramp)).images[0])
    assert restored.dtype == np.uint16 and len(np.unique(restored)) > 200
    assert len(np.unique(restored // 257)) < 60


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colors_do_not_fit_a_pil_image(pipe, channels):
    with pytest.raises(ValueError, match='`output_type` "pil" supports 8 bits for colors.*choose "np" or "pt"'):
        pipe(np.zeros((4, 4, channels), np.uint16))


def test_bfloat16_pixels_become_float32_where_numpy_has_no_such_type(pipe):
    degraded = torch.rand(3, 8, 8).bfloat16()
    assert pipe(degraded, output_type="pt").images.dtype == torch.bfloat16
    assert pipe(degraded, output_type="np").images.dtype == np.float32


@pytest.mark.parametrize("change", ["flipped", "read-only", "big-endian", "strided"])
def test_unusual_memory_of_an_array_makes_no_difference(pipe, change):
    array = photo(16, 20).astype(np.uint16) * 257
    expected = pipe(array, output_type="np").images
    if change == "flipped":
        array = np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    elif change == "read-only":
        array = array.copy()
        array.flags.writeable = False
    elif change == "big-endian":
        array = array.astype(">u2")
    else:
        array = np.repeat(array, 2, axis=1)[:, ::2]
    assert np.array_equal(pipe(array, output_type="np").images, expected)
