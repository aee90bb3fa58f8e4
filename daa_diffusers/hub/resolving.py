"""Resolution of checkpoint names (bundled names, folders, single files, Hub ids), and checks of completeness."""

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download

from .. import _MODULES
from ..checkpoints import RENAMED, bundled_names, bundled_path, is_bundled
from ..errors import CheckpointError, did_you_mean
from ..foreign.weights import PICKLED, SAFETENSORS
from .untrusted import check_inside, check_shapes, empty_network, loading_errors, read_config, read_json, stored_shapes
from .weight_files import WEIGHTS, stored_variant, weight_files, weights_entry

logger = logging.getLogger(__name__)

ROOT_PACKAGE = __package__.partition(".")[0]  # start of this package's module paths in model_index.json
MODEL_INDEX = "model_index.json"
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
NO_PICKLE = "only safetensors are read, because pickle files run code when they are opened"
CONFIG_NAMES = {"scheduler": "scheduler_config.json"}  # component -> config file, if not config.json
TRAINING, EVALUATION = "training.json", "evaluation.json"  # training record with license; evaluation scores
LICENSE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt")
CARD = "README.md"
RECORD_FILES = (TRAINING, EVALUATION, *LICENSE_FILES, CARD)
DOWNLOAD_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "variant")


@dataclass(frozen=True)
class Source:
    """Location of a checkpoint.

    Args:
        kind: "folder" (of a pipeline), "file" (weights of a restorer), or "hub".
        location: path, or repository id.
        name: name for records; never a local path.
    """

    kind: Literal["folder", "file", "hub"]
    location: str
    name: str


def resolve(
    name_or_path: str | os.PathLike, argument: str = "pretrained_model_name_or_path", variant: str | None = None
) -> Source:
    """Resolves the name of a checkpoint, without network access.

    Names of bundled checkpoints take precedence over local files and folders, and these over the Hub. A `Path` is
    always local. The output folder of a training run resolves to its pipeline. For a single restorer saved in shards,
    the location is their index; if only variants were saved and `variant` is None, it is the first variant.

    Raises:
        TypeError: neither a string nor a path.
        CheckpointError: the checkpoint does not exist, or is a pickle file.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"`{argument}` must be a string or a path, got {type(name_or_path).__name__}")
    path, text = Path(name_or_path), os.fspath(name_or_path)
    if not text:
        raise CheckpointError(f"`{argument}` is empty; expected a name, a folder, a file or the id of a Hub repository")
    if isinstance(name_or_path, str) and is_bundled(text):
        if path.is_dir():
            logger.warning(
                "%r is the bundled checkpoint, not the local folder of the same name; for that, write %r",
                text,
                f"./{text}",
            )
        if text in RENAMED:
            logger.warning("%r is no longer bundled; loading its successor %r", text, RENAMED[text])
        return Source("folder", str(bundled_path(text)), RENAMED.get(text, text))
    if path.is_dir():
        weights = weights_entry(path, variant or stored_variant(path))
        if not (path / MODEL_INDEX).is_file() and weights is not None:  # written by restorer.save_pretrained
            return Source("file", str(weights), path.resolve().name)
        if variant and not (path / MODEL_INDEX).is_file() and (path / "config.json").is_file():
            raise CheckpointError(f"`variant` is {variant!r}, but {text!r} has no such weights")
        return Source("folder", str(pipeline_folder(name_or_path)), path.resolve().name)
    suffixes = (SAFETENSORS, *PICKLED)
    if path.is_file():
        if path.suffix not in suffixes:
            raise CheckpointError(f"`{argument}` {text!r} must be a folder or a weight file ({', '.join(suffixes)})")
        return Source("file", text, path.name)
    if isinstance(name_or_path, str) and is_repo_id(text) and path.suffix not in suffixes:
        return Source("hub", text, text)
    raise CheckpointError(_unknown_message(text, argument))


def is_repo_id(text: str) -> bool:
    """Returns whether `text` has the form of a repository id, "owner/name"."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def pipeline_folder(name_or_path: str | os.PathLike[str]) -> Path:
    """Returns the pipeline folder of a bundled name or a training run's output folder; other folders are unchanged."""
    if isinstance(name_or_path, str) and is_bundled(name_or_path):
        return bundled_path(name_or_path)
    folder = Path(name_or_path)
    inner = folder / "pipeline"
    return inner if not (folder / MODEL_INDEX).is_file() and (inner / MODEL_INDEX).is_file() else folder


def _unknown_message(text: str, argument: str) -> str:
    """Returns the error message for a name that resolves to nothing."""
    on_hub = re.match(r"https?://[^/]+/(\w[\w.-]*/\w[\w.-]*)", text)
    if on_hub:
        return f"`{argument}` {text!r} is an address; use the repository id, {on_hub[1]!r}"
    name, at, revision = text.partition("@")
    if at and is_repo_id(name):
        return f"`{argument}` {text!r}: use the id {name!r}, and {revision!r} as the argument `revision`"
    known = list(bundled_names())
    return (
        f"`{argument}` {text!r} is not a bundled checkpoint ({', '.join(known) or 'none is bundled'}), "
        f'an existing folder or weight file, or the id of a Hub repository ("owner/name")' + did_you_mean(text, known)
    )


def download(
    repo_id: str,
    *,
    components: Sequence[str],
    cache_dir: str | os.PathLike | None = None,
    force_download: bool = False,
    local_files_only: bool | None = False,
    token: bool | str | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> str:
    """Downloads configs, safetensors and record of some components of a pipeline repository, unless they are cached.

    Returns:
        The local folder.

    Raises:
        RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, LocalEntryNotFoundError, ...: the errors of
            huggingface_hub, unchanged.
    """
    suffix = f".{variant}" if variant else ""
    files = (
        f"{WEIGHTS}{suffix}{SAFETENSORS}",
        f"{WEIGHTS}{suffix}-*{SAFETENSORS}",  # shards
        f"{WEIGHTS}{SAFETENSORS}.index{suffix}.json",
    )
    patterns = [MODEL_INDEX, *RECORD_FILES]
    patterns += ["config.json", *files]  # for a single restorer, which has no index
    for component in components:
        patterns.append(f"{component}/{CONFIG_NAMES.get(component, 'config.json')}")
        if component not in CONFIG_NAMES:
            patterns += [f"{component}/{file}" for file in files]
    fetch = partial(
        snapshot_download,
        repo_id,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        force_download=force_download,
        local_files_only=bool(local_files_only),
        token=token,
        revision=revision,
    )
    folder = fetch(allow_patterns=patterns)
    is_network = Path(folder, "config.json").is_file() and not Path(folder, MODEL_INDEX).is_file()
    if is_network and variant is None and weights_entry(Path(folder), None) is None:  # only variants exist
        fetch(allow_patterns=[f"{WEIGHTS}*{SAFETENSORS}*"])
    return folder


# --- completeness of a folder ---


def read_index(folder: Path) -> dict[str, Any]:
    """Reads the model_index.json of a folder, with this package's classes (`own_classes`).

    Raises:
        CheckpointError: the index is missing or damaged.
    """
    if not (folder / MODEL_INDEX).is_file():
        raise CheckpointError(no_pipeline(folder))
    return own_classes(read_json(folder / MODEL_INDEX, ""))


def no_pipeline(folder: Path) -> str:
    """Returns the error message for a folder that is not a checkpoint, with the file types in it, such as photos."""
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in folder.glob("*") if path.is_file())
    content = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(3)) or "no files"
    return f"{str(folder)!r} is not a pipeline folder: {MODEL_INDEX} is missing; the folder has {content}"


def own_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces a repository's own copies of classes in a model_index.json by this package's classes.

    A pushed repository contains code for users without this package; with the package, that code is not run.
    """
    replaced = dict(index)
    class_name = replaced.get("_class_name")
    if isinstance(class_name, list) and len(class_name) == 2:  # [file, class] where code is on the Hub
        replaced["_class_name"] = class_name[1]
    for name, entry in replaced.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[1] in _MODULES:
            replaced[name] = [f"{ROOT_PACKAGE}.{_MODULES[entry[1]]}", entry[1]]
    return replaced


def check_folder(
    folder: Path, components: Sequence[str], class_names: Sequence[str], variant: str | None = None
) -> dict[str, list[Path]]:
    """Checks every file that loading `components` needs, before anything is loaded.

    Args:
        folder: folder of a pipeline.
        components: names among "restorer", "unet" and "scheduler"; the scheduler may be absent.
        class_names: accepted pipeline classes.
        variant: variant of the weight files, e.g. "fp16".

    Returns:
        Component -> its weight files, for components with weights.

    Raises:
        CheckpointError: files are missing (all are listed), a config is of another class or has a value out of bounds,
            a file is outside the folder, or tensors do not fit the config.
    """
    index_file = folder / MODEL_INDEX
    index = read_index(folder)
    class_name = index.get("_class_name")
    if class_name not in class_names:
        raise CheckpointError(f"{MODEL_INDEX} in {str(folder)!r} has class {class_name}, expected {class_names[0]}")
    check_inside(folder, [index_file])
    missing: list[str] = []
    pickles: list[str] = []
    weights: dict[str, list[Path]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for component in components:
        entry = index.get(component)
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
            if component == "scheduler":
                continue
            word = "noise predictor (`unet`)" if component == "unet" else component
            raise CheckpointError(f"{str(folder)!r} holds no {word}: see {MODEL_INDEX}")
        config = folder / component / CONFIG_NAMES.get(component, "config.json")
        check_inside(folder, [config])
        if not config.is_file():
            missing.append(f"{component}/{config.name}")
        else:
            configs[component] = read_config(config, entry[1])
        if component not in CONFIG_NAMES:
            weights[component], absent = weight_files(folder / component, variant)
            check_inside(folder, weights[component])
            missing += [f"{component}/{name}" for name in absent]
            pickles += [f"{component}/{p.name}" for p in (folder / component).glob("*") if p.suffix in PICKLE_SUFFIXES]
    if missing:
        hint = f" (there is {', '.join(sorted(pickles))}: {NO_PICKLE})" if pickles else ""
        if not pickles and variant is None and (other := stored_variant(folder / components[0])):
            hint = f" (the variant {other!r} exists: set `variant`)"
        raise CheckpointError(f"checkpoint {str(folder)!r} has missing files: {', '.join(missing)}{hint}")
    for component, files in weights.items():
        network = empty_network(configs[component], str(folder / component / "config.json"))
        if network is not None:
            with loading_errors(folder):
                check_shapes(f"{component} of {str(folder)!r}", network.state_dict(), stored_shapes(files))
    return weights


def check_network_folder(folder: Path, variant: str | None = None) -> None:
    """Raises CheckpointError if the folder of a single network lacks a file, or its tensors do not fit its config."""
    weights, absent = weight_files(folder, variant)
    check_inside(folder, [folder / "config.json", *weights])
    if absent:
        raise CheckpointError(f"{str(folder)!r} has missing files: {', '.join(absent)}")
    config = read_json(folder / "config.json", f"{str(folder)!r} has no config.json")
    network = empty_network(config, str(folder / "config.json"))
    if network is not None:
        with loading_errors(folder):
            check_shapes(f"restorer of {str(folder)!r}", network.state_dict(), stored_shapes(weights))
