"""What is said of files that cannot be read: what is wrong with them and what would be right, in no decoder's words."""

import io
import re
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from daa_diffusers.errors import UnreadablePhotoError
from daa_diffusers.photos import av1, open_photo, read_photo, save_photo
from daa_diffusers.photos.reading import decode_photo, photo_size

from .files import DEEP, PHOTO, SRGB, heic_file, pillow_bytes, rich_bytes, with_chunks
from .made import ALL, broken_checksum, jpeg_with, segment

WORDS_OF_DECODERS = re.compile(
    r"Pillow|PIL|libpng|libjpeg|broken data stream|bytes not processed|_CHUNK|IDAT'|0x|Error"
)


def reason(content, name="photo.jpg"):
    with pytest.raises(UnreadablePhotoError) as caught:
        decode_photo(content, name)
    said = str(caught.value)
    assert name in said and not WORDS_OF_DECODERS.search(said), said
    return said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (bytes(5000), "starts with zeros only: its copy or download is incomplete"),
        (b"<!DOCTYPE html><html><body>404</body></html>", r"a web page \(HTML\); download the photo itself"),
        (b"\n  <html lang=en>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"GIF89a" + bytes(40), "it is a GIF"),
        (b"8BPS\0\1" + bytes(40), "it is a Photoshop document: export it as JPEG, PNG or TIFF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is a JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "it is a JPEG 2000"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "it is a video"),
        (b"PF\n60 40\n-1.0\n" + bytes(40), "it is a PFM of floating point"),
        (b"\x89PNG\n\x1a\n" + bytes(40), "signature was damaged, perhaps by a transfer in text mode"),
        (b"PK\3\4" + bytes(40), "it is a ZIP archive"),
        (b"<?xml version='1.0'?><svg/>", r"a drawing \(SVG\)"),
        ("Mit freundlichen Grüßen\n".encode(), "it is text"),
        (b"\1\2\3\4\5\6\7\x08" * 20, "not a photo in a known format, or its beginning is damaged"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_no_photo_is_called_by_its_name(content, said):
    assert re.search(said, reason(content))


@pytest.mark.parametrize("kind", ["jpeg", "png8", "png16", "webp", "avif", "tif8", "tif16"])
def test_a_truncated_file_is_called_truncated_or_damaged(kind):
    content = rich_bytes(kind)
    for share in (0.97, 0.6):
        said = reason(content[: int(share * len(content))])
        format = re.sub(r"\d", "", kind).upper().replace("TIF", "TIFF")
        assert re.search(rf"the {format} is (truncated|damaged).*copy or download it again", said), said


def test_wrong_checksums_of_a_picture_are_damage():
    for png in (pillow_bytes(PHOTO, "PNG"), imagecodecs.png_encode(DEEP)):
        assert "damaged" in reason(broken_checksum(png, b"IDAT"))


def test_chunks_beside_the_picture_stop_nobody(tmp_path):
    for kind, note in (
        ("broken checksum", "the chunk tEXt is damaged"),
        ("broken profile", "the color profile is damaged"),
    ):
        content = ALL[f"PNG, {kind}"]
        (tmp_path / "a.png").write_bytes(content)
        np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), PHOTO)
        assert any(note in one for one in open_photo(tmp_path / "a.png").notes)
    (tmp_path / "a.png").write_bytes(ALL["PNG, huge text"])  # Pillow: "Decompressed data too large for MAX_TEXT_CHUNK"
    photo = open_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, PHOTO)
    assert save_photo(tmp_path / "b.png", photo).notes == ()


def test_a_png_without_its_end_is_read_where_its_picture_is_whole(tmp_path):
    content = pillow_bytes(PHOTO, "PNG")
    np.testing.assert_array_equal(decode_photo(content[:-12]), PHOTO)


def ycbcr_tiff():
    """YCbCr of 2 x 2 subsampled chroma, uncompressed."""
    blocks = bytes(20 * 30 * 6)
    tags = [(256, 3, 1, 60), (257, 3, 1, 40), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 6), (273, 4, 1, 136)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 40), (279, 4, 1, len(blocks))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *one) for one in tags) + bytes(4)
    assert len(directory) == 114
    return b"II*\0\x08\0\0\0" + directory + struct.pack("<HHH", 8, 8, 8) + bytes(8) + blocks


def test_ycbcr_in_a_tiff_is_named():
    assert re.search("TIFF of 8 bits in YCBCR with compression NONE.*convert it to RGB first", reason(ycbcr_tiff()))


def test_pnm_and_bmp_headers_are_named():
    assert "maximum value 70000; 1 to 65535 are valid" in reason(b"P6 60 40 70000\n" + bytes(14400))
    assert "PNM header is damaged" in reason(b"P6 sixty 40 255\n")
    assert "the PNM is truncated" in reason(b"P6 60 40 1023\n" + bytes(50))


def test_a_jpeg_of_12_bits_is_named():
    content = imagecodecs.jpeg_encode(DEEP >> 4, bitspersample=12)
    assert "a JPEG of 12 bits per sample is not supported" in reason(content)


def icc_of_hdr(transfer):
    """An sRGB profile whose tag `cicp` says otherwise."""
    count = struct.unpack(">I", SRGB[128:132])[0]
    tags = bytearray(SRGB[132 : 132 + 12 * count])
    for k in range(0, len(tags), 12):
        struct.pack_into(">I", tags, k + 4, struct.unpack_from(">I", tags, k + 4)[0] + 12)
    body = (
        struct.pack(">I", count + 1)
        + bytes(tags)
        + b"cicp"
        + struct.pack(">II", len(SRGB) + 12, 12)
        + SRGB[132 + 12 * count :]
    )
    return SRGB[:128] + body + b"cicp" + bytes(4) + bytes([9, transfer, 0, 1])


def avif_of_color(avif, primaries, transfer):
    """The file with these code points in its AV1 data, and without a box of them."""
    start = avif.index(b"mdat") + 4
    avif = avif.replace(b"colr", b"skip")
    if av1.color_of(avif[start:]) == (primaries, transfer):
        return avif
    for place in range(8 * start, 8 * start + 400):
        shift = 8 * (len(avif)) - place - 16
        value = int.from_bytes(avif, "big") & ~(0xFFFF << shift) | (primaries << 8 | transfer) << shift
        changed = value.to_bytes(len(avif), "big")
        if av1.color_of(changed[start:]) == (primaries, transfer):
            return changed
    raise AssertionError("no color in this file")


def test_hdr_that_only_the_coded_picture_states_is_refused_by_name():
    still, deep = pillow_bytes(PHOTO, "AVIF"), imagecodecs.avif_encode(DEEP >> 6, bitspersample=10)
    film = pillow_bytes(PHOTO, "AVIF", save_all=True, append_images=[Image.fromarray(255 - PHOTO)])
    for avif in (still, deep, film):
        assert decode_photo(avif_of_color(avif, 1, 13), "photo.avif").shape == PHOTO.shape
        assert "HDR (PQ) in AVIF is not supported; convert it to SDR first" in reason(avif_of_color(avif, 9, 16))
        assert "HDR (HLG) in AVIF" in reason(avif_of_color(avif, 9, 18))
        assert "AVIF of color primaries 12 without an ICC profile" in reason(avif_of_color(avif, 12, 13))


def test_the_color_of_av1_data_is_found_behind_everything_that_a_header_may_hold():
    def number(value, bits):
        return f"{value:0{bits}b}"

    header = number(0, 3) + "00"  # main profile, no still picture, not reduced
    header += "1" + number(1, 32) + number(25, 32) + "1" + "00100"  # timing, of 2 ticks less one
    header += "1" + number(9, 5) + number(1, 32) + number(4, 5) + number(4, 5)  # decoder model
    header += "1" + number(1, 5)  # display delays; two operating points
    header += number(1, 12) + number(9, 5) + "1" + "1" + number(3, 10) + number(4, 10) + "0" + "1" + number(2, 4)
    header += number(2, 12) + number(5, 5) + "0" + "0"
    header += number(5, 4) + number(5, 4) + number(59, 6) + number(39, 6) + "1" + number(3, 7)
    header += "101" + "0101" + "1" + "01" + "0" + "1" + "0" + "1" + number(6, 3)  # tools
    header += "110" + "1" + "0" + "1" + number(9, 8) + number(16, 8) + number(9, 8)
    content = int(header.ljust(-(-len(header) // 8) * 8, "0"), 2).to_bytes(-(-len(header) // 8), "big")
    unit = bytes([1 << 3 | 2, len(content)]) + content
    assert av1.color_of(bytes([2 << 3 | 2, 0]) + unit) == av1.color_of(bytes([1 << 3]) + content) == (9, 16)
    assert all(av1.color_of(unit[:cut]) in (None, (9, 16)) for cut in range(len(unit)))


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_by_name_wherever_it_is_stated(tmp_path, transfer, name):
    png = imagecodecs.png_encode(DEEP)
    avif = imagecodecs.avif_encode(DEEP >> 6, bitspersample=10)
    at = avif.index(b"nclx")
    for format, content in {
        "PNG": with_chunks(png, (b"cICP", bytes([9, transfer, 0, 1]))),
        "AVIF": avif[: at + 4] + struct.pack(">HH", 9, transfer) + avif[at + 8 :],
        "JPEG": pillow_bytes(PHOTO, "JPEG", icc_profile=icc_of_hdr(transfer)),
    }.items():
        assert f"HDR ({name}) in {format} is not supported; convert it to SDR first" in reason(content)
    assert "HDR (PQ) in PNG" in reason(with_chunks(png, (b"iCCP", b"ITUR_2100_PQ_FULL\0\0" + zlib.compress(SRGB))))
    said = f"BT.2100 {name:5}".encode("utf-16-be")
    icc = SRGB.replace("sRGB built-in".encode("utf-16-be"), said)
    assert icc != SRGB and f"HDR ({name}) in WEBP" in reason(pillow_bytes(PHOTO, "WEBP", icc_profile=icc))
    content = heic_file(tmp_path / "a.heic", PHOTO).read_bytes()
    at = content.find(b"nclx")
    if at > 0:
        assert "HDR" in reason(content[: at + 4] + struct.pack(">HH", 9, transfer) + content[at + 8 :])


def test_signatures_far_from_the_start_are_found():
    """Headers are parsed: what stands behind 64 kB of something else counts, what stands in pixels does not."""
    far = jpeg_with(*[segment(0xE9, bytes(60000))] * 3, segment(0xEB, b"JP\0\1\0\0\0\1\0\0\0\x28jumb" + bytes(32)))
    assert photo_size(far) == (60, 40)
    lossless = pillow_bytes(PHOTO, "WEBP", lossless=True, icc_profile=SRGB + bytes(100_000))
    lossy = pillow_bytes(PHOTO, "WEBP", icc_profile=SRGB + b"VP8L" * 100)
    with io.BytesIO() as stream:
        tifffile.imwrite(stream, PHOTO, photometric="rgb", compression="zlib", metadata=None)
        assert photo_size(stream.getvalue()) == (60, 40)
    for content, expected in ((lossless, True), (lossy, False)):
        assert Image.open(io.BytesIO(content)).size == photo_size(content)
        assert opened(content).encoding.lossless == expected


def opened(content):
    from daa_diffusers.photos.opening import open_source, pixel_limit
    from daa_diffusers.photos.source import Source

    return open_source(Source("photo", content), pixel_limit(None))
