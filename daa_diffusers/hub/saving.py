"""Saving of networks and pipelines: a new folder that is complete replaces the earlier files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ..files import check_writable, replacing_folder
from .record_files import RECORD_FILES, outdated
from .records import write_record
from .weight_files import WEIGHTS


@contextmanager
def saving(network: nn.Module, target: str | os.PathLike, config: str, variant: str | None) -> Iterator[Path]:
    """Yields a new folder to save a network in; its files and the network's record are then moved to `target`.

    Args:
        network: of which the record is.
        target: the folder, made if it does not exist; if saving fails, it stays as it is.
        config: the name of the network's config file.
        variant: of the weights.

    Raises:
        UnwritableError: nothing can be written there, or the disk is full.
    """
    target = Path(target)
    check_writable(target)
    tensors = network.state_dict().values()
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with replacing_folder(target, needed=needed) as folder:
        yield folder
        write_record(network, folder)
        stale = outdated(target, folder, [name for name in RECORD_FILES if (folder / name).is_file()])
        move_files(folder, target, config, variant, stale)


def earlier_weights(target: Path, written: Path, variant: str | None) -> list[Path]:
    """Weight files of an earlier save in `target` that the files of the new save, in `written`, do not replace.

    For example a single file beside new shards, which could be loaded instead of them. Weights of another `variant` are
    kept.
    """
    earlier: list[Path] = []
    suffix = f".{variant}" if variant else ""
    kinds = (f"{suffix}.safetensors", f"{suffix}-*.safetensors", f".safetensors.index{suffix}.json")
    for component in (written, *(path for path in written.iterdir() if path.is_dir())):
        folder = target / component.relative_to(written)
        files = [path for kind in kinds for path in folder.glob(f"{WEIGHTS}{kind}")]
        earlier += [path for path in files if not (component / path.name).exists()]
    return earlier


def move_files(written: Path, target: Path, last: str, variant: str | None, stale: Sequence[str] = ()) -> None:
    """Moves what was saved in `written` to `target`: a new folder at once, else file by file.

    The file of the name `last` is moved last: a folder that gets it is complete. Earlier weights in
    other files, and the files of `target` named in `stale`, are removed.
    """
    if not target.exists():
        os.replace(written, target)
        return
    earlier = earlier_weights(target, written, variant)
    for path in written.rglob("*"):  # new folders may need disk space: first, before anything is replaced
        if path.is_dir():
            (target / path.relative_to(written)).mkdir(exist_ok=True)
    for name in stale:
        (target / name).unlink()
    for path in sorted(written.rglob("*"), key=lambda path: (path.name == last, path)):
        if path.is_file():
            os.replace(path, target / path.relative_to(written))
    for path in earlier:
        path.unlink()
