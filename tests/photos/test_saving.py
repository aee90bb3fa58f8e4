"""Photos saved as they were opened: everything in the file is in the new one."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.photos import open_photo, read_photo, save_photo
from daa_diffusers.photos.exif import orientation_of, read_tags, reader_of
from daa_diffusers.photos.registry import FORMATS
from daa_diffusers.photos.stored import with_bits

from .conftest import write
from .files import ALPHA, DEEP, MAKER_NOTE, PHOTO, SRGB, SUFFIX, WIDE, XMP, exif, pillow_bytes, with_chunks
from .made import ALL

KINDS = list(SUFFIX)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_saving_what_was_opened_keeps_everything(tmp_path, kind, orientation):
    source = write(tmp_path, kind, orientation=orientation)
    photo = open_photo(source)
    saved = save_photo(tmp_path / f"new.{SUFFIX[kind]}", photo)
    again = open_photo(saved.path)
    assert again.format == photo.format and again.bits == photo.bits == saved.bits == (16 if "16" in kind else 8)
    assert again.orientation == photo.orientation == orientation
    assert again.metadata.icc == photo.metadata.icc == WIDE
    assert again.metadata.xmp == photo.metadata.xmp == XMP
    assert again.metadata.dpi == photo.metadata.dpi
    assert saved.notes == ()
    if kind in ("jpeg", "webp", "avif"):
        assert np.abs(again.pixels.astype(int) - photo.pixels).mean() < 3
    else:
        np.testing.assert_array_equal(again.pixels, photo.pixels)
        assert again.encoding == photo.encoding
    if kind == "png8":
        np.testing.assert_array_equal(again.alpha, ALPHA)
    if kind == "png16":
        assert (again.pixels == DEEP).all()
    if kind not in ("webp", "avif"):
        assert again.metadata.dpi == pytest.approx((300, 240), abs=0.02)


@pytest.mark.parametrize("kind", ["jpeg", "png8", "png16", "webp"])
def test_exif_comes_back_byte_for_byte(tmp_path, kind):
    photo = open_photo(write(tmp_path, kind))
    save_photo(tmp_path / "new", photo)
    again = open_photo(tmp_path / "new")
    assert again.metadata.exif == photo.metadata.exif == exif(1)


def test_jpeg_keeps_tables_subsampling_and_segments(tmp_path):
    photo = open_photo(write(tmp_path, "jpeg"))
    save_photo(tmp_path / "new.jpg", photo)
    with Image.open(tmp_path / "photo jpeg.jpg") as old, Image.open(tmp_path / "new.jpg") as new:
        assert old.quantization == new.quantization and len(old.quantization) == 2
        assert [layer[1:3] for layer in old.layer] == [layer[1:3] for layer in new.layer] == [(2, 1), (1, 1), (1, 1)]
        assert new.info["comment"] == b"hello" and new.info["jfif_density"] == (300, 240)
        assert sorted(old.applist) == sorted(new.applist)
    # the same tables and the same pixels: coding again changes next to nothing
    assert np.abs(read_photo(tmp_path / "new.jpg").astype(int) - photo.pixels).max() <= 8


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"subsampling": 0}], ids=str)
def test_jpeg_is_coded_as_it_was(tmp_path, options):
    photo = open_photo(write(tmp_path, "jpeg", pillow_bytes(PHOTO, "JPEG", quality=60, **options)))
    save_photo(tmp_path / "new.jpg", photo)
    assert open_photo(tmp_path / "new.jpg").encoding == photo.encoding
    save_photo(tmp_path / "better.jpg", photo, quality=98)
    assert (tmp_path / "better.jpg").stat().st_size > 1.2 * (tmp_path / "new.jpg").stat().st_size
    assert open_photo(tmp_path / "better.jpg").encoding.subsampling == photo.encoding.subsampling


def test_gray_jpeg_stays_gray(tmp_path):
    photo = open_photo(write(tmp_path, "jpeg", pillow_bytes(PHOTO[..., 0], "JPEG", quality=80)))
    assert photo.pixels.shape == (40, 60, 1)
    save_photo(tmp_path / "new.jpg", photo)
    assert open_photo(tmp_path / "new.jpg").encoding == photo.encoding


@pytest.mark.parametrize("target", ["jpeg", "png", "tiff", "webp", "avif"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_format_is_upright_and_keeps_exif_xmp_and_profile(tmp_path, kind, target):
    source = write(tmp_path, kind, orientation=6)
    photo = open_photo(source)
    saved = save_photo(tmp_path / "new", photo, format=target)
    again = open_photo(saved.path)
    assert again.metadata.icc == WIDE and again.metadata.xmp == XMP
    tags = read_tags(reader_of(again.metadata.exif))
    assert tags.main[0x010F].data == b"Maker of cameras\0"
    if not kind.startswith("tif"):
        assert tags.exif[0x927C].data == MAKER_NOTE and len(tags.gps) == 5
    same = again.format == photo.format
    assert again.orientation == (6 if same else 1)
    assert again.pixels.shape == ((40, 60, 3) if same else (60, 40, 3))
    assert again.bits == (16 if "16" in kind and target in ("png", "tiff") else 8)
    assert np.abs(with_bits(read_photo(saved.path), 8).astype(int) - with_bits(read_photo(source), 8)).mean() < 4
    if kind == "png8":
        assert (again.alpha is None) == (target == "jpeg") == any("alpha" in note for note in saved.notes)


def test_a_tiff_keeps_compression_byte_order_and_descriptive_tags(tmp_path):
    for kind in ("tif8", "tif16"):
        save_photo(tmp_path / f"{kind}.tif", open_photo(write(tmp_path, kind)))
        with tifffile.TiffFile(tmp_path / f"{kind}.tif") as new, tifffile.TiffFile(write(tmp_path, kind)) as old:
            assert new.byteorder == old.byteorder
            assert new.pages[0].compression == old.pages[0].compression
            assert new.pages[0].predictor == old.pages[0].predictor
            for tag in ("ImageDescription", "Make", "Software", "XResolution", "YResolution", "ResolutionUnit"):
                assert new.pages[0].tags[tag].value == old.pages[0].tags[tag].value, tag
            assert len(new.pages) == 1
        with Image.open(tmp_path / f"{kind}.tif") as image:  # another reader
            assert image.size == (60, 40)


def test_tiff_exif_and_gps_directories_survive_tiff_to_tiff(tmp_path):
    with Image.open(io.BytesIO(pillow_bytes(PHOTO, "PNG"))) as image:
        tags = Image.Exif()
        tags.load(exif(1))
        image.save(tmp_path / "a.tif", exif=tags)
    save_photo(tmp_path / "b.tif", open_photo(tmp_path / "a.tif"))
    with Image.open(tmp_path / "b.tif") as image:
        assert image.getexif().get_ifd(0x8769)[0x8827] == 3200
        assert image.getexif().get_ifd(0x8825)[1] == "N"
    first, second = (read_tags(reader_of((tmp_path / name).read_bytes())) for name in ("a.tif", "b.tif"))
    assert {k: e.data for k, e in first.exif.items()} == {k: e.data for k, e in second.exif.items()}


def test_tiff_alpha_planes_and_large_files(tmp_path, monkeypatch):
    monkeypatch.setattr("daa_diffusers.photos.tiff.MAP_BYTES", 1)
    with_alpha = np.dstack([DEEP, DEEP[..., 0]])
    for name, pixels, options in (
        ("alpha", with_alpha, {"extrasamples": ["unassalpha"]}),
        ("multiplied", with_alpha, {"extrasamples": ["assocalpha"]}),
        ("planes", np.moveaxis(DEEP, -1, 0).copy(), {"planarconfig": "separate"}),
        ("other order", DEEP, {"byteorder": ">"}),
        ("big", DEEP, {"bigtiff": True}),
        ("tiles", DEEP, {"tile": (16, 16), "compression": "zlib"}),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="rgb", **options)
        before = (tmp_path / f"{name}.tif").read_bytes()
        photo = open_photo(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(photo.pixels, DEEP, err_msg=name)
        assert isinstance(photo.pixels, np.memmap) == (name in ("alpha", "multiplied", "planes", "big")), name
        if "alpha" in name or "multiplied" in name:
            np.testing.assert_array_equal(photo.alpha, DEEP[..., 0])
        if photo.pixels.flags.writeable:
            photo.pixels[:] = 0  # on a private copy
        save_photo(tmp_path / "new.tif", photo, DEEP, overwrite=True)
        again = open_photo(tmp_path / "new.tif")
        np.testing.assert_array_equal(again.pixels, DEEP)
        assert again.encoding == photo.encoding
        assert (tmp_path / f"{name}.tif").read_bytes() == before


def test_a_memory_map_of_the_input_may_be_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr("daa_diffusers.photos.tiff.MAP_BYTES", 1)
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb")
    photo = open_photo(tmp_path / "a.tif")
    assert isinstance(photo.pixels, np.memmap)
    save_photo(tmp_path / "a.tif", photo, 65535 - photo.pixels, overwrite=True)
    np.testing.assert_array_equal(open_photo(tmp_path / "a.tif").pixels, 65535 - DEEP)


def test_location_is_kept_unless_it_is_stripped(tmp_path):
    for kind in ("jpeg", "png8", "webp", "avif"):
        photo = open_photo(write(tmp_path, kind))
        save_photo(tmp_path / "kept", photo, overwrite=True)
        assert read_tags(reader_of(open_photo(tmp_path / "kept").metadata.exif)).gps
        for target in (None, "tiff", "png"):
            saved = save_photo(tmp_path / "stripped", photo, format=target, strip_location=True, overwrite=True)
            content = saved.path.read_bytes()
            assert b"Berlin" not in content and b"52,30" not in content
            assert struct.pack("<II", 55, 2) not in content  # 27.5 seconds of latitude, wherever it may stand
            again = open_photo(saved.path).metadata
            tags = read_tags(reader_of(again.exif))
            assert not tags.gps and 0x8825 not in tags.main
            assert tags.exif[0x927C].data == MAKER_NOTE and tags.main[0x0110].data == b"Model 7\0"
            assert b'xmp:Rating="4"' in again.xmp and again.icc == WIDE


def test_an_existing_file_is_never_overwritten_unless_asked_and_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    photo = open_photo(write(tmp_path, "png8"))
    (tmp_path / "there.png").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="there.png"):
        save_photo(tmp_path / "there.png", photo)
    monkeypatch.setattr("daa_diffusers.photos.png._chunk", lambda *_: [b"half", 3])
    with pytest.raises(TypeError):
        save_photo(tmp_path / "there.png", photo, overwrite=True)
    assert (tmp_path / "there.png").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo png8.png", "there.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gif"}, "`format` must be one of jpeg, png"),
        ({"bits": 12}, "`bits` must be 8 or 16, got 12"),
        ({"quality": 0}, "`quality` must be a whole number from 1 to 100"),
        ({"bits": 16, "format": "jpg"}, "`bits` 16 is not supported by jpeg"),
        ({"quality": 90, "format": "png"}, "`quality` is for lossy formats"),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused(tmp_path, options, message):
    photo = open_photo(write(tmp_path, "png8"))
    with pytest.raises(ConfigurationError, match=message):
        save_photo(tmp_path / "new", photo, **options)
    assert not (tmp_path / "new").exists()


def test_pixels_of_another_size_are_refused(tmp_path):
    photo = open_photo(write(tmp_path, "png8"))
    with pytest.raises(ValueError, match=r"`pixels` must be uint8 or uint16 of shape \(40, 60, 3\)"):
        save_photo(tmp_path / "new", photo, PHOTO[1:])
    with pytest.raises(ValueError, match="float64"):
        save_photo(tmp_path / "new", photo, PHOTO / 255)


# --- every mode, size and profile ---

LOSSLESS = ["png", "tiff", "bmp", "pnm"]


@st.composite
def photos(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    channels = draw(st.sampled_from([1, 2, 3, 4]))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, np.iinfo(dtype).max + 1, (*shape, channels), dtype
    )
    beside = {
        "exif": draw(st.sampled_from([None, exif(3), exif(8, order=">")])),
        "icc": draw(st.sampled_from([None, SRGB, WIDE])),
        "xmp": draw(st.sampled_from([None, XMP])),
        "dpi": draw(st.sampled_from([None, (72.0, 72.0), (300.0, 150.0)])),
    }
    return values, beside


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(photos(), st.sampled_from(list(FORMATS)), st.booleans())
def test_any_photo_goes_through_any_format(tmp_path, made, target, strip):
    values, beside = made
    chunks = [(b"eXIf", beside["exif"])] if beside["exif"] else []
    chunks += [(b"iCCP", b"p\0\0" + zlib.compress(beside["icc"]))] if beside["icc"] else []
    chunks += [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + beside["xmp"])] if beside["xmp"] else []
    if beside["dpi"]:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(one / 0.0254) for one in beside["dpi"]), 1)))
    flat = values[..., 0] if values.shape[2] == 1 else values
    (tmp_path / "a.png").write_bytes(with_chunks(imagecodecs.png_encode(np.ascontiguousarray(flat)), *chunks))
    photo = open_photo(tmp_path / "a.png")
    colors = values.shape[2] - (values.shape[2] + 1) % 2
    np.testing.assert_array_equal(photo.pixels, values[..., :colors])
    assert (photo.alpha is None) == (values.shape[2] in (1, 3))
    if target == "heic":
        pytest.importorskip("pillow_heif")
        if min(values.shape[:2]) < 2:
            return
    saved = save_photo(tmp_path / "b", photo, format=target, strip_location=strip, overwrite=True)
    again = open_photo(saved.path)
    same = target == "png"
    turned = not same and photo.orientation >= 5
    assert again.pixels.shape[:2] == (values.shape[1::-1] if turned else values.shape[:2])
    if target in LOSSLESS and (saved.bits == photo.bits) and not (target == "bmp" and values.shape[2] == 2):
        upright = read_photo(tmp_path / "a.png") if not same else values[..., :colors]
        np.testing.assert_array_equal(again.pixels, upright)
        if target in ("png", "tiff") and photo.alpha is not None and not turned:
            assert sorted(again.alpha.ravel()) == sorted(values[..., -1].ravel())
    if target in ("png", "tiff", "jpeg", "webp", "avif"):
        assert again.metadata.icc == beside["icc"]
        assert (again.metadata.exif is None) == (beside["exif"] is None) or target == "tiff"
        if beside["exif"]:
            assert orientation_of(again.metadata.exif) == (photo.orientation if same else 1)


def test_alpha_in_a_bmp_is_where_readers_find_it(tmp_path):
    (tmp_path / "a.bmp").write_bytes(ALL["BMP with alpha"])
    photo = open_photo(tmp_path / "a.bmp")
    assert np.array_equal(photo.alpha, ALPHA)
    save_photo(tmp_path / "b.bmp", photo, 255 - photo.pixels)
    with Image.open(tmp_path / "b.bmp") as image:
        assert np.array_equal(np.asarray(image), np.dstack([255 - PHOTO, ALPHA]))


@pytest.mark.parametrize("target", ["bmp", "webp", "avif"])
def test_gray_with_alpha_in_a_format_without_it_is_noted(tmp_path, target):
    Image.fromarray(np.dstack([PHOTO[..., 0], ALPHA]), "LA").save(tmp_path / "a.png")
    assert save_photo(tmp_path / "b", open_photo(tmp_path / "a.png"), format=target).notes == ("gray became RGB",)
