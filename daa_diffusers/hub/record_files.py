"""Files of a weights record: names, contents, and removal of records that belong to other weights."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.tasks import TASKS, task_of_degradation
from ..errors import CheckpointError
from .fingerprint import stored_fingerprint
from .licenses import UNKNOWN, License, card_license
from .resolving import CARD, EVALUATION, LICENSE_FILES, MODEL_INDEX, RECORD_FILES, TRAINING
from .untrusted import MAX_JSON_BYTES, check_inside, read_json

RUN_RECORD = "run.json"  # in the output folder of a run
IDENTITY = "identity"
WEIGHTS_KEY = "weights"  # entry of evaluation.json: fingerprint of the evaluated weights
# Line that marks a rendered card; cards without it were edited by a user and are kept.
RENDERED = (
    "<!-- Rendered by daa_diffusers from this repository's own files; take this line out to keep what you write. -->"
)
# Entries of a run's record that are saved with copies of its weights.
RUN_FIELDS = ("steps", "options", "photos", "versions")


@dataclass(frozen=True)
class WeightsRecord:
    """Contents of the record files that belong to weights.

    Args:
        training: training record; empty if there is none.
        evaluation: evaluation scores; empty if there are none.
        licenses: file name -> content of the license files.
        card: card that a user wrote. None: a card is rendered for each upload.
        weights: fingerprint of the weights that `evaluation` and `card` describe. None: unknown; `evaluation` and
            `card` are then not saved again.
        license: license that the metadata of the card states.
    """

    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    licenses: dict[str, bytes] = field(default_factory=dict)
    card: str | None = None
    weights: str | None = None
    license: License = UNKNOWN


# --- reading ---


def training_record(folder: Path) -> dict[str, Any]:
    """Returns the training record of the weights in a folder: from `training.json`, else from `run.json` of the run."""
    if (folder / TRAINING).is_file():
        return read_json(folder / TRAINING, "")
    run = folder.resolve().parent / RUN_RECORD
    if folder.resolve().name == "pipeline" and run.is_file():
        record = read_json(run, "")
        return {key: record[key] for key in RUN_FIELDS if key in record}
    return {}


def evaluation_record(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's `evaluation.json`; empty if there is none.

    Raises:
        CheckpointError: its content is invalid.
    """
    path = folder / EVALUATION
    evaluation = read_json(path, "") if path.is_file() else {}
    check_evaluation(evaluation, path)
    return evaluation


def read_record(folder: Path) -> WeightsRecord:
    """Reads the record in the folder of a pipeline or of a single network; for a component's folder, the pipeline's.

    Raises:
        CheckpointError: a file is damaged, too large, or a link to a place outside the folder.
    """
    has_record = any((folder / name).is_file() for name in (TRAINING, EVALUATION, *LICENSE_FILES))
    if not has_record and (folder.parent / MODEL_INDEX).is_file():
        folder = folder.parent
    paths = [folder / name for name in (*LICENSE_FILES, CARD) if (folder / name).is_file()]
    check_inside(folder, [folder / TRAINING, folder / EVALUATION, *paths])
    for path in paths:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{str(path)!r} has {path.stat().st_size} bytes, at most {MAX_JSON_BYTES} are read")
    texts = {path.name: path.read_bytes() for path in paths}
    card = texts.pop(CARD, RENDERED.encode()).decode("utf-8", "replace")
    evaluation = evaluation_record(folder)
    return WeightsRecord(
        training_record(folder),
        evaluation,
        licenses=texts,
        card=None if RENDERED in card else card,
        weights=evaluation.get(WEIGHTS_KEY),
        license=card_license(folder / CARD),
    )


# --- what a training record states ---


def task_of(training: Mapping[str, Any]) -> str | None:
    """Returns the task of a training record, a key of `TASKS`; None if it states no task, or several."""
    if training.get("task") in TASKS:
        return training["task"]
    options = training.get("options")
    degradation = options.get("degradation") if isinstance(options, Mapping) else None
    tasks = {task for part in degradations_in(degradation) if (task := task_of_degradation(part["type"])) is not None}
    # noise is part of most synthetic degradations
    tasks = {task for task in tasks if not TASKS[task].removes_noise} or tasks
    return tasks.pop() if len(tasks) == 1 else None


def recorded_objective(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns name and options of the objective in a training record, including the flat form of earlier versions."""
    given = options.get("objective", "noise_space")
    if isinstance(given, Mapping):
        return str(given.get("type")), {name: value for name, value in given.items() if name != "type"}
    if given == "noise_space" and options.get("variant") == "vanilla":
        return "supervised", {}
    return str(given), {"variant": options["variant"]} if given == "noise_space" and "variant" in options else {}


# Options that make synthetic pairs from real photos.
PAIRS_FROM_REAL = ("fit_noise", "fit_rain", "fit_shake", "pseudo_clean", "transplant")


def is_adapted(training: Mapping[str, Any]) -> bool:
    """Returns whether a training record states that the weights were adapted to real photos."""
    options = training.get("options")
    if not isinstance(options, Mapping) or not options.get("real"):
        return False
    return recorded_objective(options)[0] != "supervised" or any(options.get(name) for name in PAIRS_FROM_REAL)


def degradations_in(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the config of a degradation and those of all its parts; nothing for what is not a config."""
    if isinstance(config, Mapping):
        if isinstance(config.get("type"), str):
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from degradations_in(value)


# --- files of other weights ---


def move_record(folder: Path, target: Path | None) -> None:
    """Moves the record files from a component's folder to the pipeline's folder `target`; None: deletes them."""
    for name in RECORD_FILES:
        if target is None:
            (folder / name).unlink(missing_ok=True)
        elif (folder / name).is_file():
            os.replace(folder / name, target / name)


def stale_files(target: Path, new: Path) -> list[str]:
    """Returns the names of the record files in a pipeline's folder that do not apply to the new weights in `new`."""
    return outdated(target, new / "restorer", [name for name in RECORD_FILES if (new / name).is_file()])


def outdated(folder: Path, weights: Path, written: Collection[str]) -> list[str]:
    """Returns the names of the record files in `folder` that do not apply to the weights in the folder `weights`.

    Cards that a user wrote, and an evaluation of exactly these weights, are kept; so are the files named in `written`.
    """
    old = [name for name in (TRAINING, EVALUATION, CARD) if name not in written and (folder / name).is_file()]
    if EVALUATION in old:
        try:
            measured = read_json(folder / EVALUATION, "").get(WEIGHTS_KEY)
        except CheckpointError:
            measured = None
        if measured is not None and measured == stored_fingerprint(weights):
            old.remove(EVALUATION)
    if CARD in old and RENDERED not in (folder / CARD).read_text(encoding="utf-8", errors="replace"):
        old.remove(CARD)  # a user wrote it
    return old


def measured_otherwise(evaluation: Mapping[str, Any], weights: Path) -> bool:
    """Returns whether an evaluation has the fingerprint of other weights than those in a network's folder."""
    measured = evaluation.get(WEIGHTS_KEY)
    return measured is not None and any(weights.glob("*.safetensors")) and measured != stored_fingerprint(weights)


# --- checks of evaluation.json ---


def check_evaluation(evaluation: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError if the content of `path` is not as `evaluation.recording.record_evaluation` writes it."""
    if not evaluation:
        return
    sets = evaluation.get("sets")
    is_valid = isinstance(sets, list) and isinstance(evaluation.get("protocol"), str) and all(map(_is_set, sets))
    if not is_valid or not isinstance(evaluation.get(WEIGHTS_KEY), str | None):
        raise CheckpointError(
            f'{str(path)!r} must hold {{"protocol": text, "sets": [{{"set": name, "photos": count, "psnr": '
            f'{{"{IDENTITY}": dB, ROW: dB, ...}}}}]}}'
        )


def _is_set(scores: Any) -> bool:
    """Whether an entry of "sets" has the fields of a test set, with numbers where numbers are expected."""
    if not isinstance(scores, Mapping):
        return False
    psnr, minus, label_free = scores.get("psnr"), scores.get("minus", {}), scores.get("label_free", {})
    return (
        isinstance(scores.get("set"), str)
        and isinstance(scores.get("photos"), int)
        and isinstance(scores.get("worst", 0), int | float)
        and isinstance(psnr, Mapping)
        and IDENTITY in psnr
        and _are_numbers(psnr.values())
        and isinstance(minus, Mapping)  # mean and limits of the interval
        and all(isinstance(v, list) and len(v) == 3 and _are_numbers(v) for v in minus.values())
        and isinstance(label_free, Mapping)
        and all(isinstance(v, Mapping) and _are_numbers(v.values()) for v in label_free.values())
    )


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)
