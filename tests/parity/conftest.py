"""The golden tensors: numbers that the official code gave on small random weights.

`seeded_*.safetensors` beside this file hold everything but the weights, which follow the rule of `seeded_weights`, so
that parity is checked in every clone. The larger ones, in `$DAA_GOLDENS`, hold their weights as well.
"""

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.models.restoration_unet import RestorationUNet

from ..official.to_official import to_official_state_dict

ROOT = Path(__file__).parents[2]
NETWORKS = ("denoise_fn.", "RestorationNet.")


@dataclass(frozen=True)
class Golden:
    """One official step.

    Attributes:
        tensors: all but the weights: `input.*`, `draw.*`, `output.*` and `grad_norm.<official parameter name>`.
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


FOLDER = Path(__file__).parent
SEEDED = ("seeded_joint_step", "seeded_unpaired_step")


def load_golden(name: str) -> Golden:
    folder = FOLDER if name in SEEDED else Path(os.environ.get("DAA_GOLDENS") or ROOT.parent / "shared" / "goldens")
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"golden tensors needed: {path.name} is not in {folder}; set DAA_GOLDENS to their folder")
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping, keys() only
        config = json.loads(file.metadata()["config"])
    weights = {key.removeprefix("weights."): tensors.pop(key) for key in list(tensors) if key.startswith("weights.")}
    return Golden(name, tensors, weights or seeded_weights(config), config)


def seeded_weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The official state dict that a seeded golden was made with: a function of each parameter's name and shape."""
    official = config["unet"]
    unet = DAAUNet2DConditionModel(
        in_channels=official["in_channel"],
        out_channels=official["out_channel"],
        block_out_channels=tuple(official["inner_channel"] * m for m in official["channel_mults"]),
        layers_per_block=official["res_blocks"],
        attention_head_dim=official["num_head_channels"],
    )
    layout = to_official_state_dict(RestorationUNet(width=config["restorer_width"], align_corners=True), unet)
    return {name: _seeded(name, t) if name.startswith(NETWORKS) else t for name, t in layout.items()}


def _seeded(name: str, like: torch.Tensor) -> torch.Tensor:
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(like.shape)).astype(np.float32)
    return torch.from_numpy(0.08 * drawn if like.ndim > 1 else (0.05 + 0.1 * drawn).astype(np.float32))


@pytest.fixture(scope="session", params=[*SEEDED, "joint_step", "unpaired_step"])
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="session", params=["seeded_joint_step", "joint_step"])
def joint_golden(request) -> Golden:
    return load_golden(request.param)


class ErrorTable:
    """Collects errors against golden values and prints how they are distributed."""

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
