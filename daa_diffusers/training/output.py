"""Check of a run's output folder, in a module of its own so that `--dry_run` imports nothing slow for it."""

from pathlib import Path

from ..errors import ConfigurationError
from ..files import check_writable
from ..hub.record_files import RUN_RECORD

LOCK_FILE = ".lock"


def check_output(folder: Path) -> None:
    """Checks that a run can be written to a folder: a new or empty one, or the output folder of a run.

    Raises:
        ConfigurationError: the folder holds other files, or the path is not a folder.
        UnwritableError: the folder cannot be written to.
    """
    is_folder = folder.is_dir()
    holds_run = is_folder and (folder / RUN_RECORD).exists()
    if folder.exists() and not holds_run and (not is_folder or any(p.name != LOCK_FILE for p in folder.iterdir())):
        raise ConfigurationError(
            f"`output_dir` must be a new or empty folder, or that of the same run, got {str(folder)!r}"
        )
    check_writable(folder)
