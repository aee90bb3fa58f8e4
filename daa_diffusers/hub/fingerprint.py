"""Fingerprints of weights: the same in float32 and float16, different after any change that float16 resolves."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Computes a hash of names, shapes and values (in float16) of tensors, as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        values = tensors[name].detach().to("cpu", torch.float16).contiguous()
        digest.update(f"{name}\0{tuple(values.shape)}\0".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored_fingerprint(folder: Path) -> str:
    """Returns the `fingerprint` of a network's state dict, computed from the safetensors in its folder."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return fingerprint(tensors)
