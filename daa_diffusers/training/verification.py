"""Verification that an interrupted run ends bit-identical to an uninterrupted one on this machine."""

import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from .config import TrainingConfig
from .log import TIMING
from .loop import Trainer
from .run_state import STATE_FILES, list_checkpoints

logger = logging.getLogger(__name__)


def verify_resume(config: TrainingConfig) -> list[str]:
    """Trains for `config.verify_resume` steps twice in a temporary folder, once with an interruption half-way.

    Parameters, moving average, optimizer, counters, and the log without timing are compared bit by bit.

    Returns:
        The differences, one sentence each; empty if resuming is exact, as on a CPU. On CUDA some kernels add in varying
        order, so that even two uninterrupted runs differ.
    """
    steps = config.verify_resume
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as root:
        short = replace(config, steps=steps, minutes=None, checkpoint_every=0, report_to="none", verify_resume=0)
        whole, cut = (replace(short, output_dir=str(Path(root) / name)) for name in ("whole", "cut"))
        Trainer(whole, progress_bar=False).train()
        Trainer(cut, progress_bar=False).train(stop_after=steps // 2)
        Trainer(cut, progress_bar=False).train()
        return differences(Path(whole.output_dir), Path(cut.output_dir))


def differences(first: Path, second: Path) -> list[str]:
    """Describes how the newest checkpoints and the logs of two output folders differ, one sentence each."""
    sentences = []
    checkpoints = [list_checkpoints(folder / "checkpoints")[-1] for folder in (first, second)]
    for name in STATE_FILES:
        ours, theirs = (load_file(checkpoint / name) for checkpoint in checkpoints)
        if ours.keys() != theirs.keys():
            sentences.append(f"{name}: the names of the tensors differ")
            continue
        unequal = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        if unequal:
            worst = max((ours[key].double() - theirs[key].double()).abs().max().item() for key in unequal)
            sentences.append(f"{name}: {len(unequal)} of {len(ours)} tensors differ, by {worst:.1e} at most")
    if len({(checkpoint / "state.json").read_text() for checkpoint in checkpoints}) > 1:
        sentences.append("state.json: the counters differ")
    if read_log(first) != read_log(second):
        sentences.append("log.jsonl: the lines differ")
    return sentences


def read_log(folder: Path) -> list[dict[str, float]]:
    """Returns the lines of a run's log without speed and memory."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != TIMING} for line in lines]
