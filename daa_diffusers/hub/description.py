"""What a checkpoint is, read off its own files.

Beside the weights a pipeline's folder may hold `training.json` (how the weights were made: options, photos, versions,
licence) and `evaluation.json` (numbers, each set with the row of the untouched input). Nothing here loads weights.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import bundled_names
from ..errors import CheckpointError, ConfigurationError
from ..files import write_text
from ..models.restorer import RestorerContract
from .resolving import EVALUATION, MODEL_INDEX, TRAINING, pipeline_folder, read_index
from .untrusted import empty_network, loading_errors, read_config, read_json, stored_dtypes, stored_shapes

if TYPE_CHECKING:
    from ..evaluation.result import Evaluation

RUN = "run.json"
IDENTITY = "identity"
# What a degradation that was trained on makes of a restorer.
_TASKS = {
    "gaussian": "denoise",
    "camera": "denoise",
    "fitted": "denoise",
    "transplant": "denoise",
    "rain": "derain",
    "motion_blur": "deblur",
}
TASKS = ("denoise", "derain", "deblur")


# --- licences ---


@dataclass(frozen=True)
class Licence:
    """Under what licence weights are.

    Args:
        identifier: as the Hub knows it ("apache-2.0", "other", ...); None where nobody has said.
        name, link: of a licence that the Hub does not know.
        text: what a person should read.
        non_commercial: the weights may not be used commercially, whatever somebody else says.
    """

    identifier: str | None
    name: str | None = None
    link: str | None = None
    text: str = ""
    non_commercial: bool = False

    def metadata(self) -> dict[str, str]:
        """The fields of a card's metadata."""
        named = {"license": self.identifier, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in named.items() if value}


RESEARCH = Licence(
    "other",
    "non-commercial-research",
    text="The weights were trained on research-only photos: for **non-commercial research use only**. The code that "
    "made them is Apache-2.0.",
    non_commercial=True,
)
S_LAB = Licence(
    "other",
    "s-lab-license-1.0",
    "https://github.com/KangLiao929/Noise-DA/blob/main/LICENSE",
    text="The weights are converted from the official implementation's and keep its licence, the S-Lab License 1.0: "
    "**non-commercial use only**. The code that converted them is Apache-2.0.",
    non_commercial=True,
)
UNKNOWN = Licence(None, text="Whoever published the weights has not said under what licence they are.")
_NAMED = {licence.name: licence for licence in (RESEARCH, S_LAB)}


def licence_of(training: Mapping[str, Any]) -> Licence:
    """The licence of weights by the record of their making; weights adapted from bundled ones inherit theirs."""
    said = training.get("licence")
    if isinstance(said, str) and said in _NAMED:
        return _NAMED[said]
    if isinstance(said, str) and "non-commercial" in said.lower():
        return Licence("other", RESEARCH.name, text=said, non_commercial=True)
    options = training.get("options")
    if isinstance(options, Mapping) and Path(str(options.get("init_from"))).name in bundled_names():
        return RESEARCH
    return Licence(None, text=said) if isinstance(said, str) and said else UNKNOWN


# --- what a folder holds ---


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint.

    Args:
        config: as saved.
        parameters: None where neither the config says it nor weights are at hand.
        size_multiple: None for a class that does not say it.
        dtypes: how the weights are stored; empty where no weights are at hand.
        bytes: size of the weight files.
    """

    config: dict[str, Any]
    parameters: int | None = None
    size_multiple: int | None = None
    dtypes: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return str(self.config.get("_class_name"))


@dataclass(frozen=True)
class Description:
    """A checkpoint by its own files."""

    restorer: Network
    unet: Network | None = None
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str | None:
        """ "denoise", "derain" or "deblur"; None where the files do not say, or say several."""
        return task_of(self.training)

    @property
    def licence(self) -> Licence:
        """Of the weights."""
        return licence_of(self.training)

    @property
    def value_range(self) -> tuple[float, float]:
        """In which the restorer takes and gives photos."""
        low, high = self.restorer.config.get("value_range") or (0.0, 1.0)
        return low, high


def describe(folder: Path, training: dict[str, Any] | None = None) -> Description:
    """Reads what a pipeline's folder says of itself, without its weights (which may be absent).

    Args:
        folder: of a pipeline.
        training: how it was made; None: what the folder says.

    Raises:
        CheckpointError: where it is no pipeline folder, or its files are damaged or out of bounds.
    """
    index = read_index(folder)
    networks: dict[str, Network] = {}
    for name in ("restorer", "unet"):
        entry = index.get(name)
        if isinstance(entry, list) and len(entry) == 2 and entry[1]:
            networks[name] = describe_network(folder / name, read_config(folder / name / "config.json", entry[1]))
    if "restorer" not in networks:
        raise CheckpointError(f"{str(folder)!r} holds no restorer: see {MODEL_INDEX}")
    evaluation = read_json(folder / EVALUATION, "") if (folder / EVALUATION).is_file() else {}
    _check_evaluation(evaluation, folder / EVALUATION)
    record = training_record(folder) if training is None else training
    return Description(networks["restorer"], networks.get("unet"), record, evaluation)


def describe_network(folder: Path, config: dict[str, Any]) -> Network:
    """One network by its config, and its weights in `folder` where they are."""
    network = empty_network(config, str(folder / "config.json"))
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    if network is not None:
        parameters = sum(parameter.numel() for parameter in network.parameters())
    else:  # of another architecture: what its files hold
        with loading_errors(folder):
            parameters = sum(math.prod(shape) for shape in stored_shapes(files).values())
    return Network(
        config,
        parameters or None,
        config.get("size_multiple") if network is None else RestorerContract.of(network).size_multiple,
        stored_dtypes(files),
        sum(path.stat().st_size for path in files),
    )


def training_record(folder: Path) -> dict[str, Any]:
    """How the weights in a pipeline's folder were made: its `training.json`, else the `run.json` of its run."""
    if (folder / TRAINING).is_file():
        return read_json(folder / TRAINING, "")
    run = folder.resolve().parent / RUN
    if folder.resolve().name == "pipeline" and run.is_file():
        record = read_json(run, "")
        return {key: record[key] for key in ("steps", "options", "photos", "versions") if key in record}
    return {}


def task_of(training: Mapping[str, Any]) -> str | None:
    """ "denoise", "derain" or "deblur", by the record of how weights were made; None where it says none or several."""
    if training.get("task") in TASKS:
        return training["task"]
    options = training.get("options")
    degradation = options.get("degradation") if isinstance(options, Mapping) else None
    found = {_TASKS.get(kind) for kind in _kinds(degradation)} - {None}
    return found.pop() if len(found) == 1 else None


def _kinds(degradation: Any) -> set[str]:
    """The types of a degradation's config and of its parts."""
    if isinstance(degradation, Mapping):
        inner = set().union(*map(_kinds, degradation.values())) if degradation else set()
        return inner | ({degradation["type"]} if isinstance(degradation.get("type"), str) else set())
    return set().union(*map(_kinds, degradation)) if isinstance(degradation, list) else set()


# --- numbers ---


def _check_evaluation(evaluation: Mapping[str, Any], path: Path) -> None:
    if not evaluation:
        return
    sets = evaluation.get("sets")
    whole = isinstance(sets, list) and isinstance(evaluation.get("protocol"), str) and all(map(_is_set, sets))
    if not whole:
        raise CheckpointError(
            f'{str(path)!r} must hold {{"protocol": text, "sets": [{{"set": name, "photos": count, "psnr": '
            f'{{"{IDENTITY}": dB, ROW: dB, ...}}}}]}}'
        )


def _is_set(one: Any) -> bool:
    if not isinstance(one, Mapping):
        return False
    named = isinstance(one.get("set"), str) and isinstance(one.get("photos"), int)
    minus, label_free = one.get("minus", {}), one.get("label_free", {})
    intervals = isinstance(minus, Mapping) and all(isinstance(v, list) and len(v) == 3 for v in minus.values())
    scores = isinstance(label_free, Mapping) and all(map(_are_numbers, label_free.values()))
    whole = named and intervals and scores and _are_numbers(one.get("psnr")) and IDENTITY in one["psnr"]
    return whole and _are_numbers({"worst": one.get("worst", 0), **dict(enumerate(sum(minus.values(), [])))})


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Mapping) and all(isinstance(value, int | float) for value in values.values())


def _recording_folder(folder: str | os.PathLike[str]) -> Path:
    """Of a pipeline; the bundled ones are the package's own."""
    found = pipeline_folder(Path(folder))
    if str(folder) in bundled_names() or not (found / MODEL_INDEX).is_file():
        raise ConfigurationError(f"`folder` must be a pipeline's, got {str(folder)!r}")
    return found


def check_record(folder: str | os.PathLike[str], name: str, columns: Sequence[str], protocol: str) -> dict[str, Any]:
    """What a folder's `evaluation.json` holds, or would begin with, before anything is measured for it.

    Raises:
        ConfigurationError: as `record_evaluation` would, of an evaluation with these columns and this protocol.
    """
    if not name.strip():
        raise ConfigurationError(f"`name` must say which photos these are, got {name!r}")
    if not any(column.startswith("psnr") for column in columns):
        raise ConfigurationError("`evaluation` must hold a PSNR, which needs the photos' ground truth")
    path = _recording_folder(folder) / EVALUATION
    known: dict[str, Any] = (read_json(path, "") if path.is_file() else {}) or {"protocol": protocol, "sets": []}
    _check_evaluation(known, path)
    if known["protocol"] != protocol:
        raise ConfigurationError(
            f"`evaluation` was measured otherwise ({protocol}) than what {str(path)!r} holds "
            f"({known['protocol']}): one table shows one protocol"
        )
    return known


def record_evaluation(
    folder: str | os.PathLike[str], name: str, evaluation: "Evaluation", *, note: str | None = None
) -> Path:
    """Writes an evaluation's means into a folder's `evaluation.json`, which its card will show.

    That is the PSNR of each row; of the last row, taken for the checkpoint's own, the difference from the others with
    its interval, and its worst photo; and each row's label-free scores, where they were taken.

    Args:
        folder: of a pipeline or a training run.
        name: of the photos, e.g. "RENOIR (low light)". An entry of this name is replaced.
        evaluation: of `evaluation.evaluate_folder`, with ground truth; the checkpoint's own row last.
        note: what a reader must know, e.g. that a choice was made on these photos.

    Raises:
        ConfigurationError: on an empty `name`, where PSNR was not measured, or the entries there have another protocol.
    """
    from ..evaluation.named_metrics import LABEL_FREE

    known = check_record(folder, name, [column.name for column in evaluation.columns], evaluation.protocol)
    folder = _recording_folder(folder)
    column = next(c.name for c in evaluation.columns if c.name.startswith("psnr"))
    scores = {row: round(evaluation.mean(row, column), 4) for row in evaluation.rows}
    entry: dict[str, Any] = {"set": name, "photos": len(evaluation.photos), "psnr": scores}
    *others, own = evaluation.rows
    differences = {row: evaluation.difference(own, column, row) for row in others if row != IDENTITY}
    entry["minus"] = {row: [round(v, 4) for v in (d.mean, d.low, d.high)] for row, d in differences.items() if d}
    against = evaluation.values(own, column) - evaluation.values(IDENTITY, column)
    entry["worst"] = round(float(against.min()), 4)
    noisy = task_of(training_record(folder)) in (None, "denoise")  # of rain no noise is left, whatever is done
    label_free = [c for c in evaluation.columns if c in LABEL_FREE and (noisy or c.name != "noise_left")]
    if label_free:
        entry["label_free"] = {
            row: {c.title: round(evaluation.mean(row, c.name), 4) for c in label_free} for row in evaluation.rows
        }
    known["sets"] = [*(one for one in known["sets"] if one["set"] != name), entry]
    if note:
        known["note"] = note
    return write_text(folder / EVALUATION, json.dumps(known, indent=2) + "\n")
