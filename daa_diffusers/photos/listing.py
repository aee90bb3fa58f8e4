"""Listing of the photos in a folder and its subfolders, and counts of other files."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigurationError
from .paths import Paths
from .registry import PHOTO_SUFFIXES

logger = logging.getLogger(__name__)

HIDDEN = "hidden"  # reason in `Listing.skipped`


@dataclass
class Listing:
    """Content of a folder and its subfolders.

    Args:
        photos: files with the suffix of a photo, sorted by path. They include broken links and other irregular files,
            which raise an error when they are opened.
        hidden: number of files and folders whose name starts with a dot.
        others: number of other files by suffix, lower case, or "no suffix".
        unreadable: folders that cannot be read -> reason.
    """

    photos: Paths = field(default_factory=Paths)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)

    def skipped(self) -> Counter[str]:
        """Number of skipped files and folders by reason."""
        counts = Counter({f"not a photo ({suffix})": count for suffix, count in self.others.items()})
        return counts + Counter({HIDDEN: self.hidden})


def scan_folder(folder: str | os.PathLike[str]) -> Listing:
    """Lists a folder and its subfolders. Links to folders are followed; each real folder is visited once."""
    listing = Listing(Paths(folder))
    visited = {os.path.realpath(folder)}
    # Depth first, with the entries of each folder sorted by name, which gives the order of paths.
    open_folders = [_entries(os.fspath(folder), "", listing, visited)]  # a folder, a subfolder of it, ...
    while open_folders:
        name = next(open_folders[-1], None)
        if name is None:
            open_folders.pop()
        elif name.endswith(os.sep):
            path = os.path.join(listing.photos.folder, name.removesuffix(os.sep))
            open_folders.append(_entries(path, name, listing, visited))
        else:
            listing.photos.append(name)
    return listing


def _entries(folder: str, within: str, listing: Listing, visited: set[str]) -> Iterator[str]:
    """Yields photos and new subfolders of a folder, sorted; subfolders end in a separator. Counts all other entries.

    Args:
        folder: path of the folder.
        within: prefix for names, the path relative to the listed folder: "" or with a separator at the end.
        listing: listing with the counts.
        visited: real paths of all folders found before.
    """
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    listing.hidden += 1
                else:
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        listing.unreadable[os.fspath(error.filename)] = error.strerror or str(error)
    names = []
    for name in sorted(folders):  # sorted, so that every machine follows the same one of two links to a folder
        real = os.path.realpath(os.path.join(folder, name))
        if real not in visited:
            visited.add(real)
            names.append(name + os.sep)
    for name in files:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in PHOTO_SUFFIXES:
            names.append(name)
        else:
            listing.others[suffix or "no suffix"] += 1
    for name in sorted(names, key=lambda name: os.path.normcase(name.removesuffix(os.sep))):
        yield within + name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a circular link
        return False


def list_photos(folder: str | os.PathLike, argument: str = "folder") -> Paths:
    """Lists the photos in a folder and its subfolders, sorted by path.

    Photos are recognized by suffix, in upper or lower case. Hidden files and folders are skipped. Links to folders are
    followed; each real folder is visited once. Folders that cannot be read are logged.

    Args:
        folder: folder to search.
        argument: name of the caller's argument, for messages.

    Raises:
        ConfigurationError: the folder does not exist, is not a folder, or contains no photos.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise ConfigurationError(f"`{argument}` must be an existing folder, got {str(folder)!r}")
    if not folder.is_dir():
        raise ConfigurationError(f"`{argument}` must be a folder of photos, got the file {str(folder)!r}")
    listing = scan_folder(folder)
    for path, reason in listing.unreadable.items():
        logger.warning("`%s`: the folder %s cannot be read: %s", argument, path, reason)
    if not listing.photos:
        held = ", ".join(f"{count} x {suffix}" for suffix, count in listing.others.most_common(5)) or "nothing"
        if listing.unreadable:
            held += f", and {len(listing.unreadable)} folders that cannot be read"
        raise ConfigurationError(
            f"`{argument}` must hold photos ({', '.join(sorted(PHOTO_SUFFIXES))}); {str(folder)!r} has {held}"
        )
    return listing.photos
