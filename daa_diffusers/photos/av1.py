"""Color information in the sequence header of AV1 data (AV1 specification, sections 5.5.1 and 5.5.2)."""

from collections.abc import Iterator

SEQUENCE_HEADER = 1
MAX_BYTES = 4096  # bytes to parse; the header is at the start


class _Bits:
    """Reader of unsigned integers from a bit stream, most significant bit first; raises IndexError at the end."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def read(self, count: int) -> int:
        """Reads `count` bits: f(n), section 4.10.2."""
        value = 0
        for _ in range(count):
            value = 2 * value + (self.content[self.at // 8] >> (7 - self.at % 8) & 1)
            self.at += 1
        return value

    def variable(self) -> int:
        """Reads a number of variable length: uvlc(), section 4.10.3."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return self.read(zeros) + 2**zeros - 1 if zeros < 32 else 2**32 - 1


def color_of(data: bytes) -> tuple[int, int] | None:
    """(primaries, transfer) of the first sequence header, as code points of ITU-T H.273; None if not stated."""
    try:
        header = next((content for kind, content in _units(data[:MAX_BYTES]) if kind == SEQUENCE_HEADER), None)
        return None if header is None else _color(_Bits(header))
    except IndexError:
        return None


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (type, payload) of the open bitstream units (section 5.3)."""
    at = 0
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] & 4, data[at] & 2
        at += 2 if extended else 1
        size = len(data) - at
        if sized:
            size = 0
            for place in range(8):  # leb128(), section 4.10.5
                size |= (data[at] & 127) << 7 * place
                at += 1
                if data[at - 1] < 128:
                    break
        yield kind, data[at : at + size]
        at += size


def _color(bits: _Bits) -> tuple[int, int] | None:
    """Parses sequence_header_obu(), section 5.5.1, up to the color description."""
    read = bits.read
    profile, _still, reduced = read(3), read(1), read(1)
    if reduced:
        read(5)  # level
    else:
        _operating_points(bits)
    sides = read(4) + 1, read(4) + 1
    read(sides[0]), read(sides[1])  # maximum width and height
    if not reduced and read(1):  # frame ids
        read(7)
    read(3)  # superblocks, two filters
    if not reduced:
        _tools(bits)
    read(3)  # super-resolution, directional enhancement, loop restoration
    # color_config()
    if read(1) and profile == 2:
        read(1)  # 12 bits
    if profile != 1:
        read(1)  # gray
    return (read(8), read(8)) if read(1) else None


def _operating_points(bits: _Bits) -> None:
    """Skips the operating points (section 5.5.1)."""
    read, delay = bits.read, 0
    if read(1):  # timing_info()
        read(64)
        if read(1):
            bits.variable()
        if read(1):  # decoder_model_info()
            delay = read(5) + 1
            read(42)
    displayed = read(1)
    for _ in range(read(5) + 1):
        read(12)
        if read(5) > 7:  # level
            read(1)
        if delay and read(1):
            read(2 * delay + 1)
        if displayed and read(1):
            read(4)


def _tools(bits: _Bits) -> None:
    """Skips the coding tools (section 5.5.1)."""
    read = bits.read
    read(4)  # compound, warped motion, dual filter
    ordered = read(1)  # order hints
    if ordered:
        read(2)
    screen = 1 if read(1) else read(1)  # screen content tools: chosen per frame, or stated here
    if screen and not read(1):
        read(1)
    if ordered:
        read(3)
