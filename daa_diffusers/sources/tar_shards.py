"""Numbered photos in tar shards in webdataset's layout, read in place without the package `webdataset`."""

import glob
import os
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError, UnreadablePhotoError
from ..files import other_kind, printable
from ..photos.registry import PHOTO_SUFFIXES
from .folders import PhotoSource, digest_of_files, logger


class Member(NamedTuple):
    """A file in a shard.

    Attributes:
        shard: number of the shard.
        name: path in the tar file.
        offset, size: position and number of its bytes in the tar file.
    """

    shard: int
    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """Key of its sample: folder and name up to the first dot, as in webdataset."""
        folder, base = os.path.split(self.name)
        return os.path.join(folder, base.partition(".")[0])

    @property
    def extension(self) -> str:
        """Extension: the part of the name after the first dot, lower case, as in webdataset."""
        return os.path.basename(self.name).partition(".")[2].lower()


class ShardSource(PhotoSource):
    """Photos in uncompressed tar files. Their headers are read once; each photo is then read by its offset.

    A resumed run therefore starts without reading earlier photos. The index takes about 0.3 kB of memory per photo, and
    20 microseconds to read. Shards that are not tar files are skipped, and only the complete photos of truncated shards
    are used; `skipped` lists both.

    Args:
        shards: tar files; photos are numbered in their order.
        column: extension of the photo in each sample, e.g. "jpg", or "clean.png" for `0001.clean.png`; None: all files
            with a suffix in `PHOTO_SUFFIXES`.
        channels, cache_bytes, argument: as for `PhotoSource`.

    Raises:
        ConfigurationError: no shard can be read, none holds a photo, or a sample holds several and `column` is None.
    """

    def __init__(
        self,
        shards: Sequence[str | os.PathLike],
        *,
        column: str | None = None,
        channels: int = 3,
        cache_bytes: int = 2**30,
        argument: str = "shards",
    ):
        super().__init__(channels=channels, cache_bytes=cache_bytes, argument=argument)
        self.shards = [Path(shard) for shard in shards]
        self.column = column.lower().lstrip(".") if column else None
        first = str(self.shards[0]) if shards else "no shard"
        self.location = f"{first} and {len(shards) - 1} more" if len(shards) > 1 else first
        self.problems: dict[Any, str] = {}  # shard -> reason
        self._members: list[Member] = []
        others: Counter[str] = Counter()
        for number, shard in enumerate(self.shards):
            members, problem = index_shard(shard, number)
            if problem:
                self.problems[shard] = problem
                logger.warning("`%s`: shard %s: %s", argument, printable(str(shard)), problem)
            for member in members:
                suffix = os.path.splitext(member.name)[1].lower()
                if member.extension == self.column if self.column else suffix in PHOTO_SUFFIXES:
                    self._members.append(member)
                else:
                    others[member.extension or "no extension"] += 1
        if not self._members:
            found = ", ".join(f"{n} x {extension}" for extension, n in others.most_common(5)) or "nothing"
            reasons = "".join(f"; {shard.name}: {reason}" for shard, reason in list(self.problems.items())[:3])
            raise ConfigurationError(
                f"`{argument}`: {self.location!r} must hold {self.column or 'photos'}, found {found}{reasons}"
            )
        if self.column is None:
            self._check_one_photo_per_sample()

    def _check_one_photo_per_sample(self) -> None:
        """Raises ConfigurationError if a sample, whose files are consecutive, holds several photos."""
        for before, member in zip(self._members, self._members[1:], strict=False):
            if (before.shard, before.key) == (member.shard, member.key):
                raise ConfigurationError(
                    f"`{self.argument}`: sample {member.key!r} of {self.location!r} holds several photos; choose one "
                    f"by `?column={before.extension}` or `?column={member.extension}`"
                )

    @property
    def count(self) -> int:
        """Number of photos in all shards."""
        return len(self._members)

    @property
    def name(self) -> str:
        """Name of the first shard, the column, and the number of other shards."""
        more = f" and {len(self.shards) - 1} more" if len(self.shards) > 1 else ""
        return self.shards[0].name + (f"?column={self.column}" if self.column else "") + more

    def label(self, index: int) -> str:
        """Returns shard and member, e.g. `train-000.tar/0001.png`."""
        member = self._members[index]
        return f"{self.shards[member.shard].name}/{member.name}"

    def member(self, index: int) -> Member:
        """Returns the position of photo `index` in its shard."""
        return self._members[index]

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of the member."""
        member = self._members[index]
        with open(self.shards[member.shard], "rb") as shard:
            shard.seek(member.offset)
            content = shard.read(member.size)
        if len(content) < member.size:
            raise UnreadablePhotoError(f"the shard {self.shards[member.shard].name} has been truncated")
        return content

    def pair_key(self, index: int) -> str:
        """Returns the number of the shard and the sample's key."""
        member = self._members[index]
        return f"{member.shard}/{member.key}"

    def fingerprint(self) -> str:
        """Returns a digest of the names and sizes of the photos, equal to that of a folder with the same files."""
        return digest_of_files((member.name, member.size) for member in self._members)

    @property
    def skipped(self) -> dict[Any, str]:
        """Unreadable and truncated shards (path -> reason), then skipped photos (label -> reason)."""
        return {**self.problems, **super().skipped}


def index_shard(path: Path, number: int) -> tuple[list[Member], str | None]:
    """Returns the complete files in a shard, except hidden ones, and a description of its damage, if any."""
    members: list[Member] = []
    try:
        if kind := other_kind(path):
            return [], f"cannot be read: {kind}"
        end = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            try:
                for info in archive:
                    if not info.isfile() or info.issparse() or os.path.basename(info.name).startswith("."):
                        continue
                    if info.offset_data + info.size <= end:
                        members.append(Member(number, info.name.removeprefix("./"), info.offset_data, info.size))
            except (OSError, tarfile.TarError):  # reported by `_truncation`
                pass
            return members, _truncation(path, archive.offset, len(members))
    except (OSError, tarfile.TarError) as error:
        return [], f"cannot be read as an uncompressed tar file: {error}"


def _truncation(path: Path, offset: int, used: int) -> str | None:
    """Describes the damage of a tar file, of which `used` files are complete; None if it is complete.

    A complete one has a block of zeros at `offset`, after its last file.
    """
    with open(path, "rb") as shard:
        shard.seek(offset)
        if shard.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
            return None
    return f"truncated or damaged; its first {used} files are used"


BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_shards(pattern: str, argument: str = "shards") -> list[Path]:
    """Expands braces (`{000..012}`, `{a,b}`, in their order) and wildcards (`*`, `?`, `[...]`, sorted) in a path.

    Raises:
        ConfigurationError: a file does not exist, or a wildcard has no match.
    """
    paths: list[Path] = []
    for text in _without_braces(pattern):
        matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else [text]
        missing = [match for match in matches if not os.path.isfile(match)]
        if missing or not matches:
            raise ConfigurationError(f"`{argument}` must name existing shards, got {(missing or [text])[0]!r}")
        paths += map(Path, matches)
    return paths


def _without_braces(text: str) -> list[str]:
    """Returns the texts that result from expanding the braces in a text."""
    braces = BRACES.search(text)
    if not braces:
        return [text]
    if numbers := RANGE.fullmatch(braces[1]):
        digits = len(numbers[1])
        choices = [f"{n:0{digits}d}" for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    else:
        choices = braces[1].split(",")
    ends = _without_braces(text[braces.end() :])
    return [text[: braces.start()] + choice + end for choice in choices for end in ends]
