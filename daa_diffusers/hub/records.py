"""Weights records: task, license, training and evaluation, attached to a network and saved with it.

Task and license are in the network's config. The files next to the weights (`training.json`, `evaluation.json`, a
license text, a card that a user wrote) are read when weights are loaded, kept as `network.weights_record`, and written
next to every copy of the weights. Evaluation and card apply only to exactly the weights that were evaluated.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn

from .. import _MODULES as PUBLIC
from ..checkpoints import is_bundled
from ..errors import CheckpointError
from ..files import replacing
from ..models.restorer import config_of, unwrapped
from .fingerprint import fingerprint
from .licenses import UNKNOWN, License, license_of, strictest
from .record_files import RUN_FIELDS, WEIGHTS_KEY, WeightsRecord, outdated, read_record, task_of
from .repository import json_bytes
from .resolving import CARD, EVALUATION, MODEL_INDEX, RECORD_FILES, TRAINING
from .untrusted import read_json

logger = logging.getLogger(__name__)


def record_of(network: nn.Module) -> WeightsRecord:
    """Returns the record of a network's weights; empty if there is none."""
    record = unwrapped(network).__dict__.get("weights_record")
    return record if isinstance(record, WeightsRecord) else WeightsRecord()


def keep_record(network: nn.Module, record: WeightsRecord) -> None:
    """Attaches `record` to a network, and writes its task and license into the network's config.

    A task in the config takes precedence; of two licenses the stricter one applies.
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
    """Returns the license of a network's weights, from its config and record."""
    return license_of(record_of(network).training, config_of(unwrapped(network)))


def set_license(network: nn.Module, license: License) -> None:
    """Writes a license to a network's config, or to its record if the config has no such entry."""
    network = unwrapped(network)
    if not _configure(network, license=license.key):
        record = record_of(network)
        names = ("license", "licence")  # earlier versions wrote the second
        kept = {name: value for name, value in record.training.items() if name not in names}
        stated = {"license": license.key} if license.key else {}
        network.weights_record = replace(record, training={**kept, **stated})  # type: ignore[assignment]


def inherit_license(network: nn.Module, license: License) -> None:
    """Sets a network's license to `license` if that is stricter than its own."""
    own = stated_license(network)
    strict = strictest(own, license)
    if strict != own and strict.key is not None:
        set_license(network, strict)


def _configure(network: nn.Module, **values: str | None) -> bool:
    """Sets entries of a network's config. Returns False if its class, from another library, has no such entries."""
    has_entries = all(name in config_of(network) for name in values) and hasattr(network, "register_to_config")
    if has_entries:
        network.register_to_config(**values)  # type: ignore[operator]
    return has_entries


def check_class(kind: type, source: str | os.PathLike[str] | None, subfolder: str | None = None) -> None:
    """Checks that a folder holds a network of the class `kind`; otherwise diffusers would initialize new weights.

    Args:
        kind: class whose `from_pretrained` is called.
        source, subfolder: arguments of `from_pretrained`; the files of a Hub id are not checked.

    Raises:
        CheckpointError: `source` is a bundled pipeline, or the folder of a pipeline or of another class of this
            package.
    """
    if source is None:
        return
    folder = Path(source, subfolder or "")
    if isinstance(source, str) and is_bundled(source) and not folder.exists():
        whole = f"DAARestorationPipeline.from_pretrained({source!r})"
        raise CheckpointError(f"{source!r} is the name of a bundled pipeline; load its restorer with {whole}.restorer")
    if (folder / MODEL_INDEX).is_file() and not (folder / "config.json").exists():
        raise CheckpointError(f"{str(folder)!r} is a pipeline's folder; load its restorer with subfolder='restorer'")
    if (folder / "config.json").is_file():
        saved = read_json(folder / "config.json", "").get("_class_name")
        if saved in PUBLIC and saved not in {one.__name__ for one in kind.__mro__}:
            raise CheckpointError(f"{str(folder)!r} holds a {saved}, not a {kind.__name__}: load it with that class")


def attach_record(network: nn.Module, folder: Path) -> None:
    """Attaches the record in the folder of weights that were just loaded; a damaged one is ignored with a warning.

    Scores without a fingerprint, and a card without scores, are taken for those of these weights: copies are saved with
    the fingerprint, so that they are not shown for other weights later. A license that only the card states is
    inherited.
    """
    try:
        record = read_record(folder)
    except CheckpointError as error:
        logger.warning("the record of these weights cannot be read: %s", error)
        return
    if record.weights is None and (record.evaluation or record.card):
        if record.evaluation:
            logger.info("%s has no fingerprint; its scores are taken for those of these weights", folder / EVALUATION)
        record = replace(record, weights=weights_of(network))
    keep_record(network, record)
    inherit_license(network, record.license)


def attach_from(network: nn.Module, source: str | os.PathLike[str] | None, options: Mapping[str, Any]) -> None:
    """Attaches the record of weights loaded by `from_pretrained(source, **options)`; failures are logged."""
    if source is None:
        return
    folder = Path(source)
    if not folder.is_dir():
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        chosen = {name: options[name] for name in names if name in options}
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=[MODEL_INDEX, *RECORD_FILES], **chosen))
        except (OSError, ValueError) as error:
            logger.warning("the record of these weights cannot be read: %s", error)
            return
    attach_record(network, folder / str(options.get("subfolder") or ""))


def weights_of(network: nn.Module) -> str | None:
    """Returns the fingerprint of a network's weights; None for bfloat16, which has fewer digits than
    the float16 of saved weights, and for meta tensors."""
    tensors = unwrapped(network).state_dict()
    if any(tensor.dtype == torch.bfloat16 or tensor.is_meta for tensor in tensors.values()):
        return None
    return fingerprint(tensors)


def keep_run_record(network: nn.Module, run: Mapping[str, Any]) -> None:
    """Attaches the record of a training run to the trained network.

    License and license text are inherited from the initial weights; evaluation and card are not. The task is that of
    the run's degradation, or for a run on pairs that of the initial weights.
    """
    start = record_of(network)
    training = {key: run[key] for key in RUN_FIELDS if key in run}
    stated = stated_license(network)
    inherited = strictest(license_of(training, {"license": stated.key}), stated)
    if inherited != UNKNOWN:
        training["license"] = inherited.key or inherited.text  # the text of a license without a name
    task = task_of(training)
    if not (training.get("options") or {}).get("degradation"):  # a run on pairs
        task = config_of(unwrapped(network)).get("task") or task_of(start.training)
    if task is not None:
        training["task"] = task
    _configure(unwrapped(network), task=task)
    keep_record(network, WeightsRecord(training, licenses=start.licenses))


# --- writing ---


def record_files(network: nn.Module) -> dict[str, bytes]:
    """Returns record files to save with a network's weights: name -> content."""
    record = record_of(network)
    files = dict(record.licenses)
    if record.training:
        files[TRAINING] = json_bytes(record.training)
    if record.evaluation or record.card is not None:
        if record.weights is not None and record.weights == weights_of(network):
            if record.evaluation:
                files[EVALUATION] = json_bytes({**record.evaluation, WEIGHTS_KEY: record.weights})
            if record.card is not None:
                files[CARD] = record.card.encode()
        else:
            logger.warning("the weights may have changed after their evaluation: evaluation and card are not saved")
    return files


def write_record(network: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Writes a network's record to the folder of its saved weights, and removes records of other weights there."""
    folder = Path(folder)
    files = record_files(network)
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    for name in outdated(folder, folder, files):
        (folder / name).unlink()
