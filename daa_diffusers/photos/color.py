"""Transfer functions in ICC profiles and as code points (ITU-T H.273), and rejection of HDR."""

import re

from ..errors import UnreadablePhotoError

HDR_TRANSFERS = (16, 18)  # PQ and HLG


def check_transfer(transfer: int, format: str) -> None:
    """Rejects HDR, which would be misread as SDR.

    Args:
        transfer: code point of the transfer function.
        format: name of the file format, for messages.

    Raises:
        UnreadablePhotoError: the transfer function is PQ or HLG.
    """
    if transfer in HDR_TRANSFERS:
        name = "PQ" if transfer == 16 else "HLG"
        raise UnreadablePhotoError(f"HDR ({name}) in {format} is not supported; convert it to SDR first")


def transfer_of_profile(icc: bytes | None) -> int:
    """Code point of an ICC profile's transfer function; 2 (unspecified) if not stated.

    It is read from the `cicp` tag (ICC.1:2022, 9.2.17), or from a description such as "Rec. ITU-R BT.2100 PQ".
    """
    tags = _tags(icc or b"")
    stated = tags.get(b"cicp", b"")
    if stated[:4] == b"cicp" and len(stated) >= 12:
        return stated[9]
    words = tags.get(b"desc", b"").replace(b"\0", b"")  # ASCII, or UTF-16 without its zero bytes
    named = re.search(rb"2100.{0,20}(PQ|HLG)|(PQ|HLG).{0,20}2100", words)
    return 2 if named is None else 16 if b"PQ" in named[0] else 18


def _tags(icc: bytes) -> dict[bytes, bytes]:
    """The first 1000 bytes of each tag, from the tag table after the header (ICC.1:2022, 7.3)."""
    tags = {}
    for at in range(132, 132 + 12 * min(int.from_bytes(icc[128:132], "big"), 100), 12):
        start, size = (int.from_bytes(icc[k : k + 4], "big") for k in (at + 4, at + 8))
        tags[icc[at : at + 4]] = icc[start : start + min(size, 1000)]
    return tags
