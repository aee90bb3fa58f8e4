"""The golden tensors: numbers that the official code gave on small random weights (METHOD, "Golden tensors")."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Golden:
    """One official step.

    Attributes:
        tensors: all but the weights, under the keys of METHOD.
        weights: the state dict under its official names.
        config: the sizes that it ran with.
    """

    name: str
    tensors: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    config: dict[str, Any]

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}


def load_golden(name: str) -> Golden:
    folder = Path(os.environ.get("DAA_GOLDENS") or ROOT.parent / "shared" / "goldens")
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"golden tensors needed: {path.name} is not in {folder}; set DAA_GOLDENS to their folder")
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping, keys() only
        config = json.loads(file.metadata()["config"])
    weights = {key.removeprefix("weights."): tensors.pop(key) for key in list(tensors) if key.startswith("weights.")}
    return Golden(name, tensors, weights, config)


@pytest.fixture(scope="session", params=["joint_step", "unpaired_step"])
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="session")
def joint_golden() -> Golden:
    return load_golden("joint_step")


class ErrorTable:
    """Collects errors against golden values and prints how they are distributed (DESIGN, habit 13)."""

    def __init__(self, title: str, capsys: pytest.CaptureFixture):
        self.title = title
        self.capsys = capsys
        self.rows: list[tuple[str, torch.Tensor, float]] = []

    def add(self, name: str, ours: torch.Tensor, golden: torch.Tensor, *, tolerance: float, relative: bool = False):
        """Absolute errors, or relative ones, of tensors of one shape; each must be at most `tolerance`."""
        assert ours.shape == golden.shape, f"{name}: {tuple(ours.shape)} is not the golden {tuple(golden.shape)}"
        errors = (ours.detach().double() - golden.double()).abs()
        if relative:
            errors = errors / golden.double().abs().clamp_min(1e-12)
        self.rows.append((name, errors.flatten(), tolerance))

    def check(self) -> None:
        """Prints the table, past pytest's capture, then fails on every row that is beyond its tolerance."""
        lines = [self.title, f"{'errors':36} {'values':>9} {'median':>9} {'99 %':>9} {'max':>9} {'allowed':>9}"]
        failed = []
        for name, errors, tolerance in self.rows:
            # numpy's quantile: torch's has a limit of values
            median, most, worst = np.quantile(errors.numpy(), (0.5, 0.99, 1.0))
            numbers = " ".join(f"{number:9.1e}" for number in (median, most, worst, tolerance))
            lines.append(f"    {name:32} {errors.numel():9d} {numbers}")
            if not worst <= tolerance:  # NaN fails too
                failed.append(f"{name}: {worst:.2e} > {tolerance:.0e}")
        with self.capsys.disabled():
            print("\n" + "\n".join(lines))
        assert not failed, "; ".join(failed)


@pytest.fixture
def table(request, capsys) -> ErrorTable:
    return ErrorTable(request.node.name, capsys)
