"""The bundled checkpoints: one pipeline folder per name, located without importing torch."""

from pathlib import Path

from .tasks import DEFAULT_TASK, TASKS

_FOLDER = Path(__file__).resolve().parent
_INDEX = "model_index.json"
# Noise predictor that noise-space adaptation starts from where it fits; `examples/bundle_checkpoint.py` writes it.
NOISE_PREDICTOR = _FOLDER / "noise-predictor"

# Task -> default checkpoint for restoring, and default start of an adaptation.
DEFAULTS = {task.name: task.checkpoint for task in TASKS.values() if task.checkpoint is not None}
STARTS = {task.name: task.start for task in TASKS.values()}
DEFAULT = DEFAULTS[DEFAULT_TASK]


# Names of checkpoints that are no longer bundled -> their replacements.
RENAMED = {"daa-denoise-plain": "daa-denoise"}


def bundled_names() -> tuple[str, ...]:
    """The names that `DAARestorationPipeline.from_pretrained` resolves without a path or the Hub, sorted."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob(f"*/{_INDEX}")))


def is_bundled(name: str) -> bool:
    """Whether `bundled_path` has a folder for a name."""
    return RENAMED.get(name, name) in bundled_names()


def bundled_path(name: str) -> Path:
    """The folder of a bundled checkpoint, or of its replacement.

    Raises:
        KeyError: no checkpoint of this name is bundled.
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
