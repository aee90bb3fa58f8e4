"""Transfer functions that ICC profiles and code points (ITU-T H.273) name: HDR is refused by name."""

from ..errors import UnreadablePhotoError

HDR_TRANSFERS = (16, 18)  # PQ and HLG
_TAG_TABLE = 128


def check_transfer(transfer: int, format: str) -> None:
    """UnreadablePhotoError for HDR: read as if it were SDR, it would be neither the photo nor a restoration of it.

    Args:
        transfer: the code point of the transfer function.
        format: the name of the file format, for messages.
    """
    if transfer in HDR_TRANSFERS:
        name = "PQ" if transfer == 16 else "HLG"
        raise UnreadablePhotoError(f"HDR ({name}) in {format} is not supported; convert it to SDR first")


def transfer_of_profile(icc: bytes | None) -> int:
    """The code point that an ICC profile states in its `cicp` tag (ICC.1:2022, 9.2.17); 2, unspecified, without one."""
    count = int.from_bytes(icc[_TAG_TABLE : _TAG_TABLE + 4], "big") if icc else 0
    for at in range(_TAG_TABLE + 4, _TAG_TABLE + 4 + 12 * min(count, 100), 12):
        entry = (icc or b"")[at : at + 12]
        if entry[:4] == b"cicp":
            content = (icc or b"")[int.from_bytes(entry[4:8], "big") :][:12]
            return content[9] if content[:4] == b"cicp" and len(content) == 12 else 2
    return 2
