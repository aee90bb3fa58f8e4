"""Fingerprints of weights: equal in float32 and float16, different after any change."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """16 hexadecimal digits of names, shapes and values, the values in float16: the same in either precision."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        values = tensors[name].detach().to("cpu", torch.float16).contiguous()
        digest.update(f"{name}\0{tuple(values.shape)}\0".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored_fingerprint(folder: Path) -> str:
    """`fingerprint` of the safetensors in a network's folder: that of its state dict."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return fingerprint(tensors)
