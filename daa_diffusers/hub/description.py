"""Description of a checkpoint, read from its files.

The restorer's config has task, value range and license. Next to the weights, a folder may contain `training.json`
(options, photos and library versions of the training) and `evaluation.json` (scores, with a row for the untouched
input). Weights are read only if scores have a fingerprint, to compare it with theirs.
"""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ..checkpoints.tasks import TASKS
from ..errors import CheckpointError
from ..models.restorer import RestorerContract
from .licenses import UNKNOWN, License, card_license, license_of, strictest
from .record_files import evaluation_record, measured_otherwise, task_of, training_record
from .resolving import CARD, EVALUATION, MODEL_INDEX, read_index
from .untrusted import empty_network, loading_errors, read_config, read_json, stored_dtypes, stored_shapes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint.

    Args:
        config: saved config.
        parameters: number of parameters. None: neither known from the config nor from weights.
        size_multiple: integer of which height and width of an input must be multiples. None: unknown.
        dtypes: dtypes of the stored weights; empty without weights.
        bytes: size of the weight files.
    """

    config: dict[str, Any]
    parameters: int | None = None
    size_multiple: int | None = None
    dtypes: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def class_name(self) -> str:
        """Class name of the network."""
        return str(self.config.get("_class_name"))


@dataclass(frozen=True)
class Description:
    """Content of a checkpoint, as far as its files state it."""

    restorer: Network
    unet: Network | None = None
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    card_license: License = UNKNOWN

    @property
    def task(self) -> str | None:
        """Key of `checkpoints.tasks.TASKS`; None if the files state no task, or several."""
        stated = self.restorer.config.get("task")
        return stated if stated in TASKS else task_of(self.training)

    @property
    def license(self) -> License:
        """The strictest license recorded for the weights, or stated by their card."""
        return strictest(license_of(self.training, self.restorer.config), self.card_license)

    @property
    def value_range(self) -> tuple[float, float]:
        """Value range of the restorer's input and output."""
        low, high = self.restorer.config.get("value_range") or (0.0, 1.0)
        return low, high


def describe(folder: Path, training: dict[str, Any] | None = None) -> Description:
    """Describes the folder of a pipeline or of a single restorer, with or without weights.

    Scores with the fingerprint of other weights than those in the folder are ignored, with a warning.

    Args:
        folder: folder of a pipeline or of a restorer.
        training: training record. None: that of the folder.

    Raises:
        CheckpointError: the folder holds no restorer, or its files are damaged or out of bounds.
    """
    networks: dict[str, Network] = {}
    is_network = not (folder / MODEL_INDEX).is_file() and (folder / "config.json").is_file()
    if is_network:
        class_name = str(read_json(folder / "config.json", "").get("_class_name"))
        networks["restorer"] = describe_network(folder, read_config(folder / "config.json", class_name))
    else:
        index = read_index(folder)
        for name in ("restorer", "unet"):
            entry = index.get(name)
            if isinstance(entry, list) and len(entry) == 2 and entry[1]:
                networks[name] = describe_network(folder / name, read_config(folder / name / "config.json", entry[1]))
    if "restorer" not in networks:
        raise CheckpointError(f"{str(folder)!r} holds no restorer: see {MODEL_INDEX}")
    evaluation = evaluation_record(folder)
    if measured_otherwise(evaluation, folder if is_network else folder / "restorer"):
        logger.warning("the scores in %s belong to other weights than those next to it, and are ignored", EVALUATION)
        evaluation = {}
    record = training_record(folder) if training is None else training
    return Description(networks["restorer"], networks.get("unet"), record, evaluation, card_license(folder / CARD))


def describe_repository(repo_id: str, revision: str | None = None) -> Description:
    """Describes a repository on the Hub, without downloading weights.

    Raises:
        CheckpointError: see `describe`.
        RepositoryNotFoundError, ...: the errors of huggingface_hub, unchanged.
    """
    patterns = ["*.json", CARD, "restorer/config.json", "unet/config.json"]
    folder = snapshot_download(repo_id, revision=revision, allow_patterns=patterns, ignore_patterns=["*.index*.json"])
    return describe(Path(folder))


def describe_network(folder: Path, config: dict[str, Any]) -> Network:
    """Describes one network by its config, and by its weights in `folder` if they are present."""
    network = empty_network(config, str(folder / "config.json"))
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    if network is not None:
        parameters = sum(parameter.numel() for parameter in network.parameters())
    else:  # architecture of another package: count the tensors in its files
        with loading_errors(folder):
            parameters = sum(math.prod(shape) for shape in stored_shapes(files).values())
    return Network(
        config,
        parameters or None,
        config.get("size_multiple") if network is None else RestorerContract.of(network).size_multiple,
        stored_dtypes(files),
        sum(path.stat().st_size for path in files),
    )
