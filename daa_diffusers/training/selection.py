"""Selection of the final weights: the last ones, or those with the best validation score."""

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..files import replacing

SELECTIONS = ("last", "psnr", "label_free", "bursts")


class BestWeights:
    """The restorer's averaged weights with the best score so far, in files outside of the checkpoints.

    A resumed run uses the record in its checkpoint; a file is therefore kept as long as a checkpoint refers to it.

    Args:
        folder: folder of the files `step-XXXXXXXX.safetensors`.

    Attributes:
        record: JSON-plain: "step" and "score" of the best weights, and "since", the number of later scores; or empty.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.record: dict[str, Any] = {}

    def offer(self, step: int, score: float, parameters: Iterable[torch.Tensor], *, write: bool) -> None:
        """Compares a score with the best one, and saves the weights if it is higher.

        Args:
            step: number of steps done.
            score: score of the weights; NaN is never better.
            parameters: the weights.
            write: whether to write the file; other processes only update `record`.
        """
        if self.record and not score > self.record["score"]:
            self.record["since"] += 1
            return
        if math.isnan(score):
            return
        self.record = {"step": step, "score": score, "since": 0}
        if write:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(step)) as temporary:
                save_file({str(i): p.detach().cpu().contiguous() for i, p in enumerate(parameters)}, temporary)

    def copy_to(self, parameters: Iterable[torch.Tensor]) -> None:
        """Loads the best weights into `parameters`, which are in the order of `offer`."""
        weights = load_file(self._path(self.record["step"]))
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                parameter.copy_(weights[str(index)])

    def prune(self, steps: Iterable[int]) -> None:
        """Removes all files except those of the best step and of `steps`, to which checkpoints refer."""
        kept = {self._path(step).name for step in steps}
        if self.record:
            kept.add(self._path(self.record["step"]).name)
        for path in self.folder.glob("step-*.safetensors"):
            if re.fullmatch(r"step-\d{8}\.safetensors", path.name) and path.name not in kept:
                path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"
