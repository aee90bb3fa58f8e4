"""Reading photos: every kind of file that a folder may hold, and every way in which one may be broken."""

import io
import os
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage import data

from daa_diffusers.errors import ConfigurationError, UnreadablePhotoError
from daa_diffusers.photos import list_photos, read_photo, to_float

PHOTO = np.ascontiguousarray(data.astronaut()[100:140, 200:260])  # (40, 60, 3): height and width differ
DEEP = PHOTO.astype(np.uint16) * 257 - np.arange(40, dtype=np.uint16)[:, None, None]  # low bytes that matter
DEEP[PHOTO == 0] = 3
LOSSY = 12  # mean absolute error that a JPEG of quality 95 stays well below


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def rgba():
    return np.dstack([PHOTO, np.arange(60, dtype=np.uint8)[None].repeat(40, 0)])


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "PNG"])
def test_lossless_rgb_comes_back_as_it_was(tmp_path, suffix):
    photo = read_photo(save(tmp_path / f"photo.{suffix}", PHOTO))
    assert photo.dtype == np.uint8 and photo.flags.c_contiguous and photo.flags.writeable
    np.testing.assert_array_equal(photo, PHOTO)


def test_gray_keeps_one_channel(tmp_path):
    np.testing.assert_array_equal(read_photo(save(tmp_path / "a.png", PHOTO[..., 1])), PHOTO[..., 1:2])


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif"])
def test_lossy_formats(tmp_path, suffix):
    photo = read_photo(save(tmp_path / f"a.{suffix}", PHOTO, quality=95))
    assert photo.shape == PHOTO.shape
    assert np.abs(photo.astype(int) - PHOTO).mean() < LOSSY


def test_names_with_spaces_and_other_scripts_and_wrong_suffixes(tmp_path):
    path = save(tmp_path / "my photo, ночь 夜 (1).png", PHOTO)
    np.testing.assert_array_equal(read_photo(path), PHOTO)
    np.testing.assert_array_equal(read_photo(str(path.rename(tmp_path / "really a png.jpg"))), PHOTO)


def test_alpha_is_dropped_not_blended(tmp_path):
    np.testing.assert_array_equal(read_photo(save(tmp_path / "a.png", rgba())), PHOTO)
    np.testing.assert_array_equal(read_photo(save(tmp_path / "b.png", rgba()[..., [1, 3]])), PHOTO[..., 1:2])
    np.testing.assert_array_equal(read_photo(save(tmp_path / "c.tif", rgba())), PHOTO)


def test_palette_becomes_rgb(tmp_path):
    image = Image.fromarray(PHOTO).quantize(256)
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_black_and_white_becomes_gray(tmp_path):
    Image.fromarray(PHOTO[..., 0] > 128).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png")[..., 0], (PHOTO[..., 0] > 128) * np.uint8(255))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / f"a.{suffix}", quality=95)
    photo = read_photo(tmp_path / f"a.{suffix}")
    assert photo.shape == PHOTO.shape
    assert np.abs(photo.astype(int) - PHOTO).mean() < LOSSY


# What a viewer must see is PHOTO: stored[orientation] is how a camera held that way stores it.
STORED = {
    1: PHOTO,
    2: PHOTO[:, ::-1],
    3: PHOTO[::-1, ::-1],
    4: PHOTO[::-1],
    5: PHOTO.swapaxes(0, 1),
    6: np.rot90(PHOTO, 1),
    7: PHOTO[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(PHOTO, -1),
}


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_applied_to_every_kind_of_file(tmp_path, orientation):
    stored = np.ascontiguousarray(STORED[orientation])
    png = save(tmp_path / "a.png", stored, exif=exif(orientation))
    np.testing.assert_array_equal(read_photo(png), PHOTO)
    tif = save(tmp_path / "a.tif", stored, exif=exif(orientation))
    np.testing.assert_array_equal(read_photo(tif), PHOTO)
    jpeg = read_photo(save(tmp_path / "a.jpg", stored, quality=95, exif=exif(orientation)))
    assert jpeg.shape == PHOTO.shape and np.abs(jpeg.astype(int) - PHOTO).mean() < LOSSY
    deep = stored.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "b.tif", deep, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(read_photo(tmp_path / "b.tif"), PHOTO.astype(np.uint16) * 257)
    (tmp_path / "b.png").write_bytes(with_exif_chunk(imagecodecs.png_encode(deep), exif(orientation)))
    np.testing.assert_array_equal(read_photo(tmp_path / "b.png"), PHOTO.astype(np.uint16) * 257)


def with_exif_chunk(png, tags):
    content = tags.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    return png[:33] + chunk + png[33:]  # after the signature and IHDR


@pytest.mark.parametrize("channels", ["gray", "gray + alpha", "RGB", "RGBA"])
def test_png_of_16_bits_keeps_them(tmp_path, channels):
    with_alpha = np.dstack([DEEP, DEEP[..., 0]])
    pixels = {"gray": DEEP[..., 0], "gray + alpha": DEEP[..., :2], "RGB": DEEP, "RGBA": with_alpha}[channels]
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    photo = read_photo(tmp_path / "a.png")
    assert photo.dtype == np.uint16
    np.testing.assert_array_equal(photo, DEEP if "RGB" in channels else DEEP[..., :1])


@pytest.mark.parametrize(
    "options",
    [{}, {"byteorder": ">"}, {"compression": "zlib", "predictor": True}, {"compression": "lzw"}, {"bigtiff": True}],
    ids=str,
)
def test_tiff_of_16_bits_keeps_them(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", **options)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif"), DEEP)
    tifffile.imwrite(tmp_path / "b.tif", DEEP[..., 0], **options)
    np.testing.assert_array_equal(read_photo(tmp_path / "b.tif"), DEEP[..., :1])


def test_tiff_of_16_bits_in_planes_with_alpha_inverted_or_of_several_pages(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(DEEP, -1, 0).copy(), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_photo(path), DEEP)
    tifffile.imwrite(path, np.dstack([DEEP, DEEP[..., :1]]), photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_photo(path), DEEP)
    tifffile.imwrite(path, DEEP[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_photo(path), 65535 - DEEP[..., :1])
    tifffile.imwrite(path, np.stack([DEEP, 65535 - DEEP]), photometric="rgb")
    np.testing.assert_array_equal(read_photo(path), DEEP)


@pytest.mark.parametrize("largest", [65535, 1023])
def test_netpbm_of_more_than_8_bits_is_scaled_to_16(tmp_path, largest):
    pixels = (DEEP.astype(int) * largest // 65535).astype(">u2")
    expected = np.rint(pixels.astype(float) * 65535 / largest)
    (tmp_path / "a.ppm").write_bytes(b"P6\n60 40\n%d\n" % largest + pixels.tobytes())
    (tmp_path / "a.pgm").write_bytes(b"P5\n60 40\n%d\n" % largest + pixels[..., 0].tobytes())
    for name, wanted in (("a.ppm", expected), ("a.pgm", expected[..., :1])):
        photo = read_photo(tmp_path / name)
        assert photo.dtype == np.uint16 and photo.shape == wanted.shape
        assert np.abs(photo - wanted).max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint32", "int16"])
def test_tiff_of_unknown_range_is_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", PHOTO.astype(dtype), photometric="rgb")
    with pytest.raises(UnreadablePhotoError, match=r"a\.tif.*(float|integer).*8 or 16 bits"):
        read_photo(tmp_path / "a.tif")


def encoded(kind):
    stream = io.BytesIO()
    if kind == "png16":
        return imagecodecs.png_encode(DEEP)
    if kind == "tif16":
        tifffile.imwrite(stream, DEEP, photometric="rgb")
    elif kind == "ppm16":
        return b"P6\n60 40\n65535\n" + DEEP.astype(">u2").tobytes()
    else:
        Image.fromarray(PHOTO).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "png16", "tif16", "ppm16"])
def test_truncated_files_are_refused_by_name(tmp_path, kind, share):
    content = encoded(kind)
    path = tmp_path / "half a photo.png"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnreadablePhotoError, match=r"cannot read photo '.*half a photo\.png': \w+"):
        read_photo(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "png16", "tif16", "ppm16"])
def test_damaged_files_are_read_or_refused_never_worse(tmp_path, kind):
    # torchvision's decoder ends the process with a segmentation fault on some of these
    content, rng, path = encoded(kind), np.random.default_rng(0), tmp_path / "a.png"
    refused = 0
    for turn in range(60):
        damaged = bytearray(content)
        for _ in range(3):  # anywhere, and in the header
            damaged[rng.integers(len(damaged) if turn % 2 else 60)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            photo = read_photo(path)
        except UnreadablePhotoError:
            refused += 1
        else:
            assert photo.shape[2] in (1, 3) and photo.dtype in (np.uint8, np.uint16)
    assert refused >= 1


def png_header(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_what_is_no_photo_is_refused_with_its_reason(tmp_path):
    def reason(name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadablePhotoError) as caught:
            read_photo(tmp_path / name)
        assert name in str(caught.value)
        return str(caught.value)

    assert "not a photo in a known format" in reason("notes.png", b"this is a text\n")
    assert "empty" in reason("empty.jpg", b"")
    assert "60000 x 60000 pixels are more than" in reason("bomb.png", png_header(60000, 60000))
    assert "cannot read" in reason("none.png", png_header(0, 7))
    tifffile.imwrite(tmp_path / "big.tif", np.zeros((2, 2), np.uint16))
    huge = bytearray((tmp_path / "big.tif").read_bytes())
    for tag in (256, 257):  # width, height
        at = huge.find(struct.pack("<HHI", tag, 4, 1))
        at = at if at >= 0 else huge.find(struct.pack("<HHI", tag, 3, 1))
        huge[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 60000)
    assert "60000 x 60000 pixels are more than" in reason("huge.tif", bytes(huge))
    with pytest.raises(UnreadablePhotoError, match="absent.*no such file"):
        read_photo(tmp_path / "absent.png")
    with pytest.raises(UnreadablePhotoError, match="a folder"):
        read_photo(tmp_path)


def test_list_photos_is_recursive_sorted_and_leaves_hidden_and_other_files_out(tmp_path):
    for name in ["b.JPG", "a b.png", "c/ü.TIFF", "c/d/e.webp", ".hidden.png", ".cache/f.png", "notes.txt", "c/README"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ["a b.png", "b.JPG", "c/d/e.webp", "c/ü.TIFF"]]
    assert list_photos(tmp_path) == expected
    assert list_photos(str(tmp_path)) == expected


def test_list_photos_follows_links_but_no_loops(tmp_path):
    (tmp_path / "album").mkdir()
    (tmp_path / "album/a.png").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.png").touch()
    os.symlink(tmp_path / "album", tmp_path / "album/again")
    os.symlink(tmp_path / "elsewhere", tmp_path / "album/z")
    os.symlink(tmp_path / "elsewhere", tmp_path / "album/y")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "album/dangling.png")
    # a dangling link is listed: reading it reports it
    assert list_photos(tmp_path / "album") == [tmp_path / "album" / n for n in ("a.png", "dangling.png", "y/b.png")]
    with pytest.raises(UnreadablePhotoError, match="dangling"):
        read_photo(tmp_path / "album/dangling.png")


def test_list_photos_names_the_argument_and_what_it_found(tmp_path):
    with pytest.raises(ConfigurationError, match=r"`real` must be an existing folder, got '.*absent'"):
        list_photos(tmp_path / "absent", argument="real")
    (tmp_path / "a.gif").touch()
    with pytest.raises(ConfigurationError, match="`real` must be a folder of photos, got the file"):
        list_photos(tmp_path / "a.gif", argument="real")
    with pytest.raises(ConfigurationError, match=r"`folder` must hold photos .*has 1 x \.gif"):
        list_photos(tmp_path)
    (tmp_path / "a.gif").unlink()
    with pytest.raises(ConfigurationError, match="has nothing"):
        list_photos(tmp_path)


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_to_float_divides_by_the_largest_value(dtype, largest):
    photo = np.array([[[0, 1, largest]], [[2, 3, 4]]], dtype=dtype)
    tensor = to_float(photo)
    assert tensor.shape == (3, 2, 1) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([0, 1 / largest, 1.0]), rtol=0, atol=1e-9)
    assert tensor[2, 0, 0] == 1


@pytest.mark.parametrize("photo", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)], ids=["rank", "dtype"])
def test_to_float_refuses_other_arrays(photo):
    with pytest.raises(ValueError, match="`photo` must be"):
        to_float(photo)


@pytest.mark.parametrize("model", ["YCbCr", "YCbCr in tiles", "gray", "CMYK", "2 bits", "LA"])
def test_tiff_of_up_to_8_bits_is_read_in_every_color_model_as_pillow_reads_it(tmp_path, model):
    photo, path = np.tile(PHOTO, (2, 2, 1)), tmp_path / "a.tif"
    if model.startswith("YCbCr"):
        tile = (16, 16) if "tiles" in model else None
        tifffile.imwrite(path, photo, photometric="ycbcr", compression="jpeg", subsampling=(2, 2), tile=tile)
    elif model == "2 bits":
        tifffile.imwrite(path, photo[..., 0] >> 6, photometric="minisblack", bitspersample=2)
    else:
        options = {"compression": "jpeg"} if model == "gray" else {}
        Image.fromarray(photo).convert({"gray": "L"}.get(model, model)).save(path, **options)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("L" if model in ("gray", "2 bits", "LA") else "RGB"))
    np.testing.assert_array_equal(read_photo(path), expected.reshape(80, 120, -1))
