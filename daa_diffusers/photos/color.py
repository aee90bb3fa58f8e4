"""Transfer functions in ICC profiles and as code points (ITU-T H.273), and rejection of HDR."""

import re

from ..errors import UnreadablePhotoError

PQ, HLG, UNSPECIFIED = 16, 18, 2  # code points of transfer functions


def check_transfer(transfer: int, format: str) -> None:
    """Rejects HDR, which would be misread as SDR.

    Args:
        transfer: code point of the transfer function.
        format: name of the file format, for messages.

    Raises:
        UnreadablePhotoError: the transfer function is PQ or HLG.
    """
    if transfer in (PQ, HLG):
        name = "PQ" if transfer == PQ else "HLG"
        raise UnreadablePhotoError(f"HDR ({name}) in {format} is not supported; convert it to SDR first")


def transfer_of_profile(icc: bytes | None) -> int:
    """Code point of an ICC profile's transfer function; `UNSPECIFIED` if the profile does not state it.

    It is read from the `cicp` tag (ICC.1:2022, 9.2.17), or from a description such as "Rec. ITU-R BT.2100 PQ".
    """
    tags = _tags(icc or b"")
    code_points = tags.get(b"cicp", b"")
    if code_points[:4] == b"cicp" and len(code_points) >= 12:
        return code_points[9]
    description = tags.get(b"desc", b"").replace(b"\0", b"")  # ASCII, or UTF-16 without its zero bytes
    named = re.search(rb"2100.{0,20}(PQ|HLG)|(PQ|HLG).{0,20}2100", description)
    if named is None:
        return UNSPECIFIED
    return PQ if b"PQ" in named[0] else HLG


def _tags(icc: bytes) -> dict[bytes, bytes]:
    """The first 1000 bytes of at most 100 tags by signature, from the tag table of a profile (ICC.1:2022, 7.3)."""
    tags = {}
    count = min(int.from_bytes(icc[128:132], "big"), 100)
    for at in range(132, 132 + 12 * count, 12):  # an entry: signature, offset and size of 4 bytes each
        start, size = int.from_bytes(icc[at + 4 : at + 8], "big"), int.from_bytes(icc[at + 8 : at + 12], "big")
        tags[icc[at : at + 4]] = icc[start : start + min(size, 1000)]
    return tags
