"""Files with parts that a restored photo cannot keep, made byte by byte."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

from .files import ALPHA, DEEP, PHOTO, SRGB, exif, pillow_bytes, with_chunks

MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(200)
GRAY = np.ascontiguousarray(PHOTO[..., 1])
XMP_OF_A_TELEPHONE = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" '
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" '
    'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" GCamera:MicroVideoOffset="224" GCamera:BurstID="b7" '
    "hdrgm:Version='1.0' xmp:Rating=\"4\"><xmp:Label>März</xmp:Label>"
    '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="image/jpeg" '
    'Item:Semantic="Primary"/></rdf:li><rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="video/mp4" '
    'Item:Semantic="MotionPhoto" Item:Length="224"/></rdf:li></rdf:Seq></Container:Directory>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
).encode()


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(*segments, after=b"", pixels=PHOTO, **options):
    content = pillow_bytes(pixels, "JPEG", quality=90, **options)
    return content[:20] + b"".join(segments) + content[20:] + after  # behind JFIF


def exif_with_thumbnail(order="<"):
    """A block whose second directory is a small JPEG of the unrestored photo."""
    block, thumbnail = bytearray(exif(1, order=order)), pillow_bytes(PHOTO[:16, :16], "JPEG")
    at = struct.unpack_from(f"{order}I", block, 4)[0]
    end = at + 2 + 12 * struct.unpack_from(f"{order}H", block, at)[0]
    block += bytes(len(block) % 2)
    struct.pack_into(f"{order}I", block, end, len(block))
    entries = ((259, 3, 1, 6), (513, 4, 1, len(block) + 2 + 36 + 4), (514, 4, 1, len(thumbnail)))
    block += struct.pack(f"{order}H", 3)
    for tag, kind, count, value in entries:
        block += struct.pack(f"{order}HHI", tag, kind, count)
        block += struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", value)
    return bytes(block + bytes(4)) + thumbnail


def resources(*blocks):
    """Photoshop's image resources."""
    parts = [
        b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) % 2) for number, data in blocks
    ]
    return b"".join(parts)


IPTC_AND_THUMBNAIL = resources(
    (1028, b"\x1c\x02\x78\0\5Title"), (1036, pillow_bytes(PHOTO[:8, :8], "JPEG")), (1005, bytes(16))
)


def jpegs():
    other = pillow_bytes(PHOTO[:8, :8], "JPEG")
    samsung = b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + MP4 + b"SEFH" + bytes(20) + struct.pack("<I", 24) + b"SEFT"
    packet = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP_OF_A_TELEPHONE)
    rgb = io.BytesIO()
    Image.fromarray(PHOTO).save(rgb, "JPEG", quality=90, keep_rgb=True)
    return {
        "motion photo of Google": jpeg_with(packet, after=MP4),
        "motion photo of Samsung": jpeg_with(packet, after=samsung),
        "gain map": jpeg_with(
            packet,
            segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4)),
            segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + bytes(30)),
            after=other + other,
        ),
        "motion photo with a gain map": jpeg_with(packet, after=other + MP4, progressive=True),
        "claims": jpeg_with(segment(0xEB, b"JP\0\1\0\0\0\1" + struct.pack(">I", 40) + b"jumb" + bytes(32))),
        "previews": jpeg_with(
            segment(0xE0, b"JFXX\0\x10" + other),
            segment(0xE1, b"Exif\0\0" + exif_with_thumbnail()),
            segment(0xED, b"Photoshop 3.0\0" + IPTC_AND_THUMBNAIL),
            segment(0xE5, other),
        ),
        "two packets": jpeg_with(packet, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")),
        "half of a profile": jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\2" + SRGB[:200])),
        "unknown bytes behind": jpeg_with(after=b"something else"),
        "CMYK": pillow_bytes(Image.fromarray(PHOTO).convert("CMYK"), "JPEG", quality=90, icc_profile=SRGB),
        "RGB": rgb.getvalue(),
        "4:1:1": pillow_bytes(PHOTO, "JPEG", quality=90, subsampling="4:1:1"),
        "gray": pillow_bytes(GRAY, "JPEG", quality=90),
    }


def png_of_few_bits(bits):
    values = (GRAY >> (8 - bits)).astype(np.uint8)
    rows = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(40, -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 60, 40, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + with_chunks(bytes(33), *chunks)[33:]


def broken_checksum(png, name):
    at = png.index(name)
    end = at + 4 + struct.unpack(">I", png[at - 4 : at])[0]
    return png[:end] + b"\1\2\3\4" + png[end + 4 :]


def pngs():
    plain, deep = pillow_bytes(PHOTO, "PNG"), imagecodecs.png_encode(DEEP)
    palette = Image.fromarray(PHOTO).quantize(16)
    frames = io.BytesIO()
    Image.fromarray(PHOTO).save(frames, "PNG", save_all=True, append_images=[Image.fromarray(255 - PHOTO)])
    key = DEEP[3, 4]
    return {
        "many chunks": with_chunks(
            plain,
            (b"sBIT", b"\5\6\5"),
            (b"bKGD", bytes(6)),
            (b"caBX", bytes(30)),
            (b"vpAG", b"private"),
            (b"vpAg", b"safe to copy"),
            (b"PLTE", bytes(range(9))),
            (b"cICP", b"\x0c\x0d\0\1"),
            (b"iDOT", bytes(28)),
        ),  # fmt: skip
        "animation": frames.getvalue(),
        "transparent color": with_chunks(plain, (b"tRNS", struct.pack(">HHH", *map(int, PHOTO[3, 4])))),
        "transparent color of 16 bits": with_chunks(deep, (b"tRNS", struct.pack(">HHH", *map(int, key)))),
        "transparent gray of 16 bits": with_chunks(
            imagecodecs.png_encode(np.ascontiguousarray(DEEP[..., 0])), (b"tRNS", struct.pack(">H", int(DEEP[3, 4, 0])))
        ),
        "1 bit": png_of_few_bits(1),
        "2 bits": png_of_few_bits(2),
        "4 bits": png_of_few_bits(4),
        "palette": pillow_bytes(palette, "PNG", bits=4),
        "broken profile": with_chunks(plain, (b"iCCP", b"p\0\0" + zlib.compress(SRGB)[:-400])),
        "broken checksum": broken_checksum(with_chunks(plain, (b"tEXt", b"Title\0Mine")), b"tEXt"),
        "huge text": with_chunks(plain, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9))),
        "bytes after the end": plain + b"more",
        "packet": with_chunks(plain, (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_OF_A_TELEPHONE))),
    }


def tiffs():
    def made(pixels, extra=(), **options):
        stream = io.BytesIO()
        options.setdefault("photometric", "rgb" if pixels.ndim == 3 else "minisblack")
        tifffile.imwrite(stream, pixels, metadata=None, extratags=extra, **options)
        return stream.getvalue()

    def several(*pages, **options):
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as writer:
            for number, (pixels, kind) in enumerate(pages):
                below = options.get("below", 0) if number == 0 else 0
                writer.write(pixels, photometric="rgb", subfiletype=kind, metadata=None, subifds=below)
        return stream.getvalue()

    def stack():
        stream = io.BytesIO()
        tifffile.imwrite(stream, np.stack([PHOTO, 255 - PHOTO]), photometric="rgb")  # describes the shape of all
        return stream.getvalue()

    image = Image.fromarray(PHOTO)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    few = np.ascontiguousarray(PHOTO[::4, ::4])
    return {
        "JPEG": pillow_bytes(image, "TIFF", compression="jpeg"),
        "palette, LZW": pillow_bytes(image.quantize(16), "TIFF", compression="tiff_lzw"),
        "CMYK, LZW": pillow_bytes(image.convert("CMYK"), "TIFF", compression="tiff_lzw", icc_profile=lab),
        "G4": pillow_bytes(Image.fromarray(GRAY > 99), "TIFF", compression="group4"),
        "G3": pillow_bytes(Image.fromarray(GRAY > 99), "TIFF", compression="group3"),
        "tiles": made(PHOTO, tile=(16, 16), compression="lzw"),
        "planes": made(np.moveaxis(DEEP, -1, 0).copy(), planarconfig="separate", byteorder=">"),
        "BigTIFF": made(PHOTO, bigtiff=True, compression="packbits"),
        "4 bits": made(GRAY >> 4, bitspersample=4),
        "white is zero": made(GRAY, photometric="miniswhite"),
        "layers": made(
            PHOTO,
            extra=[
                (37724, "B", 4000, b"Adobe Photoshop Document Data Block\0".ljust(4000, b"x"), True),
                (34377, "B", len(IPTC_AND_THUMBNAIL), IPTC_AND_THUMBNAIL, True),
                (700, "B", len(XMP_OF_A_TELEPHONE), XMP_OF_A_TELEPHONE, True),
                (52545, "B", 40, bytes(40), True),
                (301, "H", 768, [0] * 768, True),
            ],
        ),
        "pyramid": several((PHOTO, 0), (few, 1), below=1),
        "overviews": several((PHOTO, 0), (few, 1)),
        "pages": several((PHOTO, 0), (255 - PHOTO, 0)),
        "thumbnail first": several((few, 1), (PHOTO, 0)),
        "stack": stack(),
        "full size below a thumbnail": several((few, 1), (PHOTO, 0), below=1),
        "unknown channel": made(np.dstack([PHOTO, ALPHA]), extrasamples=["unspecified"]),
        "two channels more": made(np.dstack([PHOTO, ALPHA, ALPHA]), extrasamples=["unassalpha", "unspecified"]),
    }


def others():
    image, second = Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)
    lossy = pillow_bytes(PHOTO, "WEBP", exif=exif_with_thumbnail(), xmp=XMP_OF_A_TELEPHONE)
    unknown = lossy + b"C2PA" + struct.pack("<I", 6) + bytes(6) + b"abcd" + struct.pack("<I", 2) + bytes(2)
    profile_at_end = bytearray(pillow_bytes(PHOTO, "BMP"))
    profile_at_end[14:54] = profile_at_end[14:54].ljust(124, b"\0")  # a header of version 5
    struct.pack_into("<I", profile_at_end, 10, 138)
    struct.pack_into("<I", profile_at_end, 14, 124)
    profile_at_end[70:74] = b"DEBM"
    struct.pack_into("<II", profile_at_end, 126, len(profile_at_end) - 14, len(SRGB))
    alpha = struct.pack("<IiiHHIIiiII", 108, 60, -40, 1, 32, 3, 9600, 9999, 9999, 0, 0)
    alpha += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    alpha = struct.pack("<2sIHHI", b"BM", 9722, 0, 0, 122) + alpha + np.dstack([PHOTO[..., ::-1], ALPHA]).tobytes()
    return {
        "animated WebP": pillow_bytes(image, "WEBP", save_all=True, append_images=[second], lossless=True),
        "lossless WebP": pillow_bytes(PHOTO, "WEBP", lossless=True),
        "WebP with other chunks": unknown[:4] + struct.pack("<I", len(unknown) - 8) + unknown[8:],
        "AVIF 4:4:4": pillow_bytes(PHOTO, "AVIF", subsampling="4:4:4", xmp=XMP_OF_A_TELEPHONE),
        "AVIF sequence": pillow_bytes(image, "AVIF", save_all=True, append_images=[second]),
        "AVIF of 10 bits": imagecodecs.avif_encode(DEEP >> 6, bitspersample=10),
        "BMP of a palette": pillow_bytes(image.quantize(16), "BMP"),
        "BMP of 1 bit": pillow_bytes(Image.fromarray(GRAY > 99), "BMP"),
        "BMP with alpha": alpha,
        "BMP of 32 bits": pillow_bytes(np.dstack([PHOTO, ALPHA]), "BMP"),
        "BMP with a profile": bytes(profile_at_end) + SRGB,
        "PPM with comments": b"P6\n# of a scanner\n60 40\n255\n" + PHOTO.tobytes(),
        "two PPM": 2 * (b"P6 60 40 255\n" + PHOTO.tobytes()),
        "PPM of 10 bits": b"P6 60 40 1023\n" + (DEEP >> 6).astype(">u2").tobytes(),
        "plain PGM": b"P2\n60 40\n255\n" + " ".join(map(str, GRAY.ravel())).encode(),
        "PBM": b"P4\n60 40\n" + b"".join(np.packbits(row > 99).tobytes() for row in GRAY),
    }


ALL = {
    **jpegs(),
    **{f"PNG, {k}": v for k, v in pngs().items()},
    **{f"TIFF, {k}": v for k, v in tiffs().items()},
    **others(),
}
