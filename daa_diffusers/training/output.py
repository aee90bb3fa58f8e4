"""Check of an output folder before a run, without the slow imports of one."""

from pathlib import Path

from ..errors import ConfigurationError
from ..files import check_writable

RECORD = "run.json"
LOCK_FILE = ".lock"


def check_output(folder: Path) -> None:
    """Whether a run can be written to a folder: a new or empty one, or one that holds a run.

    Raises:
        ConfigurationError: it holds something else, or is no folder.
        UnwritableError: nothing can be written there.
    """
    is_folder = folder.is_dir()
    holds_run = is_folder and (folder / RECORD).exists()
    if folder.exists() and not holds_run and (not is_folder or any(p.name != LOCK_FILE for p in folder.iterdir())):
        raise ConfigurationError(
            f"`output_dir` must be a new or empty folder, or one of the same run, got {str(folder)!r}"
        )
    check_writable(folder)
