"""Where checkpoints come from: bundled names, folders, single files and the Hub; and whether they are whole."""

import difflib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from .checkpoints import bundled_names, bundled_path
from .errors import CheckpointError
from .models.restoration_unet import RestorationUNet

logger = logging.getLogger(__name__)

MODEL_INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model"
SAFETENSORS = ".safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
NO_PICKLE = "only safetensors are read, because pickle files run code when they are opened"
CONFIG_NAMES = {"scheduler": "scheduler_config.json"}  # of a component; else config.json
DOWNLOAD_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "variant")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is.

    Args:
        kind: "folder" of a pipeline, "file" of a restorer's weights, or "hub".
        location: its path, or the id of its repository.
        name: what may be saved about it: never a path of this machine.
    """

    kind: Literal["folder", "file", "hub"]
    location: str
    name: str


def resolve(name_or_path: str | os.PathLike) -> Source:
    """Decides what a name means, without touching the network.

    A string that is the name of a bundled checkpoint is that; then comes what exists on the disk; then the Hub. A
    `Path` is always on the disk.

    Raises:
        TypeError: on something else than a string or a path.
        CheckpointError: where there is no such thing, or it is a pickle file.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            f"`pretrained_model_name_or_path` must be a string or a path, got {type(name_or_path).__name__}"
        )
    path, text = Path(name_or_path), os.fspath(name_or_path)
    if isinstance(name_or_path, str) and text in bundled_names():
        if path.is_dir():
            logger.warning(
                "%r is the bundled checkpoint, not the local folder of the same name; for that, write %r",
                text,
                f"./{text}",
            )
        return Source("folder", str(bundled_path(text)), text)
    if path.is_dir():
        alone = path / f"{WEIGHTS}{SAFETENSORS}"
        if not (path / MODEL_INDEX).is_file() and alone.is_file():  # what restorer.save_pretrained writes
            return Source("file", str(alone), path.resolve().name)
        return Source("folder", text, path.resolve().name)
    if path.suffix in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{text!r} is a pickle file: {NO_PICKLE}. Official checkpoints are converted by "
            "daa_diffusers.convert.convert_official_state_dict"
        )
    if path.is_file():
        if path.suffix != SAFETENSORS:
            raise CheckpointError(f"{text!r} must be a folder or a {SAFETENSORS} file")
        return Source("file", text, path.name)
    if isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) and path.suffix != SAFETENSORS:
        return Source("hub", text, text)
    raise CheckpointError(_unknown(text))


def _unknown(text: str) -> str:
    known = list(bundled_names())
    close = difflib.get_close_matches(text, known, n=1)
    return (
        f"`pretrained_model_name_or_path` {text!r} is no bundled checkpoint ({', '.join(known) or 'none is bundled'}), "
        f'no folder or {SAFETENSORS} file, and no id of a Hub repository ("owner/name")'
        + (f"; did you mean {close[0]!r}?" if close else "")
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
    """Fetches the configs and safetensors of some components of a pipeline repository, or takes them from the cache.

    Returns:
        The local folder.

    Raises:
        RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, LocalEntryNotFoundError, ...: the errors of
            huggingface_hub, as they are.
    """
    suffix = f".{variant}" if variant else ""
    files = (
        f"{WEIGHTS}{suffix}{SAFETENSORS}",
        f"{WEIGHTS}{suffix}-*{SAFETENSORS}",  # shards
        f"{WEIGHTS}{SAFETENSORS}.index{suffix}.json",
    )
    patterns = [MODEL_INDEX]
    for component in components:
        patterns.append(f"{component}/{CONFIG_NAMES.get(component, 'config.json')}")
        if component not in CONFIG_NAMES:
            patterns += [f"{component}/{file}" for file in files]
    return snapshot_download(
        repo_id,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        force_download=force_download,
        local_files_only=bool(local_files_only),
        token=token,
        revision=revision,
        allow_patterns=patterns,
    )


# --- is a folder whole? ---


def check_folder(
    folder: Path, components: Sequence[str], class_names: Sequence[str], variant: str | None = None
) -> dict[str, list[Path]]:
    """Looks for every file that loading `components` needs, before anything is loaded.

    Args:
        folder: of a pipeline.
        components: "restorer", "unet", "scheduler"; a scheduler may be absent.
        class_names: of the pipeline that the folder may be of.
        variant: e.g. "fp16".

    Returns:
        The weight files of each component that has weights.

    Raises:
        CheckpointError: listing all missing files, or naming a config of another class.
    """
    index = _read_json(folder / MODEL_INDEX, f"{str(folder)!r} is no pipeline folder: {MODEL_INDEX} is missing")
    found = index.get("_class_name")
    found = found[-1] if isinstance(found, list) and found else found  # [file, class] where code is on the Hub
    if found not in class_names:
        raise CheckpointError(f"{MODEL_INDEX} in {str(folder)!r} is of a {found}, expected a {class_names[0]}")
    missing: list[str] = []
    pickles: list[str] = []
    weights: dict[str, list[Path]] = {}
    for component in components:
        entry = index.get(component)
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
            if component == "scheduler":
                continue
            word = "noise predictor (`unet`)" if component == "unet" else component
            raise CheckpointError(f"{str(folder)!r} holds no {word}: see {MODEL_INDEX}")
        config = folder / component / CONFIG_NAMES.get(component, "config.json")
        if not config.is_file():
            missing.append(f"{component}/{config.name}")
        else:
            _check_class(config, entry[1])
        if component not in CONFIG_NAMES:
            weights[component], absent = _weight_files(folder / component, variant)
            missing += [f"{component}/{name}" for name in absent]
            pickles += [f"{component}/{p.name}" for p in (folder / component).glob("*") if p.suffix in PICKLE_SUFFIXES]
    if missing:
        hint = f" (there is {', '.join(sorted(pickles))}: {NO_PICKLE})" if pickles else ""
        raise CheckpointError(f"checkpoint {str(folder)!r} has missing files: {', '.join(missing)}{hint}")
    return weights


def _weight_files(folder: Path, variant: str | None) -> tuple[list[Path], list[str]]:
    """The weight files of a component, and the names of those that should be there and are not."""
    suffix = f".{variant}" if variant else ""
    single = folder / f"{WEIGHTS}{suffix}{SAFETENSORS}"
    shards = folder / f"{WEIGHTS}{SAFETENSORS}.index{suffix}.json"
    if single.is_file() or not shards.is_file():
        return [single], [] if single.is_file() else [single.name]
    names = sorted(set(_read_json(shards, "").get("weight_map", {}).values()))
    return [folder / name for name in names], [name for name in names if not (folder / name).is_file()]


def _read_json(path: Path, if_missing: str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(if_missing)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} must hold a JSON object, got {type(content).__name__}")
    return content


def _check_class(config: Path, expected: str) -> dict[str, Any]:
    content = _read_json(config, "")
    if content.get("_class_name") != expected:
        raise CheckpointError(f"{str(config)!r} is the config of a {content.get('_class_name')}, expected a {expected}")
    return content


@contextmanager
def loading_errors(folder: Path) -> Iterator[None]:
    """Turns what diffusers and safetensors raise on damaged or unfitting files into CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} cannot be loaded: {error}") from error


def check_keys(component: str, module: nn.Module, files: Sequence[Path]) -> None:
    """CheckpointError unless the files hold exactly the module's tensors.

    diffusers only warns of missing ones, and goes on with random weights.
    """
    stored: set[str] = set()
    for file in files:
        with safe_open(file, framework="pt") as handle:
            stored.update(handle.keys())
    tensors = module.state_dict()
    shared = {tensor.data_ptr() for name, tensor in tensors.items() if name in stored}  # tied weights are stored once
    missing = [name for name, tensor in tensors.items() if name not in stored and tensor.data_ptr() not in shared]
    _raise_unfitting(f"{component} of {str(files[0].parent.parent)!r}", missing, sorted(stored - set(tensors)), [])


def _raise_unfitting(what: str, missing: Sequence[str], unknown: Sequence[str], shapes: Sequence[str]) -> None:
    kinds = (("missing tensors", missing), ("unknown tensors", unknown), ("wrong shapes", shapes))
    problems = [f"{kind}: {', '.join(names)}" for kind, names in kinds if names]
    if problems:
        raise CheckpointError(f"the weights do not fit the {what}: {'; '.join(problems)}")


# --- a single file ---


def load_restorer(path: Path, dtype: torch.dtype = torch.float32) -> RestorationUNet:
    """Loads one safetensors file of a `RestorationUNet`, in eval mode.

    The config.json beside it says what to build. Without one the sizes are read off the shapes; what shapes do not
    say (value range, slope, corner alignment) takes its default, and a warning says so.

    Raises:
        CheckpointError: on a damaged file, a config of another class, or tensors that do not fit (all listed).
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}") from error
    if "down_path.0.block.0.weight" in state:
        raise CheckpointError(
            f"{str(path)!r} has the official implementation's names; convert it by "
            "daa_diffusers.convert.convert_official_state_dict"
        )
    config_file = path.with_name("config.json")
    config = _check_class(config_file, RestorationUNet.__name__) if config_file.is_file() else _infer(state, path)
    try:
        with torch.device("meta"):  # a wrong config costs no memory
            restorer = RestorationUNet.from_config(config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{str(config_file)!r} builds no {RestorationUNet.__name__}: {error}") from error
    expected = restorer.state_dict()
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    missing, unknown = [n for n in expected if n not in state], [n for n in state if n not in expected]
    _raise_unfitting(f"restorer of {str(path)!r}", missing, unknown, shapes)
    restorer.load_state_dict(state, assign=True)
    return restorer.to(dtype).eval()


def _infer(state: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    first = state.get("down_blocks.0.conv1.weight")
    if first is None or first.ndim != 4:
        raise CheckpointError(f"{str(path)!r} holds no {RestorationUNet.__name__}: no down_blocks.0.conv1.weight")
    levels = {int(match[1]) for match in map(re.compile(r"down_blocks\.(\d+)\.").match, state) if match}
    config = {"channels": first.shape[1], "width": first.shape[0], "depth": len(levels)}
    logger.warning("no config.json beside %s: sizes inferred (%s), everything else by default", path.name, config)
    return config
