"""The bundled checkpoints: one pipeline folder per name, located without importing torch."""

from pathlib import Path

from .tasks import DEFAULT_TASK, TASKS

_FOLDER = Path(__file__).resolve().parent
_INDEX = "model_index.json"
# Initial noise predictor of noise-space adaptation, for runs with its architecture and value range; written by
# `examples/bundle_checkpoint.py`.
NOISE_PREDICTOR = _FOLDER / "noise-predictor"

# Task -> default checkpoint for restoring and for starting an adaptation.
DEFAULTS = {task.name: task.checkpoint for task in TASKS.values() if task.checkpoint is not None}
STARTS = {task.name: task.start for task in TASKS.values()}
DEFAULT = DEFAULTS[DEFAULT_TASK]

# Names of checkpoints that are no longer bundled -> their replacements.
RENAMED = {"daa-denoise-plain": "daa-denoise"}


def bundled_names() -> tuple[str, ...]:
    """Names of the bundled checkpoints, sorted."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob(f"*/{_INDEX}")))


def is_bundled(name: str) -> bool:
    """Whether `name` is a bundled checkpoint, or one that a bundled checkpoint has replaced."""
    return RENAMED.get(name, name) in bundled_names()


def bundled_path(name: str) -> Path:
    """Folder of a bundled checkpoint, or of its replacement.

    Raises:
        KeyError: no such bundled checkpoint.
    """
    name = RENAMED.get(name, name)
    if name not in bundled_names():
        raise KeyError(f"`name` must be one of {list(bundled_names())}, got {name!r}")
    return _FOLDER / name


__all__ = [
    "DEFAULT",
    "DEFAULTS",
    "DEFAULT_TASK",
    "NOISE_PREDICTOR",
    "RENAMED",
    "STARTS",
    "bundled_names",
    "bundled_path",
    "is_bundled",
]
