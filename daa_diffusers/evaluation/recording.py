"""Records of evaluations beside the evaluated weights: `evaluation.json`, which the model card shows."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import is_bundled
from ..checkpoints.tasks import judged_by_noise
from ..errors import ConfigurationError
from ..files import write_text
from ..hub.description import describe
from ..hub.fingerprint import stored_fingerprint
from ..hub.record_files import WEIGHTS_KEY, evaluation_record, measured_otherwise
from ..hub.resolving import EVALUATION, MODEL_INDEX, pipeline_folder
from .named_metrics import LABEL_FREE
from .result import IDENTITY, Evaluation

logger = logging.getLogger(__name__)


def _recording_folder(folder: str | os.PathLike[str]) -> Path:
    """Returns the folder of a pipeline; raises ConfigurationError for other folders and for bundled checkpoints."""
    pipeline = pipeline_folder(Path(folder))
    if is_bundled(str(folder)) or not (pipeline / MODEL_INDEX).is_file():
        raise ConfigurationError(f"`folder` must be the folder of a pipeline, got {str(folder)!r}")
    return pipeline


def check_record(folder: str | os.PathLike[str], name: str, columns: Sequence[str], protocol: str) -> dict[str, Any]:
    """Returns the content of a folder's `evaluation.json`, or of a new one, to which `record_evaluation` will add.

    Called before an evaluation, it raises the errors that recording the evaluation would raise.

    Args:
        folder, name: as for `record_evaluation`.
        columns: names of the columns that will be measured.
        protocol: protocol of the evaluation.

    Raises:
        ConfigurationError: as for `record_evaluation`.
    """
    if not name.strip():
        raise ConfigurationError(f"`name` must name these photos, got {name!r}")
    if not any(column.startswith("psnr") for column in columns):
        raise ConfigurationError("`evaluation` must include a PSNR, which needs the photos' ground truth")
    path = _recording_folder(folder) / EVALUATION
    record = evaluation_record(path.parent)
    if measured_otherwise(record, path.parent / "restorer"):
        logger.warning("the numbers in %s are for other weights than those in the folder, and are replaced", path)
        record = {}
    record = record or {"protocol": protocol, "sets": []}
    if record["protocol"] != protocol:
        raise ConfigurationError(
            f"`evaluation` has another protocol ({protocol}) than the entries of {str(path)!r} ({record['protocol']}): "
            "all entries must have the same protocol"
        )
    return record


def record_evaluation(
    folder: str | os.PathLike[str], name: str, evaluation: Evaluation, *, note: str | None = None
) -> Path:
    """Writes the means of an evaluation to a folder's `evaluation.json`, for its model card.

    These are the PSNR of each row, and its label-free scores if measured; and, for the last row, that of the
    checkpoint, its differences from the other rows with intervals, and its worst photo's gain over the input.

    Args:
        folder: folder of a pipeline or a training run.
        name: name of the photos, e.g. "RENOIR (low light)". An entry of this name is replaced.
        evaluation: result of `evaluation.evaluate_folder` with ground truth; the checkpoint's row must be the last.
        note: remark for readers, e.g. that a choice was made on these photos.

    Raises:
        ConfigurationError: `name` is empty, the evaluation has no PSNR, or existing entries have another protocol.
    """
    names = [column.name for column in evaluation.columns]
    record = check_record(folder, name, names, evaluation.protocol)
    folder = _recording_folder(folder)
    psnr = next(column for column in names if column.startswith("psnr"))
    scores = {row: round(evaluation.mean(row, psnr), 4) for row in evaluation.rows}
    entry: dict[str, Any] = {"set": name, "photos": len(evaluation.photos), "psnr": scores, "minus": {}}
    *others, checkpoint = evaluation.rows
    for row in others:
        difference = None if row == IDENTITY else evaluation.difference(checkpoint, psnr, row)
        if difference:
            numbers = (difference.mean, difference.low, difference.high)
            entry["minus"][row] = [round(number, 4) for number in numbers]
    gains = evaluation.values(checkpoint, psnr) - evaluation.values(IDENTITY, psnr)
    entry["worst"] = round(float(gains.min()), 4)
    label_free = [column for column in evaluation.columns if column in LABEL_FREE]
    if not (evaluation.gain_is_known and judged_by_noise(describe(folder).task)):
        # the remaining noise is undefined for tasks without noise, such as rain
        label_free = [column for column in label_free if column.name != "noise_left"]
    if label_free:
        entry["label_free"] = {
            row: {column.title: round(evaluation.mean(row, column.name), 4) for column in label_free}
            for row in evaluation.rows
        }
    record["sets"] = [*(other for other in record["sets"] if other["set"] != name), entry]
    if note:
        record["note"] = note
    record[WEIGHTS_KEY] = stored_fingerprint(folder / "restorer")
    return write_text(folder / EVALUATION, json.dumps(record, indent=2) + "\n")
