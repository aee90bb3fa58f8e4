"""Photos saved as another kind: palettes, CMYK, depth, and notes of what is lost."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from daa_diffusers.photos import open_photo, save_photo

from .conftest import write
from .files import ALPHA, DEEP, PHOTO, SRGB, pillow_bytes, with_chunks


@pytest.mark.parametrize("transparency", [None, 0])
def test_a_palette_becomes_rgb_and_it_is_said(tmp_path, transparency):
    image = Image.fromarray(PHOTO).quantize(64)
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    photo = open_photo(tmp_path / "a.png")
    wanted = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"))
    np.testing.assert_array_equal(photo.pixels, wanted[..., :3])
    assert (photo.alpha is None) == (transparency is None)
    assert photo.notes == (f"the palette became {'RGB' if transparency is None else 'RGBA'}",)
    saved = save_photo(tmp_path / "b.png", photo)
    np.testing.assert_array_equal(np.asarray(Image.open(saved.path).convert("RGBA")), wanted)


def test_color_keys_and_black_and_white(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png", transparency=tuple(int(v) for v in PHOTO[3, 4]))
    photo = open_photo(tmp_path / "a.png")
    assert photo.alpha[3, 4] == 0 and (photo.alpha == 255).mean() > 0.9 and "transparent color" in photo.notes[0]
    Image.fromarray(PHOTO[..., 0] > 99).save(tmp_path / "b.png")
    photo = open_photo(tmp_path / "b.png")
    np.testing.assert_array_equal(photo.pixels[..., 0], (PHOTO[..., 0] > 99) * np.uint8(255))
    assert photo.alpha is None and "black and white" in photo.notes[0]


def test_cmyk_is_converted_and_said(tmp_path):
    image = Image.fromarray(PHOTO).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=95)
    photo = open_photo(tmp_path / "a.jpg")
    assert photo.pixels.shape == PHOTO.shape and "without a color profile" in photo.notes[0]
    assert photo.metadata.icc is not None and ImageCms.getProfileDescription(
        ImageCms.ImageCmsProfile(io.BytesIO(photo.metadata.icc))
    ).startswith("sRGB")
    save_photo(tmp_path / "b.jpg", photo)
    assert Image.open(tmp_path / "b.jpg").mode == "RGB"
    image.save(tmp_path / "c.tif", icc_profile=SRGB)  # a profile of the wrong kind
    assert "without a color profile" in open_photo(tmp_path / "c.tif").notes[0]


def test_the_profile_of_what_is_converted_is_always_the_same(tmp_path):
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "a.tif")
    made = open_photo(tmp_path / "a.tif").metadata.icc[24:36]  # the profile's date: runs are to give the same bytes
    assert made == struct.pack(">6H", 2026, 1, 1, 0, 0, 0)


def test_unknown_chunks_stay_where_they_say_that_they_may_unless_they_may_hold_a_place(tmp_path):
    chunks = (b"vpAg", b"private"), (b"vpAG", b"of these pixels")
    photo = open_photo(write(tmp_path, "png8", with_chunks(pillow_bytes(PHOTO, "PNG"), *chunks)))
    kept = save_photo(tmp_path / "a.png", photo).path.read_bytes()
    assert b"vpAgprivate" in kept and b"vpAG" not in kept
    assert b"vpAg" not in save_photo(tmp_path / "b.png", photo, strip_location=True).path.read_bytes()


def test_lab_and_floats_are_refused(tmp_path):
    lab = ImageCms.applyTransform(
        Image.fromarray(PHOTO),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    lab.save(tmp_path / "lab.tif")
    with pytest.raises(ValueError, match="lab.tif.*CIELAB"):
        open_photo(tmp_path / "lab.tif")
    tifffile.imwrite(tmp_path / "f.tif", PHOTO.astype(np.float32), photometric="rgb")
    with pytest.raises(ValueError, match="float; unsigned integers of 8 or 16 bits"):
        open_photo(tmp_path / "f.tif")


@pytest.mark.parametrize("largest", [65535, 4095, 1023, 15])
def test_netpbm_keeps_its_largest_value(tmp_path, largest):
    values = (DEEP.astype(int) * largest // 65535).astype(">u2" if largest > 255 else "u1")
    content = b"P6\n# a comment\n60 40\n%d\n" % largest + values.tobytes()
    (tmp_path / "a.ppm").write_bytes(content)
    photo = open_photo(tmp_path / "a.ppm")
    assert photo.pixels.dtype == np.uint16
    save_photo(tmp_path / "b.ppm", photo)
    assert (tmp_path / "b.ppm").read_bytes() == content.replace(b"# a comment\n", b"")
    (tmp_path / "a.pgm").write_bytes(b"P5 60 40 %d\n" % largest + values[..., 0].tobytes())
    assert open_photo(tmp_path / "a.pgm").pixels.shape == (40, 60, 1)


def test_lossless_webp_stays_lossless_below_transparent_pixels_too(tmp_path):
    values = np.dstack([PHOTO, ALPHA])
    write(tmp_path, "webp", pillow_bytes(values, "WEBP", lossless=True, exact=True))
    photo = open_photo(tmp_path / "photo webp.webp")
    save_photo(tmp_path / "b.webp", photo)
    again = open_photo(tmp_path / "b.webp")
    np.testing.assert_array_equal(again.pixels, PHOTO)
    np.testing.assert_array_equal(again.alpha, ALPHA)


def test_depth_is_rounded_and_asked_for(tmp_path):
    deep = open_photo(write(tmp_path, "png16"))
    save_photo(tmp_path / "a.png", deep, bits=8)
    eight = open_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(eight.pixels, np.rint(DEEP / 257).astype(np.uint8))
    save_photo(tmp_path / "b.png", eight, bits=16)
    np.testing.assert_array_equal(open_photo(tmp_path / "b.png").pixels, eight.pixels.astype(np.uint16) * 257)
    assert "16 bits became 8" in save_photo(tmp_path / "c.jpg", deep, format="jpeg").notes
