"""Checkpoints offered by the web page of the demo, with their descriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoints import DEFAULT, DEFAULT_TASK, STARTS, bundled_names
from ..checkpoints.tasks import TASKS, Task
from ..errors import CheckpointError
from ..hub.record_files import is_adapted

UNKNOWN = "Its files do not state its task."


class Offered:
    """Checkpoints that can be selected.

    Args:
        given: checkpoints given on the command line; the first one is preselected.
        runs: folder of adaptations, whose results are offered too.
    """

    def __init__(self, given: Sequence[str] = (), runs: Path | None = None) -> None:
        self.given, self.runs = tuple(given), runs

    @property
    def default(self) -> str:
        """Default for restoration: the first of `given`, else that of `daa restore`."""
        return self.given[0] if self.given else DEFAULT

    @property
    def start(self) -> str:
        """Default for adaptation: the first of `given`, else that of `daa adapt`."""
        return self.given[0] if self.given else STARTS[DEFAULT_TASK]

    def choices(self) -> list[tuple[str, str]]:
        """Returns (label, name) of given, bundled and adapted checkpoints, the newest adapted ones first.

        Adaptations that kept the initial weights are left out.
        """
        names = dict.fromkeys([*self.given, DEFAULT, *bundled_names()])
        choices = [(name, name) for name in names]
        for path in sorted(self.runs.glob("*/*/model_index.json"), reverse=True) if self.runs else ():
            run, pipeline = path.parent.parent, path.parent
            if not _is_start(pipeline):
                # "stopped-at-N": saved by a stopped run
                state = "" if pipeline.name == "pipeline" else f" ({pipeline.name.replace('-', ' ')})"
                choices.append((f"adapted {run.name}{state}", str(pipeline)))
        return choices

    def names(self) -> list[str]:
        """Returns the names of the `choices`."""
        return [name for _, name in self.choices()]

    def purpose(self, name: str) -> str:
        """Returns a description of a checkpoint from its files, without access to the Hub.

        Checkpoints that are not offered have no description, so that remote visitors cannot probe folders.
        """
        name = (name or "").strip()
        if name not in self.names():
            return "A folder or Hub id: its task is known after loading." if name else ""
        return _read(name)[1]

    def task(self, name: str) -> Task:
        """Returns the task of an offered checkpoint from its files; the default task if they do not state it."""
        task = _read(name)[0] if name in self.names() else None
        return task or TASKS[DEFAULT_TASK]


def _read(name: str) -> tuple[Task | None, str]:
    """Returns the task of a local checkpoint (None if not stated), and its description."""
    from ..hub.description import describe
    from ..hub.resolving import resolve

    try:
        source = resolve(name)
        if source.kind == "hub":
            return None, "From the Hub: its card states its task."
        folder = Path(source.location) if source.kind == "folder" else Path(source.location).parent
        if source.kind == "file" and not (folder / "config.json").is_file():
            return None, UNKNOWN
        description = describe(folder)
    except (CheckpointError, OSError) as error:
        return None, f"It cannot be loaded: {error}"
    task = TASKS.get(description.task or "")
    return task, f"{task.description if task else UNKNOWN} {_trained_on(description.training)}".strip()


def _trained_on(record: Mapping) -> str:
    """Returns a sentence on the photos of training, from a training record; "" if the record does not state them."""
    if not isinstance(record.get("options"), Mapping):
        return ""
    if is_adapted(record):
        return "Adapted to photos without ground truth."
    return "Trained on synthetic photos only; it can be adapted to yours."


def _is_start(pipeline: Path) -> bool:
    """Returns whether a run's pipeline has the initial weights, because no trained weights were better."""
    try:
        held = json.loads((pipeline.parent / "run.json").read_text(encoding="utf-8")).get("held_to_start")
    except (OSError, ValueError, AttributeError):
        return False
    return pipeline.name == "pipeline" and isinstance(held, dict) and held.get("kept_step") == 0
