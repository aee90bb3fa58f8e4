"""Error messages, with advice, for files that are not photos or cannot be decoded."""

import errno

from ..errors import UnreadablePhotoError
from .source import Source

START_BYTES = 4096  # read from the start of a file to diagnose it
_UNKNOWN = "its content is not a photo in a known format"
_EXPORT = "export it as JPEG, PNG or TIFF"
# Signatures of other file types: (offset, signature, diagnosis and advice).
_KNOWN = (
    (0, b"GIF8", f"it is a GIF, whose colors are reduced too far: {_EXPORT} from the original"),
    (0, b"8BPS", f"it is a Photoshop document: {_EXPORT}"),
    (0, b"\xff\x0a", f"it is a JPEG XL: {_EXPORT}"),
    (4, b"JXL ", f"it is a JPEG XL: {_EXPORT}"),
    (0, b"\xff\x4f\xff\x51", f"it is a JPEG 2000: {_EXPORT}"),
    (4, b"jP  ", f"it is a JPEG 2000: {_EXPORT}"),
    (0, b"v/1\x01", f"it is an OpenEXR file of floating point, whose value range is unknown: {_EXPORT}"),
    (0, b"#?RADIANCE", f"it is a Radiance HDR file of floating point, whose value range is unknown: {_EXPORT}"),
    (0, b"PF", f"it is a PFM of floating point, whose value range is unknown: {_EXPORT}"),
    (0, b"Pf", f"it is a PFM of floating point, whose value range is unknown: {_EXPORT}"),
    (0, b"P7", f"it is a PAM: {_EXPORT}"),
    (0, b"\0\0\1\0", f"it is an icon: {_EXPORT}"),
    (0, b"%PDF", "it is a PDF: export its photos first"),
    (0, b"%!PS", "it is PostScript: export its photos first"),
    (0, b"PK\3\4", "it is a ZIP archive: unpack it first"),
    (0, b"\x1f\x8b", "it is a gzip archive: unpack it first"),
    (0, b"7z\xbc\xaf", "it is a 7z archive: unpack it first"),
    (0, b"Rar!", "it is a RAR archive: unpack it first"),
    (8, b"AVI ", "it is a video"),
    (0, b"\x1aE\xdf\xa3", "it is a video"),
    (4, b"ftyp", "it is a video"),  # photos of this family are recognized earlier
    (0, b"version https://git-lfs", "it is a Git LFS pointer, not the photo: fetch the photo by `git lfs pull`"),
    (
        0,
        b"\x89PNG",
        "it is a PNG whose signature was damaged, perhaps by a transfer in text mode: copy it in binary mode",
    ),
)
_STORAGE_ERRORS = (errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE, errno.EMFILE, errno.ENOMEM)
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
# Words in the messages of decoders for truncated files.
_TRUNCATED = (
    "truncated", "end of file", "unexpected end", "premature", "not enough", "too short", "incomplete", "requested",
)  # fmt: skip


def truncated(format: str) -> str:
    """Message for a truncated file."""
    return f"the {format.upper()} is truncated: it ends before its picture is complete; copy or download it again"


def damaged(format: str) -> str:
    """Message for a file whose picture cannot be decoded."""
    return f"the {format.upper()} is damaged: its picture cannot be decoded; copy or download it again"


def reason(error: Exception, format: str) -> str:
    """Message for an exception of a decoder; the decoder's own message stays in the exception chain.

    Args:
        error: exception of the decoder.
        format: name of the file format.
    """
    if isinstance(error, UnreadablePhotoError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        return error.strerror or str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    message = str(error).lower()
    return truncated(format) if any(words in message for words in _TRUNCATED) else damaged(format)


def unknown_content(source: Source) -> str:
    """Message for a file that no format recognizes."""
    start = source.read(0, START_BYTES)
    if not source.size:
        return "the file is empty"
    if not start.strip(b"\0"):
        return "it starts with zeros only: its copy or download is incomplete, or its disk is damaged"
    for offset, signature, diagnosis in _KNOWN:
        if start[offset:].startswith(signature):
            return f"{_UNKNOWN}: {diagnosis}"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        return f"{_UNKNOWN}: it is a web page (HTML); download the photo itself"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return f"{_UNKNOWN}: it is a drawing (SVG): {_EXPORT}"
    if _is_text(start):
        return f"{_UNKNOWN}: it is text"
    return f"{_UNKNOWN}, or its beginning is damaged"


def _is_text(start: bytes) -> bool:
    uncut = start[:-3] if len(start) == START_BYTES else start  # the last character may be cut
    try:
        text = uncut.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
