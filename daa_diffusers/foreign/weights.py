"""Safe reading of weight files (tensors only), with error messages for other files."""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..errors import CheckpointError

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".ckpt", ".bin")  # suffixes for torch.save; read with weights_only=True
HEAD = 1024  # bytes at the start that identify the type of a file
MAX_HEADER = 100 * 2**20  # bytes; limit of the safetensors library

# Keys for a state dict in checkpoints, averaged weights first. Without them, the only entry with tensors is used.
CONTAINERS = ("params_ema", "params-ema", "state_dict_ema", "ema", "model_ema", "model_state_dict", "state_dict",
              "params", "model", "net", "network", "net_g", "generator")  # fmt: skip
COMPILED = "_orig_mod"  # inserted into names by torch.compile, at any depth; no network has such a part
PARALLEL = "module."  # prefix of all names under nn.DataParallel


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Reads the tensors in a file, name -> tensor, without wrappers; the content determines the format.

    Files of torch.save may contain only tensors and plain values (`weights_only=True`).

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file is of another type (stated in the message, such as a Git LFS pointer or a web page),
            damaged, or a pickle file with more than tensors.
    """
    return bare_names(tensors_of(read_state(path), str(path)))


def weight_names(path: str | os.PathLike) -> list[str]:
    """Returns the tensor names of `read_weights`, without reading the tensors. Raises the same errors."""
    return list(bare_names(tensors_of(read_state(path, names_only=True), str(path))))


def read_state(path: str | os.PathLike, *, names_only: bool = False) -> Any:
    """Reads the content of a weight file in its original structure. Raises the errors of `read_weights`.

    Args:
        path: path of the file.
        names_only: return only names and shapes; tensors are not read if that saves time.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {str(path)!r} does not exist")
    if other := something_else(path):
        raise CheckpointError(f"{str(path)!r} {other}")
    try:
        if _is_safetensors(path):
            return _empty_tensors(path) if names_only else load_file(path)
        if names_only and path.suffix != SAFETENSORS and zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with open(path, "rb") as file:  # with a path, torch.load relies on the suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"{str(path)!r} is damaged, or its pickle needs more than tensors{f' (a {match[1]})' if match else ''} and "
            "is not opened, because that could run code. If you trust it, load it yourself and save its state_dict() "
            "with safetensors.torch.save_file, or wrap the network: ForeignRestorer.wrap(network)"
        ) from error
    except Exception as error:  # readers raise exceptions of any type on damaged files
        raise CheckpointError(
            f"{str(path)!r} is damaged, or was not downloaded completely ({path.stat().st_size} bytes): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _empty_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns tensors without memory, with the names and shapes of those in a safetensors file."""
    with safe_open(path, framework="pt") as handle:
        names = handle.keys()  # the handle is not iterable
        return {name: torch.empty(handle.get_slice(name).get_shape(), device="meta") for name in names}


def something_else(path: Path) -> str | None:
    """Returns what a file is instead of weights, as in "FILE is empty: download it again"; None if it may hold some."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty: download it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not weights: fetch them with `git lfs pull`, or download the file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not weights: download the file itself"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file (Keras); only torch and safetensors files are supported"
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh")):
        return "is an archive: unpack it first"
    if head.startswith(b"PK"):
        return _strange_zip(path)
    if not head.startswith(b"\x80") and _is_text(head):  # pickles start with 0x80, safetensors with a length
        return f"is a text file, not weights; it starts with {head[:40].decode(errors='replace').splitlines()[0]!r}"
    return None


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head[:64]) and not _claims_header(head)


def _strange_zip(path: Path) -> str | None:
    """Returns what a zip archive is instead of a file of torch.save; None if it may be one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return f"is damaged, or was not downloaded completely ({path.stat().st_size} bytes): its end is missing"
    if any(name.endswith("constants.pkl") for name in names):
        return "is a TorchScript archive, which has code and is not opened: save the network's state_dict() instead"
    if not any(name.endswith("data.pkl") for name in names):
        return "is a zip archive, not a file of torch.save: unpack it first"
    return None


def _is_safetensors(path: Path) -> bool:
    """Whether a file is to be read as safetensors: by its content, or its suffix unless it starts like a pickle."""
    with open(path, "rb") as file:
        head = file.read(9)
    return not head.startswith((b"PK", b"\x80\x02")) if path.suffix == SAFETENSORS else _claims_header(head)


def _claims_header(head: bytes) -> bool:
    """Returns whether a file starts like a safetensors file: the length of a JSON header, and its brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def tensors_of(content: Any, name: str) -> dict[str, torch.Tensor]:
    """Extracts the state dict from a training checkpoint, without counters, optimizers and the like.

    Raises:
        CheckpointError: there are no named tensors, or several networks without a usual name.
    """
    message = f"{name!r} must hold a state dict (tensors by name), got"
    for _ in range(3):  # levels of nesting, as in {"model": {"state_dict": {...}}}
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{message} {type(content).__name__}")
        tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        inner = {str(key): value for key, value in content.items() if _has_tensors(value)}
        chosen = next((key for key in CONTAINERS if key in inner), None)
        if chosen is None and not tensors and len(inner) == 1:
            (chosen,) = inner
        if chosen is None:
            if tensors:
                return tensors
            several = f"several networks ({', '.join(inner)}): save the restorer's weights only"
            raise CheckpointError(f"{message} {several if inner else 'none'}")
        content = inner[chosen]
    raise CheckpointError(f"{message} nested mappings")


def _has_tensors(value: Any) -> bool:
    """Returns whether a value is a mapping with tensors at any depth."""
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(item, torch.Tensor) or _has_tensors(item) for item in value.values())


def bare_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Removes the prefixes of torch.compile and data-parallel wrappers, in any order, from names."""
    names = {name: ".".join(part for part in name.split(".") if part != COMPILED) for name in tensors}
    while names and all(name.startswith(PARALLEL) for name in names.values()):
        names = {key: name.removeprefix(PARALLEL) for key, name in names.items()}
    return {names[key]: tensor for key, tensor in tensors.items()}
