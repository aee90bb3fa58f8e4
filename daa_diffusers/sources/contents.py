"""Digests of the files of a source, by which a resumed run detects other photos."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from ..errors import UnreadablePhotoError
from ..files import printable
from .folders import PhotoFolder, PhotoSource
from .hf_datasets import FINGERPRINTED

BLOCK = 4096  # size in bytes of the blocks compared at the start, at the center and at the end of a file
MAX_FILES = 20_000  # number of files above which only names and sizes are compared
SHOWN = 5  # number of files named in a message

Contents = dict[str, Any]  # "name", "window", "fingerprint", and "files" (name -> digest, or None); plain JSON


def contents(source: PhotoSource) -> Contents:
    """Returns the contents of a source, which do not depend on its path.

    A file is identified by its name within the source, its size and three blocks of `BLOCK` bytes; editing a photo in a
    compressed format changes some of them. For a stream, only the first files are compared; for more than `MAX_FILES`
    files, only names and sizes, by the fingerprint.
    """
    files: dict[str, str] | None
    if source.count is not None and source.count > MAX_FILES:
        files = None
    elif isinstance(source, PhotoFolder):
        files = {source.paths[i].relative_to(source.folder).as_posix(): _of_file(source, i) for i in range(len(source))}
    else:
        files = {}
        for index in range(FINGERPRINTED if source.count is None else source.count):
            try:
                content = source.encoded(index)
            except IndexError:  # the end of the stream
                break
            except (OSError, UnreadablePhotoError):
                files[str(source.label(index))] = "unreadable"
                continue
            files[str(source.label(index))] = _digest(io.BytesIO(content))
    window = getattr(source, "window", None)  # determines the order of a stream's photos
    return {"name": source.name, "window": window, "fingerprint": source.fingerprint(), "files": files}


def _of_file(source: PhotoFolder, index: int) -> str:
    """Returns the digest of a file on disk, of which only the blocks are read."""
    try:
        with open(source.paths[index], "rb") as file:
            return _digest(file)
    except OSError:
        return "unreadable"


def _digest(file: BinaryIO) -> str:
    """Returns the digest of the size of a file and of its blocks at the start, at the center and at the end."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    for start in sorted({0, max(0, size // 2 - BLOCK // 2), max(0, size - BLOCK)}):
        file.seek(start)
        digest.update(file.read(BLOCK))
    return digest.hexdigest()


def differences(before: Mapping[str, Sequence[Contents]], now: Mapping[str, Sequence[Contents]]) -> dict[str, str]:
    """Describes what was added, removed or changed in the sources of each role that is in both mappings."""
    changes = {}
    for role in sorted(set(before) & set(now)):
        if len(before[role]) != len(now[role]):
            changes[role] = f"{len(before[role])} sources before, {len(now[role])} now"
            continue
        texts = [
            f"{new['name']!r}: {text}"
            for old, new in zip(before[role], now[role], strict=True)
            if (text := _difference(old, new))
        ]
        if texts:
            changes[role] = "; ".join(texts)
    return changes


def _difference(before: Contents, now: Contents) -> str:
    """Describes the difference of two states of a source; empty if there is none."""
    if before["files"] is not None and now["files"] is not None:
        old, new = before["files"], now["files"]
        kinds = {
            "new": [name for name in new if name not in old],
            "gone": [name for name in old if name not in new],
            "changed": [name for name in new if name in old and old[name] != new[name]],
        }
        if any(kinds.values()):
            return ", ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names)
    if before["window"] != now["window"]:
        return f"streamed in windows of {before['window']} before, of {now['window']} now"
    if before["fingerprint"] != now["fingerprint"]:
        return "other names or sizes of files than before"
    return ""


def _some(names: Sequence[str]) -> str:
    """Lists the first `SHOWN` names, and the number of the others."""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(printable(name) for name in names[:SHOWN]) + more
