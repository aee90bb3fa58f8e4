"""Every part of a file that a saved photo has not, or has otherwise, is named in its notes."""

import re
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from daa_diffusers.errors import UnreadablePhotoError
from daa_diffusers.photos import boxes, open_photo, read_photo, save_photo
from daa_diffusers.photos.exif import read_tags, reader_of
from daa_diffusers.photos.reading import photo_size
from daa_diffusers.photos.source import Source

from .files import DEEP, PHOTO, exif, heic_file, rich_bytes
from .made import ALL, MP4, XMP_OF_A_TELEPHONE, exif_with_thumbnail, jpeg_with, segment, tiffs
from .parts import differences, parts_of

# part (of a file that differs) -> what the notes must say of it; "": the coding of new pixels
NAMED = {
    r"frame|components|DQT": r"CMYK|chroma subsampling|",
    r"APP14 ?|EE": r"CMYK|",
    r"trailer": r"motion photo|further pictures|bytes after the picture",
    r"APP2 MPF": r"MPF",
    r"APP2 ISO 21496": r"gain map",
    r"APP0": r"CMYK became", r"APP2 ICC": r"CMYK became|color profile is damaged",
    r"APP11": r"C2PA",
    r"APP0 JFXX|EXIF 1/.*|EXIF 0/.*|APP1 EXIF|APP13|0/34377": r"the thumbnail",
    r"APP5": r"a preview",
    r".*XMP ?|0/700": r"XMP no longer describes|further XMP packets",
    r"sBIT": r"sBIT", r"bKGD": r"bKGD", r"caBX": r"C2PA", r"vpAG": r"vpAG", r"iDOT": r"",
    r"PLTE": r"palette", r"tRNS": r"transparent color|palette", r"acTL|fcTL|fdAT": r"further frames",
    r"header": r"palette became|transparent color|(1|2|4) bits per sample|black and white|",
    r"iCCP": r"color profile is damaged",
    r"0/(256|257|273|278|279|324|325|339|284|305)": r"",
    r"0/258": r"palette became|bits per sample became|CMYK|black and white|further channels",
    r"0/259|0/347|0/53\d|0/29[23]|0/266": r"compression \w+ became|CMYK|palette",
    r"0/262": r"became",
    r"0/320": r"palette", r"0/277|0/338|0/332": r"CMYK|palette became|further channels|black and white",
    r"0/34675": r"CMYK became",
    r"0/270": r"description of a stack",
    r"0/37724": r"Photoshop's layers", r"0/52545": r"C2PA", r"0/301": r"TransferFunction",
    r"0/330.*": r"SubIFDs", r"0/254": r"reduced|SubIFDs|",
    r"1/.*": r"further pages|reduced pages",
    r"ANIM|ANMF": r"further frames", r"C2PA": r"C2PA", r"abcd": r"the chunk abcd", r"EXIF": r"the thumbnail",
    r"VP8.?|ALPH": r"",
    r"moov|mdat|free|ftyp": r"",
    r"colr": r"",
    r"pixi|av1C": r"10 bits per sample became 8|",
    r"bits": r"palette became|bits? per pixel|black and white",
    r"compression": r"run-length|", r"profile": r"does not support color profile",
    r"comments": r"comments", r"type": r"plain text|black and white", r"largest": r"",
}  # fmt: skip


def unnamed(before, after, notes):
    said = "; ".join(notes)
    missing = []
    for part in differences(before, after):
        wanted = next((note for name, note in NAMED.items() if re.fullmatch(name, part)), None)
        if wanted is None or not re.search(wanted, said):
            missing.append(part)
    return missing


@pytest.mark.parametrize("kind", ALL)
def test_what_differs_is_named(tmp_path, kind):
    (tmp_path / "a").write_bytes(ALL[kind])
    saved = save_photo(tmp_path / "b", open_photo(tmp_path / "a"))
    after = (tmp_path / "b").read_bytes()
    assert unnamed(ALL[kind], after, saved.notes) == [], (sorted(differences(ALL[kind], after)), saved.notes)
    again = save_photo(tmp_path / "c", open_photo(tmp_path / "b"))
    assert again.notes == () and unnamed(after, (tmp_path / "c").read_bytes(), ()) == []


def saved(tmp_path, content, **options):
    """The photo of some bytes, what became of it, and the bytes of that."""
    (tmp_path / "a").write_bytes(content)
    photo = open_photo(tmp_path / "a")
    done = save_photo(tmp_path / "b", photo, overwrite=True, **options)
    return photo, done, done.path.read_bytes()


@pytest.mark.parametrize(
    "kind", ["motion photo of Google", "gain map", "PNG, packet", "WebP with other chunks", "AVIF 4:4:4"]
)
@pytest.mark.parametrize("target", [None, "tiff"])
def test_xmp_of_parts_that_are_gone_goes_and_the_rest_of_the_packet_stays(tmp_path, kind, target):
    photo, done, _ = saved(tmp_path, ALL[kind], format=target)
    assert photo.metadata.xmp == XMP_OF_A_TELEPHONE
    packet = open_photo(done.path).metadata.xmp
    for gone in (b"MotionPhoto", b"MicroVideo", b"Container", b"Item:", b"hdrgm"):
        assert gone not in packet, gone
    rest = b'<rdf:Description rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" xmlns:xmp='
    rest += (
        b'"http://ns.adobe.com/xap/1.0/" GCamera:BurstID="b7" xmp:Rating="4"><xmp:Label>M\xc3\xa4rz</xmp:Label></rdf'
    )
    assert rest in packet and "XMP no longer describes parts that are left out" in done.notes


def test_a_packet_that_cannot_be_separated_goes_as_a_whole(tmp_path):
    packet = XMP_OF_A_TELEPHONE.replace(b"</Container:Directory>", b"")
    _, done, content = saved(tmp_path, jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)))
    assert b"MotionPhoto" not in content and any("XMP is left out" in note for note in done.notes)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_pixels_of_a_thumbnail_go_and_all_else_of_exif_stays(tmp_path, order):
    block = exif_with_thumbnail(order)
    thumbnail = block[block.index(b"\xff\xd8") :]
    _, done, content = saved(tmp_path, jpeg_with(segment(0xE1, b"Exif\0\0" + block)))
    assert thumbnail[20:200] not in content and done.notes == ("left out: the thumbnail",)
    kept = open_photo(done.path).metadata.exif
    plain, cut = (read_tags(reader_of(one)) for one in (exif(1, order=order), kept))
    assert [{tag: one.data for tag, one in part.items()} for part in (plain.exif, plain.gps)] == [
        {tag: one.data for tag, one in part.items()} for part in (cut.exif, cut.gps)
    ]
    assert len(kept) < len(block) and Image.open(done.path).getexif()[0x0110] == "Model 7"


def test_photoshops_other_resources_stay(tmp_path):
    for kind, block in (("previews", "APP13"), ("TIFF, layers", "34377")):
        _, done, content = saved(tmp_path, ALL[kind])
        kept = dict(open_photo(done.path).metadata.blocks)[block]
        assert b"\x1c\x02\x78\0\5Title" in kept and struct.pack(">4sH", b"8BIM", 1005) in kept
        assert struct.pack(">4sH", b"8BIM", 1036) not in content and b"Adobe Photoshop Document Data" not in content


def test_extended_xmp_with_another_rendering_goes_and_so_does_the_reference_to_it(tmp_path):
    digest = b"0123456789ABCDEF" * 2
    packet = b'<x xmlns:n="http://ns.adobe.com/xmp/note/" xmlns:p="u" n:HasExtendedXMP="%s" p:a="b"/>' % digest

    def photo(more):
        head = b"http://ns.adobe.com/xmp/extension/\0" + digest + struct.pack(">II", len(more), 0)
        return jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet), segment(0xE1, head + more))

    depth = b'<y xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Data="iVBO"/>'
    _, done, content = saved(tmp_path, photo(depth))
    assert depth in content and packet in content and done.notes == ()
    for content, options in (
        (photo(depth + b'<z xmlns:G="http://ns.google.com/photos/1.0/image/"/>'), {}),
        (photo(depth), {"format": "png"}),
    ):
        _, done, content = saved(tmp_path, content, **options)
        assert b"GDepth" not in content and b"HasExtendedXMP" not in content and b'p:a="b"' in content and done.notes


def tags_of(content):
    return parts_of(content), {k.removeprefix("0/"): v[0] for k, v in parts_of(content).items() if k.startswith("0/")}


def test_a_tiff_is_stored_as_it_was_wherever_that_loses_nothing(tmp_path):
    for kind in ("palette, LZW", "CMYK, LZW", "tiles", "planes", "BigTIFF", "unknown channel"):
        photo, done, content = saved(tmp_path, tiffs()[kind])
        (old, before), (new, after) = tags_of(tiffs()[kind]), tags_of(content)
        for tag in ("259", "284", "322", "323", "338"):
            lost = kind.startswith("CMYK") and tag == "338"
            assert lost or before.get(tag) == after.get(tag), (kind, tag)
        assert old["header"] == new["header"], kind
        np.testing.assert_array_equal(open_photo(done.path).pixels, photo.pixels)
    _, done, _ = saved(tmp_path, tiffs()["unknown channel"], format="png")  # which would show it as transparency
    assert open_photo(done.path).alpha is None and "a channel of unknown meaning is left out" in done.notes


@pytest.mark.parametrize("kind", ["thumbnail first", "full size below a thumbnail", "overviews", "pyramid"])
def test_the_first_picture_of_full_size_is_the_photo(tmp_path, kind):
    (tmp_path / "a.tif").write_bytes(tiffs()[kind])
    np.testing.assert_array_equal(open_photo(tmp_path / "a.tif").pixels, PHOTO)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif"), PHOTO)
    assert photo_size(tmp_path / "a.tif") == (60, 40)


def test_what_the_first_directory_says_holds_for_a_photo_behind_its_thumbnail(tmp_path):
    few, extra = np.ascontiguousarray(PHOTO[::4, ::4]), [(271, "s", 0, "Maker", True), (274, "H", 1, 6, True)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(few, photometric="rgb", subfiletype=1, metadata=None, extratags=extra)
        writer.write(PHOTO, photometric="rgb", metadata=None, compression="zlib")
    photo = open_photo(tmp_path / "a.tif")
    assert photo.orientation == 6 and photo.encoding.compression == "zlib"
    assert read_tags(reader_of(photo.metadata.exif)).main[271].data == b"Maker\0"


def test_a_transparent_color_of_16_bits_becomes_alpha(tmp_path):
    photo, done, _ = saved(tmp_path, ALL["PNG, transparent color of 16 bits"])
    np.testing.assert_array_equal(photo.alpha, np.where((DEEP[3, 4] == DEEP).all(-1), 0, 65535))
    np.testing.assert_array_equal(open_photo(done.path).alpha, photo.alpha)


def test_the_names_of_channels_and_bits_are_right_in_other_formats(tmp_path):
    _, done, _ = saved(tmp_path, ALL["PPM of 10 bits"], format="png")
    assert done.notes == ("values up to 1023 became values up to 65535",)
    assert saved(tmp_path, ALL["PPM of 10 bits"], format="jpeg")[1].notes[0] == "10 bits became 8"


def test_a_file_of_another_kind_than_its_name_says_is_noted(tmp_path):
    (tmp_path / "a.jpg").write_bytes(rich_bytes("png8"))
    assert open_photo(tmp_path / "a.jpg").notes == ("its suffix is .jpg, but its content is PNG, and is saved as such",)
    (tmp_path / "a.nef").write_bytes(rich_bytes("jpeg"))
    with pytest.raises(UnreadablePhotoError, match=r"a raw file, but its content is JPEG: rename it to \.jpg"):
        open_photo(tmp_path / "a.nef")


@pytest.mark.parametrize("more", ["thumbnail", "further pictures", "turned"])
def test_what_heic_cannot_keep_is_named(tmp_path, more):
    options = {"thumbnail": {"thumbnails": [32]}, "turned": {"exif": b"Exif\0\0" + exif(6)}}.get(more, {})
    heic_file(tmp_path / "a.heic", np.tile(PHOTO, (4, 4, 1)), further=more == "further pictures", **options)
    done = save_photo(tmp_path / "b.heic", open_photo(tmp_path / "a.heic"))
    said = {"thumbnail": "the thumbnail", "turned": "rotated upright"}.get(more, more)
    assert any(said in note for note in done.notes), done.notes
    gone = differences((tmp_path / "a.heic").read_bytes(), (tmp_path / "b.heic").read_bytes())
    assert gone <= {"item hvc1", "reference thmb", "irot", "hvcC", "pixi", "colr"}
    assert save_photo(tmp_path / "c.heic", open_photo(tmp_path / "b.heic")).notes == ()


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def test_pictures_beside_the_main_one_are_told_by_their_boxes():
    entries = [
        (1, b"hvc1"),
        (2, b"hvc1"),
        (3, b"hvc1"),
        (4, b"hvc1"),
        (5, b"tmap"),
        (6, b"Exif"),
        (7, b"hvc1"),
        (9, b"mime\0text/plain"),
        (8, b"hvc1"),
    ]
    infe = b"".join(
        box(b"infe", b"\2\0\0\0" + struct.pack(">HH", number, 0) + kind + b"\0") for number, kind in entries
    )
    references = [(b"auxl", 2, [1]), (b"auxl", 3, [1]), (b"auxl", 4, [1]), (b"dimg", 5, [1, 7]), (b"cdsc", 6, [1])]
    iref = b"".join(box(kind, struct.pack(f">HH{len(to)}H", start, len(to), *to)) for kind, start, to in references)
    kinds = [b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:hevc:2015:auxid:2", b"urn:com:apple:photo:2020:aux:hdrgainmap"]
    ipco = box(b"ispe", struct.pack(">III", 0, 60, 40)) + b"".join(
        box(b"auxC", bytes(4) + one + b"\0") for one in kinds
    )
    ipma = bytes(4) + struct.pack(">I", 4) + b"".join(struct.pack(">HBB", n, 1, n) for n in (1, 2, 3, 4))
    meta = box(b"pitm", bytes(4) + b"\0\1") + box(b"iinf", bytes(4) + struct.pack(">H", len(entries)) + infe)
    meta += box(b"iref", bytes(4) + iref) + box(b"iprp", box(b"ipco", ipco) + box(b"ipma", ipma))
    content = box(b"ftyp", b"heic\0\0\0\0mif1") + box(b"meta", bytes(4) + meta) + box(b"mpvd", MP4)
    content += box(b"sefd", bytes(9)) + box(b"uuid", bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + bytes(9))
    items = boxes.read_items(Source("a", content))
    assert boxes.size_of(items) == (60, 40)
    assert boxes.other_parts(items) == {
        "the box sefd", "an item of text/plain", "the depth map", "the gain map", "further pictures",
        "the video of a motion photo", "content credentials (C2PA)",
    }  # fmt: skip
