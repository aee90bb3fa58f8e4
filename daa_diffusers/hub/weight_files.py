"""Weight files of a network: a single file or shards, without or with a variant such as fp16."""

import re
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..foreign.weights import SAFETENSORS, read_weights
from .untrusted import check_inside, check_name, read_json

WEIGHTS = "diffusion_pytorch_model"


def weight_files(folder: Path, variant: str | None) -> tuple[list[Path], list[str]]:
    """Returns the weight files of a component, and the names of those that are missing.

    Raises:
        CheckpointError: the index of the shards is damaged, or names a file outside the folder.
    """
    single, _ = _entries(folder, variant)
    return files_of(weights_entry(folder, variant) or single)


def weights_entry(folder: Path, variant: str | None) -> Path | None:
    """Returns the file by which weights are opened: the single weight file or the index of shards; None without."""
    return next((path for path in _entries(folder, variant) if path.is_file()), None)


def files_of(path: Path) -> tuple[list[Path], list[str]]:
    """Returns the results of `weight_files` for a given weight file or index of shards."""
    if path.suffix != ".json":
        return [path], [] if path.is_file() else [path.name]
    file_of_tensor = read_json(path, f"{str(path)!r} is missing").get("weight_map")
    if not isinstance(file_of_tensor, dict) or not file_of_tensor:
        raise CheckpointError(f"`weight_map` in {str(path)!r} must be an object of tensor names and files")
    names = sorted({check_name(name, str(path)) for name in file_of_tensor.values()})
    return [path.with_name(name) for name in names], [name for name in names if not path.with_name(name).is_file()]


def read_stored(path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a weight file (`foreign.weights.read_weights`), or of all shards of an index."""
    files, absent = files_of(path)
    if path.suffix == ".json":
        check_inside(path.parent, files)
        if absent:
            raise CheckpointError(f"{str(path.parent)!r} has missing files: {', '.join(absent)}")
    return {name: tensor for file in files for name, tensor in read_weights(file).items()}


def stored_variant(folder: Path) -> str | None:
    """Returns the first variant in a network's folder; None if it has weights without a variant, or no weights."""
    names = [path.name for path in sorted(folder.glob(f"{WEIGHTS}*")) if not path.is_dir()]
    if any(re.match(rf"{WEIGHTS}(-\d|{re.escape(SAFETENSORS)}(\.index\.json)?$)", name) for name in names):
        return None
    # NAME.VARIANT.safetensors, NAME.VARIANT-00001-of-..., NAME.safetensors.index.VARIANT.json
    for pattern in (rf"{WEIGHTS}\.(?!safetensors)(\w+?)[.-]", rf"{WEIGHTS}{SAFETENSORS}\.index\.(\w+)\.json$"):
        for name in names:
            if match := re.match(pattern, name):
                return match[1]
    return None


def _entries(folder: Path, variant: str | None) -> tuple[Path, Path]:
    """Returns the paths of a single weight file and of an index of shards, which need not exist."""
    suffix = f".{variant}" if variant else ""
    return folder / f"{WEIGHTS}{suffix}{SAFETENSORS}", folder / f"{WEIGHTS}{SAFETENSORS}.index{suffix}.json"
