"""Records of weights: task, license, training and numbers, kept with a network and saved wherever it is saved.

Task and license are in the network's config. The files beside the weights (`training.json`, `evaluation.json`, a
license's text, a card that a user wrote) are read when weights are loaded, kept as `network.weights_record`, and
written with every copy of them. Numbers, and a card, apply to exactly the weights that were measured.
"""

import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn

from ..checkpoints.tasks import TASKS, task_of_degradation
from ..errors import CheckpointError
from ..files import replacing
from ..models.restorer import config_of, unwrapped
from .fingerprint import fingerprint, stored_fingerprint
from .licenses import License, license_of, strictest
from .resolving import EVALUATION, LICENSE_FILES, MODEL_INDEX, TRAINING
from .untrusted import MAX_JSON_BYTES, check_inside, read_json

logger = logging.getLogger(__name__)

RUN = "run.json"
CARD = "README.md"
IDENTITY = "identity"
WEIGHTS_KEY = "weights"  # of evaluation.json: the fingerprint of the weights that were measured
RECORD_FILES = (TRAINING, EVALUATION, *LICENSE_FILES, CARD)
# Marks a rendered card, which may be rendered again.
RENDERED = (
    "<!-- Rendered by daa_diffusers from this repository's own files; take this line out to keep what you write. -->"
)
# Entries of a run's record that a copy of its weights keeps.
RUN_FIELDS = ("steps", "options", "photos", "versions")


@dataclass(frozen=True)
class WeightsRecord:
    """The files that belong to weights.

    Args:
        training: how they were made; empty where it is not recorded.
        evaluation: the numbers that were measured.
        licenses: name -> content of the license files.
        card: that a user wrote; None: there is none, and one is rendered for every upload.
        weights: fingerprint of the weights that `evaluation` and `card` are about; None: not known, so that these two
            are not saved again.
    """

    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    licenses: dict[str, bytes] = field(default_factory=dict)
    card: str | None = None
    weights: str | None = None


# --- reading ---


def training_record(folder: Path) -> dict[str, Any]:
    """The training record of the weights in a folder: its `training.json`, else the `run.json` of its run."""
    if (folder / TRAINING).is_file():
        return read_json(folder / TRAINING, "")
    run = folder.resolve().parent / RUN
    if folder.resolve().name == "pipeline" and run.is_file():
        record = read_json(run, "")
        return {key: record[key] for key in RUN_FIELDS if key in record}
    return {}


def evaluation_record(folder: Path) -> dict[str, Any]:
    """The numbers in a folder's `evaluation.json`; empty where there is none.

    Raises:
        CheckpointError: where it does not hold what it should.
    """
    path = folder / EVALUATION
    evaluation = read_json(path, "") if path.is_file() else {}
    check_evaluation(evaluation, path)
    return evaluation


def read_record(folder: Path) -> WeightsRecord:
    """The record in a folder of a pipeline or of a lone network; of a pipeline's component, the pipeline's.

    Raises:
        CheckpointError: where a file is damaged, too large, or a link out of the folder.
    """
    own = any((folder / name).is_file() for name in (TRAINING, EVALUATION, *LICENSE_FILES))
    if not own and (folder.parent / MODEL_INDEX).is_file():
        folder = folder.parent
    texts = {name: folder / name for name in (*LICENSE_FILES, CARD) if (folder / name).is_file()}
    check_inside(folder, [folder / TRAINING, folder / EVALUATION, *texts.values()])
    for path in texts.values():
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{str(path)!r} has {path.stat().st_size} bytes, at most {MAX_JSON_BYTES} are read")
    content = {name: path.read_bytes() for name, path in texts.items()}
    card = content.pop(CARD, RENDERED.encode()).decode("utf-8", "replace")
    evaluation = evaluation_record(folder)
    return WeightsRecord(
        training_record(folder), evaluation, content, None if RENDERED in card else card, evaluation.get(WEIGHTS_KEY)
    )


def task_of(training: Mapping[str, Any]) -> str | None:
    """ "denoise", "derain" or "deblur", by a training record; None where it states none or several."""
    if training.get("task") in TASKS:
        return training["task"]
    options = training.get("options")
    degradation = options.get("degradation") if isinstance(options, Mapping) else None
    found = {task_of_degradation(kind) for kind in _kinds(degradation)} - {None}
    return found.pop() if len(found) == 1 else None


def recorded_objective(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of the objective of a training record; those of earlier versions are flat."""
    given = options.get("objective", "noise_space")
    if isinstance(given, Mapping):
        return str(given.get("type")), {name: value for name, value in given.items() if name != "type"}
    if given == "noise_space" and options.get("variant") == "vanilla":
        return "supervised", {}
    return str(given), {"variant": options["variant"]} if given == "noise_space" and "variant" in options else {}


def is_adapted(training: Mapping[str, Any]) -> bool:
    """Whether the weights were adapted to real photos, by their record."""
    options = training.get("options")
    if not isinstance(options, Mapping) or not options.get("real"):
        return False
    return recorded_objective(options)[0] != "supervised"


def _kinds(degradation: Any) -> set[str]:
    """The types of a degradation's config and of its parts."""
    if isinstance(degradation, Mapping):
        inner = set().union(*map(_kinds, degradation.values())) if degradation else set()
        return inner | ({degradation["type"]} if isinstance(degradation.get("type"), str) else set())
    return set().union(*map(_kinds, degradation)) if isinstance(degradation, list) else set()


# --- a network and its record ---


def record_of(network: nn.Module) -> WeightsRecord:
    """The record of a network's weights; an empty one where nothing is known."""
    found = unwrapped(network).__dict__.get("weights_record")
    return found if isinstance(found, WeightsRecord) else WeightsRecord()


def keep_record(network: nn.Module, record: WeightsRecord) -> None:
    """Makes `record` the network's, and writes its task and license into the network's config.

    A task that the config states is kept; of two licenses the stricter one applies.
    """
    network = unwrapped(network)
    network.weights_record = record  # type: ignore[assignment]
    task = task_of(record.training)
    if task is not None and config_of(network).get("task") is None:
        _configure(network, task=task)
    strict = stated_license(network)
    if strict.key is not None:
        _configure(network, license=strict.key)


def stated_license(network: nn.Module) -> License:
    """The license of a network's weights, by its config and record."""
    return license_of(record_of(network).training, config_of(unwrapped(network)))


def state_license(network: nn.Module, license: License) -> None:
    """Writes a license into a network's config, or into its record where the config has no such entry."""
    network = unwrapped(network)
    if not _configure(network, license=license.key):
        record = record_of(network)
        kept = {name: value for name, value in record.training.items() if name not in ("license", "licence")}
        stated = {"license": license.key} if license.key else {}
        network.weights_record = replace(record, training={**kept, **stated})  # type: ignore[assignment]


def inherit_license(network: nn.Module, license: License) -> None:
    """Makes the stricter of the network's license and another one the network's."""
    strict = strictest(stated_license(network), license)
    if strict.key is not None and strict.key != config_of(unwrapped(network)).get("license"):
        state_license(network, strict)


def _configure(network: nn.Module, **values: str | None) -> bool:
    """Sets entries of a network's config; False where the config has no such entries, as of a class of others."""
    known = all(name in config_of(network) for name in values) and hasattr(network, "register_to_config")
    if known:
        network.register_to_config(**values)  # type: ignore[operator]
    return known


def attach_record(network: nn.Module, folder: Path) -> None:
    """Reads the record beside weights that were just loaded; a damaged one is reported and left out."""
    try:
        record = read_record(folder)
    except CheckpointError as error:
        logger.warning("the record of these weights cannot be read: %s", error)
        return
    if record.weights is None and (record.evaluation or record.card):
        record = replace(record, weights=weights_of(network))
    keep_record(network, record)


def attach_from(network: nn.Module, source: str | os.PathLike[str] | None, options: Mapping[str, Any]) -> None:
    """Reads the record beside weights that `from_pretrained(source, **options)` has loaded; failures are reported."""
    if source is None:
        return
    folder = Path(source)
    if not folder.is_dir():
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        chosen = {name: options[name] for name in names if name in options}
        try:
            folder = Path(
                snapshot_download(
                    str(source), allow_patterns=[MODEL_INDEX, TRAINING, EVALUATION, *LICENSE_FILES], **chosen
                )
            )
        except (OSError, ValueError) as error:
            logger.warning("the record of these weights cannot be read: %s", error)
            return
    attach_record(network, folder / str(options.get("subfolder") or ""))


def weights_of(network: nn.Module) -> str | None:
    """The fingerprint of a network's weights; None in bfloat16, which keeps too few digits."""
    tensors = unwrapped(network).state_dict()
    if any(tensor.dtype == torch.bfloat16 or tensor.is_meta for tensor in tensors.values()):
        return None
    return fingerprint(tensors)


def keep_run_record(network: nn.Module, run: Mapping[str, Any]) -> None:
    """Makes the record of a training run that of the network that it trained.

    The license of the weights that the run began with stays, with its text; their numbers and card do not. The task is
    that of the run's degradation, where it has one.
    """
    start = record_of(network)
    training = {key: run[key] for key in RUN_FIELDS if key in run}
    inherited = strictest(license_of(training), stated_license(network))
    if inherited.key is not None:
        training["license"] = inherited.key
    task = task_of(training)
    if not (training.get("options") or {}).get("degradation"):  # pairs alone do not determine it
        task = config_of(unwrapped(network)).get("task") or task_of(start.training)
    if task is not None:
        training["task"] = task
    _configure(unwrapped(network), task=task)
    keep_record(network, WeightsRecord(training, licenses=start.licenses))


# --- writing ---


def record_files(network: nn.Module) -> dict[str, bytes]:
    """Files saved beside a network's weights: name -> content."""
    record = record_of(network)
    files = dict(record.licenses)
    if record.training:
        files[TRAINING] = _json(record.training)
    if record.evaluation or record.card is not None:
        if record.weights is not None and record.weights == weights_of(network):
            if record.evaluation:
                files[EVALUATION] = _json({**record.evaluation, WEIGHTS_KEY: record.weights})
            if record.card is not None:
                files[CARD] = record.card.encode()
        else:
            logger.warning("these weights are not those that were measured: numbers and card are left out")
    return files


def write_record(network: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Writes a network's record beside its weights, which are saved already, and removes records of other weights."""
    folder = Path(folder)
    files = record_files(network)
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    for name in _outdated(folder, folder, files):
        (folder / name).unlink()


def move_record(folder: Path, target: Path | None) -> None:
    """Moves the files of a record out of a component's folder, to where a pipeline has them; None: removes them."""
    for name in RECORD_FILES:
        if target is None:
            (folder / name).unlink(missing_ok=True)
        elif (folder / name).is_file():
            os.replace(folder / name, target / name)


def stale_files(target: Path, new: Path) -> list[str]:
    """The record files in a pipeline's folder of weights that those in the folder `new` are about to replace."""
    return _outdated(target, new / "restorer", [name for name in RECORD_FILES if (new / name).is_file()])


def _outdated(folder: Path, weights: Path, written: Collection[str]) -> list[str]:
    """The record files of earlier weights in a folder; numbers of exactly those in the folder `weights` may stay."""
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


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def measured_otherwise(evaluation: Mapping[str, Any], weights: Path) -> bool:
    """Whether numbers have the fingerprint of other weights than those in a network's folder."""
    measured = evaluation.get(WEIGHTS_KEY)
    return measured is not None and any(weights.glob("*.safetensors")) and measured != stored_fingerprint(weights)


# --- numbers ---


def check_evaluation(evaluation: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where a file holds no numbers as `evaluation.recording.record_evaluation` writes them."""
    if not evaluation:
        return
    sets = evaluation.get("sets")
    whole = isinstance(sets, list) and isinstance(evaluation.get("protocol"), str) and all(map(_is_set, sets))
    if not whole or not isinstance(evaluation.get(WEIGHTS_KEY), str | None):
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
