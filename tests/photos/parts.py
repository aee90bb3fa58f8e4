"""The parts of a photo's file, listed by name: segments, chunks, tags, boxes and headers. Standard library only."""

import re
import struct

NAMES = {b"Exif\0\0": "EXIF", b"http://ns.adobe.com/xap": "XMP", b"http://ns.adobe.com/xmp/extension/": "extended XMP"}
NAMES |= {b"ICC_PROFILE\0": "ICC", b"MPF\0": "MPF", b"JFXX\0": "JFXX", b"urn:iso:std:iso:ts:21496": "ISO 21496"}
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def parts_of(content):
    """name -> what stands there (bytes, or values of the header)."""
    for signature, reader in READERS.items():
        if re.match(signature, content, re.DOTALL):
            return reader(content)
    raise AssertionError(content[:16])


def _add(parts, name, value):
    parts[name] = parts[name] + [value] if name in parts else [value]


def jpeg(content):
    parts, at = {}, 2
    while content[at + 1] != 0xDA:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        data, name = content[at + 4 : at + 2 + length], f"{content[at + 1]:02X}"
        if 0xE0 <= marker <= 0xEF:
            named = next((value for key, value in NAMES.items() if data.startswith(key)), "")
            name = f"APP{marker - 0xE0} {named}".strip()
            if named == "EXIF":
                parts |= {f"EXIF {key}": value for key, value in tiff(data[6:]).items()}
                data = b""
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _add(parts, "frame", marker)
            name, data = "components", tuple((data[k], data[k + 1]) for k in range(6, len(data), 3))
        elif marker == 0xDB:
            name = "DQT"
        if marker not in (0xC4, 0xDD):  # Huffman tables and restarts belong to the coding
            _add(parts, name, data)
        at += 2 + length
    while True:
        found = re.compile(rb"\xff[^\0\xd0-\xd7\xff]").search(content, at + 2)
        if found is None or content[found.start() + 1] == 0xD9:
            break
        at = found.start()
    if found is not None and found.end() < len(content):
        parts["trailer"] = [content[found.end() :]]
    return parts


def png(content):
    parts, at = {}, 8
    while at < len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        data = content[at + 8 : at + 8 + length]
        if name == b"IHDR":
            parts["header"] = [struct.unpack(">IIBBBBB", data)]
        elif name not in (b"IDAT", b"IEND"):
            key = name.decode() + (" XMP" if data.startswith(b"XML:com.adobe.xmp") else "")
            _add(parts, key, data if name != b"iCCP" else b"")
        at += 12 + length
        if name == b"IEND":
            break
    return parts | ({"trailer": [content[at:]]} if content[at:] else {})


def tiff(content):
    """Tags of all directories: "0/256" of the first page, "0/330/0/256" of a directory below it."""
    order = "<" if content[:2] == b"II" else ">"
    big = struct.unpack(f"{order}H", content[2:4])[0] == 43
    layout = (f"{order}Q", f"{order}HHQ", 8) if big else (f"{order}H", f"{order}HHI", 4)
    parts = {"header": [order, big]}

    def directory(at, prefix):
        count = struct.unpack_from(layout[0], content, at)[0]
        start = at + struct.calcsize(layout[0])
        size = struct.calcsize(layout[1]) + layout[2]
        pointer = f"{order}{'Q' if big else 'I'}"
        for place in range(start, start + count * size, size):
            tag, kind, number = struct.unpack_from(layout[1], content, place)
            length, value = TIFF_SIZES[kind] * number, place + size - layout[2]
            if length > layout[2]:
                value = struct.unpack_from(pointer, content, value)[0]
            data = content[value : value + length]
            if tag in (330, 34665, 34853, 40965):
                letter = "Q" if TIFF_SIZES[kind] == 8 else "I"
                for k, below in enumerate(struct.unpack(f"{order}{number}{letter}", data)):
                    directory(below, f"{prefix}/{tag}/{k}")
                data = b""
            parts[f"{prefix}/{tag}"] = [data]
        return struct.unpack_from(pointer, content, start + count * size)[0]

    at, page = (
        struct.unpack_from(f"{order}Q", content, 8)[0] if big else struct.unpack_from(f"{order}I", content, 4)[0],
        0,
    )
    while at:
        at, page = directory(at, str(page)), page + 1
    return parts


def webp(content):
    parts, at = {}, 12
    while at + 8 <= len(content):
        size = struct.unpack("<I", content[at + 4 : at + 8])[0]
        name = content[at : at + 4].decode()
        _add(parts, name, b"" if name in ("VP8 ", "VP8L", "VP8X", "ALPH", "ANMF") else content[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return parts


def boxes(content):
    parts = {}

    def walk(start, end, prefix):
        while start + 8 <= end:
            size, name = struct.unpack(">I4s", content[start : start + 8])
            kind, skip = name.decode("latin-1"), 8
            if kind == "meta":
                skip = 12
            elif kind == "iinf":
                skip = 14
            path = f"{prefix}{kind}"
            if kind == "infe":
                _add(parts, f"item {content[start + 16 : start + 20].decode('latin-1')}", b"")
            elif kind in ("auxC", "colr", "pixi", "irot", "imir", "av1C", "hvcC"):
                _add(
                    parts,
                    kind,
                    {"av1C": content[start + 10 : start + 11], "hvcC": content[start + 24 : start + 26]}.get(
                        kind, content[start + 8 : start + size][:500]
                    ),
                )
            elif prefix == "meta/iref/":
                _add(parts, f"reference {kind}", b"")
            elif kind in ("meta", "iref", "iprp", "ipco", "iinf"):
                walk(start + (12 if kind == "iref" else skip), start + size, f"{path}/")
            elif prefix == "":
                _add(parts, kind, b"")
            start += size or end

    walk(0, len(content), "")
    return parts


def bmp(content):
    size, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", content, 14)
    return {"bits": [bits], "compression": [compression], "profile": [content[126:134] if size == 124 else b""]}


def pnm(content):
    header = re.match(rb"P(\d)((?:\s|#[^\n]*\n|\d+(?=\s))*)", content)
    parts = {"type": [header[1]], "comments": re.findall(rb"#[^\n]*", header[2])}
    if header[1] not in b"14":
        width, height, largest = re.sub(rb"#[^\n]*", b"", header[2]).split()[:3]
        parts["largest"] = [largest]
        size = int(width) * int(height) * (3 if header[1] == b"6" else 1) * (2 if int(largest) > 255 else 1)
        after = content[header.end() + 1 + size :] if header[1] in b"56" else b""
        parts |= {"trailer": [after]} if after else {}
    return parts


READERS = {
    rb"\xff\xd8": jpeg, rb"\x89PNG": png, rb"II|MM": tiff, rb"RIFF": webp, rb"....ftyp": boxes, rb"BM": bmp,
    rb"P\d": pnm,
}  # fmt: skip


def differences(before, after):
    """The names of parts that one file has and the other has not, or has otherwise."""
    old, new = parts_of(before), parts_of(after)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
