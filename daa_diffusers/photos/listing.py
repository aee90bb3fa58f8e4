"""Listing of the photos of a folder and its subfolders, and counts of other files."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigurationError
from .registry import PHOTO_SUFFIXES

logger = logging.getLogger(__name__)

HIDDEN = "hidden"


@dataclass
class Listing:
    """What lies in a folder.

    Args:
        photos: known by suffix, sorted by path; among them links that lead nowhere and other things that are no regular
            files, which opening refuses by name.
        hidden: files and folders whose name begins with a dot.
        others: files that are no photos, by suffix, lower case; "no suffix" too.
        unreadable: folders that cannot be looked into, and why.
    """

    photos: list[Path] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)

    def left_out(self) -> Counter[str]:
        """How many files and folders are no photos of the folder, by reason."""
        counts = Counter({f"no photo ({suffix})": count for suffix, count in self.others.items()})
        return counts + Counter({HIDDEN: self.hidden})


def look_through(folder: str | os.PathLike[str]) -> Listing:
    """Lists a folder and its subfolders. Links to folders are followed, each real folder being visited once."""
    listing = Listing()
    folder = os.fspath(folder)
    visited = {os.path.realpath(folder)}

    def unreadable(error: OSError) -> None:
        listing.unreadable[os.fspath(error.filename)] = error.strerror or str(error)

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        new = []
        for name in sorted(folders):  # sorted, so that the same one of two links is followed everywhere
            if name.startswith("."):
                listing.hidden += 1
                continue
            real = os.path.realpath(os.path.join(parent, name))
            if real not in visited:
                visited.add(real)
                new.append(name)
        folders[:] = new
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                listing.hidden += 1
            elif suffix in PHOTO_SUFFIXES:
                listing.photos.append(Path(parent, name))
            else:
                listing.others[suffix or "no suffix"] += 1
    listing.photos.sort()
    return listing


def list_photos(folder: str | os.PathLike, argument: str = "folder") -> list[Path]:
    """All photos in a folder and its subfolders, sorted by path.

    Known by suffix, upper or lower case. Hidden files and folders are skipped; links to folders are followed, each real
    folder being visited once. Folders that cannot be looked into are logged.

    Args:
        folder: where to look.
        argument: what the caller calls `folder`, for messages.

    Raises:
        ConfigurationError: no such folder, not a folder, or no photo in it.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise ConfigurationError(f"`{argument}` must be an existing folder, got {str(folder)!r}")
    if not folder.is_dir():
        raise ConfigurationError(f"`{argument}` must be a folder of photos, got the file {str(folder)!r}")
    listing = look_through(folder)
    for path, reason in listing.unreadable.items():
        logger.warning("`%s`: the folder %s cannot be read: %s", argument, path, reason)
    if not listing.photos:
        held = ", ".join(f"{count} x {suffix}" for suffix, count in listing.others.most_common(5)) or "nothing"
        if listing.unreadable:
            held += f", and {len(listing.unreadable)} folders that cannot be read"
        raise ConfigurationError(
            f"`{argument}` must hold photos ({', '.join(sorted(PHOTO_SUFFIXES))}); in {str(folder)!r} there is {held}"
        )
    return listing.photos
