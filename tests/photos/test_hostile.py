"""Files that lie about themselves: refused by name, before memory is taken, and never half written."""

import contextlib
import resource
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from daa_diffusers.errors import ConfigurationError, UnreadablePhotoError
from daa_diffusers.photos import open_photo, save_photo
from daa_diffusers.photos.exif import orientation_of
from daa_diffusers.photos.exif_edits import rotated_upright, without_gps
from daa_diffusers.photos.location import without_location
from daa_diffusers.photos.stored import Metadata
from daa_diffusers.photos.xmp import OF_OTHER_PARTS, without

from .files import PHOTO, exif, pillow_bytes, rich_bytes

MUTATED = 500


def mutated(content, rng):
    """One of: changed bytes, changed bytes in the header, a cut, an insertion, a repetition, large numbers."""
    content, kind = bytearray(content), rng.integers(6)
    if kind < 2:
        end = len(content) if kind else min(len(content), 300)
        for _ in range(rng.integers(1, 8)):
            content[rng.integers(end)] = rng.integers(256)
    elif kind == 2:
        del content[rng.integers(len(content)) :]
    elif kind == 3:
        at = rng.integers(len(content))
        content[at:at] = rng.bytes(rng.integers(1, 50))
    elif kind == 4:
        start, length = rng.integers(len(content)), rng.integers(1, 200)
        content[start:start] = content[start : start + length]
    else:
        at = rng.integers(max(1, min(len(content), 400) - 4))
        content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
    return bytes(content)


@pytest.mark.filterwarnings("ignore")
def test_500_mutated_files_are_opened_or_refused_and_leave_nothing_half_done(tmp_path):
    kinds = ["jpeg", "png8", "png16", "webp", "avif", "tif8", "tif16"]
    files = [rich_bytes(kind) for kind in kinds]
    files.append(pillow_bytes(Image.fromarray(PHOTO).quantize(16), "PNG", transparency=3))
    files.append(pillow_bytes(Image.fromarray(PHOTO).convert("CMYK"), "TIFF", compression="tiff_lzw"))
    files.append(b"P6\n60 40\n1023\n" + (PHOTO.astype(">u2") * 4).tobytes())
    files.append(pillow_bytes(PHOTO, "BMP"))
    files.append(pillow_bytes(PHOTO, "JPEG", progressive=True, exif=b"Exif\0\0" + exif(6, order=">")))
    rng, opened = np.random.default_rng(7), 0
    path, target = tmp_path / "mutated", tmp_path / "out"
    for turn in range(MUTATED):
        path.write_bytes(mutated(files[turn % len(files)], rng))
        start = time.monotonic()
        try:
            photo = open_photo(path, max_megapixels=1)
        except UnreadablePhotoError as error:
            assert "mutated" in str(error)
            assert not target.exists()
        else:
            opened += 1
            assert photo.pixels.dtype in (np.uint8, np.uint16) and photo.pixels.shape[2] in (1, 3)
            assert photo.pixels.shape[0] * photo.pixels.shape[1] <= 1_000_000
            save_photo(target, photo, strip_location=bool(turn % 2))
            assert open_photo(target).pixels.shape == photo.pixels.shape
            target.unlink()
        assert time.monotonic() - start < 10  # no hang
        assert [p.name for p in tmp_path.iterdir()] == ["mutated"]
    assert 50 < opened < MUTATED - 100


def png_header(width, height, depth=8):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def huge_tiff(tmp_path, side, **options):
    tifffile.imwrite(tmp_path / "seed.tif", np.zeros((2, 2, 3), np.uint16), photometric="rgb", **options)
    huge = bytearray((tmp_path / "seed.tif").read_bytes())
    for tag in (256, 257):
        for kind in (3, 4):
            at = huge.find(struct.pack("<HHI", tag, kind, 1))
            if at >= 0:
                huge[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
    return bytes(huge)


def huge_files(tmp_path):
    jpeg = pillow_bytes(PHOTO, "JPEG")
    at = jpeg.find(b"\xff\xc0") + 5
    webp = (
        b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xfe\x3f\0" * 2 + bytes(40)
    )
    bmp = bytearray(pillow_bytes(PHOTO, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    return {
        "jpeg": jpeg[:at] + struct.pack(">HH", 65000, 65000) + jpeg[at + 4 :],
        "png": png_header(60000, 60000) + pillow_bytes(PHOTO, "PNG")[33:],
        "png16": png_header(60000, 60000, 16) + pillow_bytes(PHOTO, "PNG")[33:],
        "tiff": huge_tiff(tmp_path, 60000),
        "compressed tiff": huge_tiff(tmp_path, 60000, compression="zlib"),
        "webp": webp,
        "bmp": bytes(bmp),
        "ppm": b"P6 60000 60000 65535\n" + bytes(100),
        "pgm": b"P5 60000 60000 255\n" + bytes(100),
    }


@pytest.mark.parametrize("kind", ["jpeg", "png", "png16", "tiff", "compressed tiff", "webp", "bmp", "ppm", "pgm"])
def test_a_size_that_is_only_claimed_takes_no_memory(tmp_path, kind):
    path = tmp_path / "huge"
    path.write_bytes(huge_files(tmp_path)[kind])
    refused = "huge.*`max_megapixels` 100"
    if kind == "webp":  # Pillow 12 refuses it before it tells its size
        refused = f"{refused}|huge.*could not create decoder"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(UnreadablePhotoError, match=refused):
            open_photo(path, max_megapixels=100)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB, of the decoders' own memory


def test_the_limit_is_explicit_exact_and_of_this_call_alone(tmp_path):
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    assert open_photo(tmp_path / "a.png", max_megapixels=0.01).pixels.shape == (100, 100, 3)
    with pytest.raises(UnreadablePhotoError, match="pixels are more than `max_megapixels` 0.0099"):
        open_photo(tmp_path / "a.png", max_megapixels=0.0099)
    assert limit == Image.MAX_IMAGE_PIXELS
    for wrong in (0, -1, float("nan"), float("inf"), "many"):
        with pytest.raises(ConfigurationError, match="`max_megapixels` must be a positive number"):
            open_photo(tmp_path / "a.png", max_megapixels=wrong)


def test_a_bomb_in_a_tiff_strip_gives_no_more_than_the_image_needs(tmp_path):
    seed = huge_tiff(tmp_path, 2, compression="zlib")
    with tifffile.TiffFile(tmp_path / "seed.tif") as file:
        offsets, counts = (file.pages[0].tags[name] for name in ("StripOffsets", "StripByteCounts"))
        at = [(tag.valueoffset, tag.dtype.name, tag.count) for tag in (offsets, counts)]
    bomb = zlib.compress(bytes(200_000_000), 1)
    content = bytearray(seed) + bomb
    for (place, kind, count), value in zip(at, (len(seed), len(bomb)), strict=True):
        assert count == 1
        content[place : place + (4 if "LONG" in kind else 2)] = struct.pack("<I" if "LONG" in kind else "<H", value)
    path = tmp_path / "bomb.tif"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UnreadablePhotoError):
        assert open_photo(path).pixels.shape == (2, 2, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    content = pillow_bytes(PHOTO, "JPEG", progressive=True)
    at = content.rfind(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[:at] + 2000 * content[at:-2] + b"\xff\xd9")
    with pytest.raises(UnreadablePhotoError, match="more than 500 scans"):
        open_photo(tmp_path / "a.jpg")


def test_formats_that_are_no_photos_are_not_even_tried(tmp_path):
    # Pillow would run Ghostscript on the first
    for name, content in {
        "a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "b.jpg": b"GIF89a" + bytes(40),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadablePhotoError, match="not a photo in a known format"):
            open_photo(tmp_path / name)
    for name, reason in {"absent.png": "no such file", ".": "a folder"}.items():
        with pytest.raises(UnreadablePhotoError, match=reason):
            open_photo(tmp_path / name)
    (tmp_path / "empty.png").touch()
    with pytest.raises(UnreadablePhotoError, match="the file is empty"):
        open_photo(tmp_path / "empty.png")


def test_damaged_exif_is_carried_along_or_left_out_but_never_trusted():
    block, rng = exif(6), np.random.default_rng(1)
    for _ in range(500):
        damaged = mutated(block, rng)
        assert 1 <= orientation_of(damaged) <= 8
        assert len(rotated_upright(damaged)) == len(damaged)
        stripped = without_gps(damaged)
        if stripped is not None:
            assert len(stripped) == len(damaged)
            assert stripped == without_gps(stripped)
    loop = bytearray(exif(1))
    offset = struct.unpack_from("<I", loop, 4)[0]
    end = offset + 2 + 12 * struct.unpack_from("<H", loop, offset)[0]
    loop[end : end + 4] = struct.pack("<I", offset)  # the next directory is the first one
    assert without_gps(bytes(loop)) is not None


def test_xmp_without_end_takes_no_time():
    google = b'xmlns:a="http://ns.google.com/photos/1.0/container/" '
    many = b"".join(b'xmlns:p%d="http://ns.google.com/photos/1.0/container/" ' % k for k in range(10_000))
    for part in (b"<a:City ", b"<a:City>", b' a:City = "', b"<a:City" + bytes(9), b" a:City"):
        start = time.monotonic()
        for packet in (google + part * 60_000, many + part):
            without(packet, OF_OTHER_PARTS)
            without_location(Metadata(xmp=packet))
        assert time.monotonic() - start < 5
