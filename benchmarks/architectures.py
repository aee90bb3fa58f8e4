"""Restorer architectures and optimizers at equal processor time of training: their cost, and what they restore.

    OMP_NUM_THREADS=1 python benchmarks/architectures.py --candidates small fast nafnet --seconds 60 \
        --report benchmarks/results/architectures.md
    OMP_NUM_THREADS=1 python benchmarks/architectures.py --candidates fast --optimizer muon --learning_rate 0.002 \
        --output_dir outputs/optimizers --report benchmarks/results/optimizers.md

Each candidate is trained by Adam or Muon under a cosine schedule for `--seconds` of processor time, in which
all that a step takes is counted, on patches of BSDS photos (`$DAA_DATA/clean/bsds`) degraded by the package's
synthetic degradations; then it restores 24 photos that it has not seen. Rows are kept in `--output_dir`: measured
ones are not measured again. One row takes `--seconds` and half a minute; nothing is saved of the networks.
"""

import argparse
import copy
import json
import math
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architecture_candidates as candidates
import common
import numpy as np
import torch
from torch import nn

from daa_diffusers import FastRestorationUNet, RestorationUNet
from daa_diffusers.degradations import BlindGaussian, Degradation, MotionBlur, RainStreaks
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text
from daa_diffusers.photos import read_photo
from daa_diffusers.training.optimizers import OPTIMIZERS

MORE = {"blocks": (2, 2, 4)}  # blocks of few operations are stacked twice as often
CANDIDATES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "small": ("RestorationUNet, preset small", lambda: RestorationUNet.from_preset("small")),
    "fast": ("FastRestorationUNet, preset fast", lambda: FastRestorationUNet.from_preset("fast")),
    "fast-large": ("FastRestorationUNet, preset fast-large", lambda: FastRestorationUNet.from_preset("fast-large")),
    "plain": ("no identity paths", lambda: candidates.Candidate(candidates.PlainBlock)),
    "residual": ("the common U-Net with the blocks of fast", lambda: candidates.Candidate(candidates.residual)),
    "concatenated": ("skips concatenated", lambda: candidates.Candidate(candidates.residual, concatenate=True)),
    "detail": ("12 channels at full resolution", lambda: candidates.Candidate(candidates.residual, detail=12)),
    "reparameterized": ("3x3 + 1x1", lambda: candidates.Candidate(candidates.reparameterized)),
    "fused": ("3x3 to twice the channels, 1x1 back", lambda: candidates.Candidate(candidates.fused)),
    "nafnet": ("NAFNet's, LayerNorm", lambda: candidates.Candidate(candidates.nafnet, **MORE)),
    "nafnet-bare": ("NAFNet's, no norm", lambda: candidates.Candidate(lambda w: candidates.nafnet(w, False), **MORE)),
    "large-kernel": ("7x7 depthwise, LayerNorm", lambda: candidates.Candidate(candidates.large_kernel, **MORE)),
    "shallow": (
        "two levels, more blocks", lambda: candidates.Candidate(candidates.residual, (64, 128), (2, 4))
    ),
}  # fmt: skip
# How patches of training and the test photos are degraded.
TASKS: dict[str, tuple[str, Degradation, Degradation]] = {
    "denoise": ("white noise to sigma 50, tested at 25", BlindGaussian(0, 50), BlindGaussian(25, 25)),
    "derain": ("made rain", RainStreaks(), RainStreaks()),
    "deblur": ("made camera shake", MotionBlur(length=(4, 30)), MotionBlur(length=(4, 30))),
}
TESTED, TEST_SIDE = 24, 192
COSTS = ("parameters", "operations", "float32", "bfloat16")
SETTING = ("task", "precision", "seconds", "patch", "batch")  # of the rows of one table


def photos() -> list[np.ndarray]:
    """BSDS in a fixed random order, (H, W, 3) uint8."""
    folder = Path(os.environ.get("DAA_DATA", "../shared/data")) / "clean" / "bsds"
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".jpg")
    random.Random(0).shuffle(paths)
    return [read_photo(path) for path in paths]


def patches(images: list[np.ndarray], draws: np.random.Generator, count: int, side: int) -> torch.Tensor:
    """Random squares, turned and mirrored: (count, 3, side, side) in [0, 1]."""
    found = []
    for _ in range(count):
        image = images[draws.integers(len(images))]
        top, left = (draws.integers(length - side + 1) for length in image.shape[:2])
        square = np.rot90(image[top : top + side, left : left + side], draws.integers(4))
        found.append(square[:, ::-1] if draws.integers(2) else square)
    return torch.from_numpy(np.stack(found)).movedim(-1, 1).float() / 255


def operations(network: nn.Module, side: int = 128) -> float:
    """Multiplications of the convolutions, per pixel of the photo."""
    total = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    found = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in found]
    with torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return total / side**2


def seconds_per_megapixel(network: nn.Module, dtype: torch.dtype, side: int = 512) -> float:
    """Processor time, the least of three."""
    network = copy.deepcopy(network).eval().to(dtype, memory_format=torch.channels_last)
    photo = torch.rand(1, 3, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.process_time()
            network(photo)
            times.append(time.process_time() - start)
    return min(times[1:]) * 1e6 / side**2


def mean_psnr(network: nn.Module, degraded: torch.Tensor, clean: torch.Tensor) -> float:
    """dB, the mean over photos."""
    with torch.no_grad():
        restored = torch.cat([network(part) for part in degraded.split(4)]).clamp(0, 1)
    return (-10 * (restored - clean).square().mean((1, 2, 3)).log10()).mean().item()


def train(network: nn.Module, images: list[np.ndarray], arguments: argparse.Namespace) -> dict[str, float]:
    """Trains for `arguments.seconds` and returns the number of steps and the seconds of one."""
    draws, generator = np.random.default_rng(0), torch.Generator().manual_seed(1)
    degrade = TASKS[arguments.task][1]
    optimizer = OPTIMIZERS[arguments.optimizer](network.parameters(), lr=arguments.learning_rate)
    steps, begun, spent_in_steps = 0, time.process_time(), 0.0
    while (used := time.process_time() - begun) < arguments.seconds:
        clean = patches(images, draws, arguments.batch, arguments.patch)
        degraded = degrade(clean, generator).contiguous(memory_format=torch.channels_last)
        start = time.process_time()
        decay = 0.5 + 0.5 * math.cos(math.pi * used / arguments.seconds)
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * min(1.0, (steps + 1) / 50) * decay
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16"):
            restored = network(degraded)
        loss = ((restored.float() - clean).square() + 1e-6).sqrt().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        spent_in_steps += time.process_time() - start
    return {"steps": steps, "step": spent_in_steps / max(steps, 1)}


def costs(network: nn.Module) -> dict[str, Any]:
    """What a network takes, whatever it is trained for."""
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "operations": operations(network),
        "float32": seconds_per_megapixel(network, torch.float32),
        "bfloat16": seconds_per_megapixel(network, torch.bfloat16),
    }


def measure(name: str, rows: list[dict[str, Any]], images: list[np.ndarray], arguments: argparse.Namespace) -> dict:
    """A row of the table; costs are those of an earlier row of the network where there is one."""
    torch.manual_seed(0)
    network = CANDIDATES[name][1]()
    known = next((row for row in rows if row["name"] == name), None)
    row = {key: known[key] for key in COSTS} if known else costs(network)
    row |= train(network.to(memory_format=torch.channels_last), images[TESTED:], arguments)
    squares = [image[40 : 40 + TEST_SIDE, 60 : 60 + TEST_SIDE] for image in images[:TESTED]]
    clean = torch.from_numpy(np.stack(squares)).movedim(-1, 1).float() / 255
    degraded = TASKS[arguments.task][2](clean, torch.Generator().manual_seed(5))
    return row | {"psnr": mean_psnr(network, degraded, clean), "untouched": mean_psnr(nn.Identity(), degraded, clean)}


def _line(row: dict[str, Any]) -> dict[str, str]:
    return {
        "network": row["name"],
        "": CANDIDATES[row["name"]][0],
        "optimizer": row["optimizer"],
        "learning rate": f"{row['learning_rate']:g}",
        "parameters (M)": f"{row['parameters'] / 1e6:.2f}",
        "operations / pixel": f"{row['operations'] / 1e3:.1f} k",
        "s/MP float32": f"{row['float32']:.2f}",
        "s/MP bfloat16": f"{row['bfloat16']:.2f}",
        "s / step": f"{row['step']:.3f}",
        "steps": str(row["steps"]),
        "PSNR (dB)": f"{row['psnr']:.2f}",
    }


def render(rows: list[dict[str, Any]]) -> str:
    """The rows as tables, one for each task and setting."""
    parts = [
        "# Restorer architectures at equal processor time\n\n`benchmarks/architectures.py`: each network trained for "
        f"the same processor time on one thread ({platform.machine()}, torch {torch.__version__}), on BSDS patches, "
        f"and tested on {TESTED} squares of {TEST_SIDE} px of photos that it has not seen: mean PSNR per photo, RGB. "
        "Operations are multiplications of the convolutions per pixel; seconds a megapixel are of one pass at 512 px. "
        "A busy machine lengthens all times; ratios within a table hold roughly."
    ]
    settings = sorted({tuple(row[k] for k in SETTING) for row in rows}, key=str)
    for task, precision, seconds, patch, batch in settings:
        same = [row for row in rows if tuple(row[k] for k in SETTING) == (task, precision, seconds, patch, batch)]
        lines = [_line(row) for row in sorted(same, key=lambda row: -row["psnr"])]
        parts.append(
            f"## {task}: {TASKS[task][0]}; {seconds:g} s in {precision}, {batch} x {patch} px a step\n\n"
            f"Untouched: {same[0]['untouched']:.2f} dB.\n\n{markdown_table(lines)}"
        )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--candidates", nargs="*", default=[], choices=CANDIDATES, help="default: only the report")
    parser.add_argument("--task", default="denoise", choices=TASKS)
    parser.add_argument("--seconds", type=float, default=60.0, help="processor time of each training")
    parser.add_argument("--precision", default="bf16", choices=("float32", "bf16"), help="of the steps (autocast)")
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/architectures"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    kept = arguments.output_dir / "rows.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    setting = {name: getattr(arguments, name) for name in (*SETTING, "optimizer", "learning_rate")}
    todo = [n for n in arguments.candidates if not any(r.items() >= {"name": n, **setting}.items() for r in rows)]
    images = photos() if todo else []
    for name in todo:
        rows.append({"name": name, **setting, **measure(name, rows, images, arguments)})
        print(json.dumps(rows[-1]), flush=True)
        write_text(kept, "".join(json.dumps(row) + "\n" for row in rows))
    if arguments.report:
        write_text(arguments.report, render(rows))


if __name__ == "__main__":
    main()
