"""Files of every kind of photo."""

from .files import SUFFIX, rich_bytes


def write(folder, kind, content=None, orientation=1):
    path = folder / f"photo {kind}.{SUFFIX.get(kind, kind)}"
    path.write_bytes(rich_bytes(kind, orientation) if content is None else content)
    return path
