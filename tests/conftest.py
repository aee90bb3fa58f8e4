"""What all tests share: no network, and where the photos and golden tensors of the developers lie."""

import functools
import os
import signal
from pathlib import Path

import pytest

from .fixtures import checkpoint, clean_folder, disk_of, photo_folders, real_folder, small_disk, tiny_config  # noqa: F401 - for all rooms' tests

# A test that would ask the Hub fails at once, instead of hanging where there is no network. Set before any import of
# huggingface_hub reads it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def _developers_folder(variable: str, name: str) -> Path:
    """The folder that `$variable` names, else `../shared/<name>` beside the project; skips where there is none."""
    folder = Path(os.environ.get(variable) or PROJECT_ROOT.parent / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; set ${variable} to a copy of it to run this test")
    return folder


# Options of `subprocess` by which a process takes Ctrl-C, also where the tests are in the background and ignore it.
TAKES_CTRL_C = {"preexec_fn": functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real photos for research (`clean/`, `real_noise/`, ...), which the project may not contain."""
    return _developers_folder("DAA_DATA", "data")


@pytest.fixture(scope="session")
def goldens_root() -> Path:
    """Golden tensors of the official implementation."""
    return _developers_folder("DAA_GOLDENS", "goldens")
