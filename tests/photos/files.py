"""Files to open: photos with everything that a file may hold beside its pixels."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from skimage import data

PHOTO = np.ascontiguousarray(data.astronaut()[100:140, 200:260])  # (40, 60, 3)
DEEP = PHOTO.astype(np.uint16) * 257 - np.arange(40, dtype=np.uint16)[:, None, None]  # low bytes that matter
DEEP[PHOTO == 0] = 3
ALPHA = np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# a color space of our own: what counts is that its bytes come back
WIDE = SRGB[:100] + b"wide gamut" + SRGB[110:] + bytes(80_000)
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/'
    b'1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
    b'xmp:Rating="4" exif:GPSLatitude="52,30.5N" exif:GPSLongitude="13,24E"><photoshop:City>Berlin</photoshop:City>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
)
MAKER_NOTE = bytes(range(256)) * 3


def exif(orientation=1, gps=True, order="<"):
    """An EXIF block with a maker's note, GPS and a thumbnail, with or without "Exif\\0\\0" before it."""
    tags = Image.Exif()
    tags.endian = order
    tags[0x0112] = orientation
    tags[0x010F] = "Maker of cameras"
    tags[0x0110] = "Model 7"
    tags.get_ifd(0x8769).update({0x829A: (1, 250), 0x8827: 3200, 0x927C: MAKER_NOTE, 0x9003: "2026:11:24 10:20:30"})
    if gps:
        tags.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 27.5), 3: "E", 4: (13.0, 24.0, 18.25), 29: "2026:11:24"})
    return tags.tobytes().removeprefix(b"Exif\0\0")


def with_chunks(png, *chunks):
    """A PNG with (name, content) chunks behind its header."""
    new = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return png[:33] + new + png[33:]


def pillow_bytes(pixels, format, **options):
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, format, **options)
    return stream.getvalue()


def rich_bytes(kind, orientation=1):
    """A file of `kind` with EXIF, XMP, ICC profile and resolution."""
    beside = {"exif": exif(orientation), "xmp": XMP, "icc_profile": WIDE}
    if kind == "jpeg":
        beside["exif"] = b"Exif\0\0" + beside["exif"]
        return pillow_bytes(PHOTO, "JPEG", quality=91, subsampling=1, dpi=(300, 240), comment=b"hello", **beside)
    if kind in ("webp", "avif"):
        return pillow_bytes(PHOTO, kind, quality=90, **beside)
    if kind in ("png8", "png16"):
        pixels = np.dstack([PHOTO, ALPHA]) if kind == "png8" else DEEP
        chunks = [(b"iCCP", b"ICC\0\0" + zlib.compress(WIDE)), (b"pHYs", struct.pack(">IIB", 11811, 9449, 1))]
        chunks += [
            (b"eXIf", beside["exif"]),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
            (b"tEXt", b"Title\0Mine"),
        ]
        return with_chunks(imagecodecs.png_encode(pixels), *chunks)
    stream = io.BytesIO()
    extra = [(274, "H", 1, orientation, True), (700, "B", len(XMP), XMP, True), (271, "s", 0, "Maker of cameras", True)]
    options = {"tif16": {"compression": "lzw", "predictor": True}, "tif8": {"byteorder": ">"}}[kind]
    pixels = DEEP if kind == "tif16" else PHOTO
    tifffile.imwrite(
        stream, pixels, photometric="rgb", iccprofile=WIDE, resolution=(300, 240), extratags=extra, software="mine",
        metadata=None, description="what it shows", **options,
    )  # fmt: skip
    return stream.getvalue()


SUFFIX = {"jpeg": "jpg", "webp": "webp", "avif": "avif", "png8": "png", "png16": "png", "tif8": "tif", "tif16": "tif"}


def heic_file(path, pixels, further=False, **options):
    library = pytest.importorskip("pillow_heif")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[2]] + (";16" if pixels.dtype == np.uint16 else "")
    file = library.from_bytes(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels).tobytes())
    file[0].info.update(icc_profile=WIDE, icc_profile_type="prof")
    if further:
        file.add_frombytes(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels[::-1]).tobytes())
    file.save(path, quality=95, xmp=XMP, **options)
    return path


def dng(path):
    """A raw file of a Bayer sensor, as small as LibRaw takes it."""
    rng = np.random.default_rng(0)
    mosaic = (rng.normal(9000, 300, (128, 192)).clip(0, 16383)).astype(np.uint16)
    rationals = [(one, 10000) for one in (6722, -635, -963, -4287, 12460, 2028, -908, 2162, 5668)]
    flat = [part for pair in rationals for part in pair]
    extra = [
        (271, "s", 0, "Canon", True), (272, "s", 0, "Canon EOS 6D", True), (274, "H", 1, 6, True),
        (33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True),
        (50706, "B", 4, (1, 4, 0, 0), True), (50708, "s", 0, "Canon EOS 6D", True),
        (50714, "H", 1, 512, True), (50717, "H", 1, 16383, True), (50721, "2i", 9, flat, True),
        (50728, "2I", 3, (1, 2, 1, 1, 2, 3), True), (50778, "H", 1, 21, True),
    ]  # fmt: skip
    tifffile.imwrite(path, mosaic, photometric=32803, metadata=None, software=False, extratags=extra, subfiletype=0)
    return path
