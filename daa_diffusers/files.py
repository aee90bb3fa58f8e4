"""Files that are whole or not there: written beside their place, then renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a hidden name beside `path` to write to, and renames it to `path` when all went well.

    A reader never sees half a file, and what was at `path` stays until the new file is whole. On an error, or where
    nothing was written, nothing is left behind. The suffix is that of `path`, as writers choose their format by it.
    """
    path = Path(path)
    # by chance, not by process: processes of several machines may share a folder and a number
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes `text` (UTF-8; names of files that are not, as they were) to `path` as `replacing` does; returns it."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path
