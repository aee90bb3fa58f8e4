"""Atomic saving of networks and pipelines: files are written to a new folder, and moved when complete."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ..files import check_writable, replacing_folder
from .record_files import outdated
from .records import write_record
from .resolving import RECORD_FILES
from .weight_files import WEIGHTS


@contextmanager
def saving(network: nn.Module, target: str | os.PathLike, config: str, variant: str | None) -> Iterator[Path]:
    """Yields a temporary folder in which to save a network; moves its files and the network's record to `target`.

    Args:
        network: network to save.
        target: folder, created if it does not exist. A failure leaves it unchanged.
        config: name of the network's config file.
        variant: variant of the weight files.

    Raises:
        UnwritableError: the folder cannot be written, or the disk is full.
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
    """Returns weight files of an earlier save in `target` that the new files in `written` do not replace.

    An example is a single file next to new shards, which could be loaded instead of them. Weights of another `variant`
    are not listed.
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
    """Moves the saved files in `written` to `target`: as a whole if `target` is new, else file by file.

    The file named `last` is moved last, so that a folder with this file is complete. Earlier weights in other files
    (`earlier_weights`), and the files in `target` named in `stale`, are removed.
    """
    if not target.exists():
        os.replace(written, target)
        return
    earlier = earlier_weights(target, written, variant)
    for path in written.rglob("*"):  # before anything is replaced, since the disk may be full
        if path.is_dir():
            (target / path.relative_to(written)).mkdir(exist_ok=True)
    for name in stale:
        (target / name).unlink()
    for path in sorted(written.rglob("*"), key=lambda path: (path.name == last, path)):
        if path.is_file():
            os.replace(path, target / path.relative_to(written))
    for path in earlier:
        path.unlink()
