"""Log of a run: means over the steps since the last line, written to a JSONL file and accelerate's trackers."""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..files import write_text, written

logger = logging.getLogger(__name__)

# Key of the entries that also depend on the machine, such as durations.
TIMING = "time"


class Window:
    """Scalars of the steps since the last log line, averaged over processes and steps.

    Args:
        values: the result of `state` in an earlier run, to continue its window.
    """

    def __init__(self, values: dict[str, list[float]] | None = None):
        self._settled = {name: list(v) for name, v in (values or {}).items()}
        self._pending: dict[str, list[torch.Tensor]] = {}

    def add(self, scalars: dict[str, torch.Tensor]) -> None:
        """Adds the scalars of one step, without a transfer or synchronization."""
        for name, value in scalars.items():
            self._pending.setdefault(name, []).append(value.detach())

    def state(self, accelerator: Accelerator) -> dict[str, list[float]]:
        """Returns the scalars of every step so far, averaged over processes; all processes must call it together."""
        for name in sorted(self._pending):
            values = torch.stack([v.double().reshape(()).cpu() for v in self._pending[name]])
            values = accelerator.reduce(values.to(accelerator.device, torch.float32), "mean")
            self._settled.setdefault(name, []).extend(values.tolist())
        self._pending.clear()
        return self._settled

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means by name, and starts a new window."""
        means = {name: sum(values) / len(values) for name, values in sorted(self.state(accelerator).items())}
        self._settled = {}
        return means


class Stopwatch:
    """Throughput, waiting time and memory of the steps since the last log line."""

    def __init__(self, device: torch.device):
        self.device = device
        self._restart()

    def _restart(self) -> None:
        self._started, self._waited, self._images = time.perf_counter(), 0.0, 0

    def next(self, batches) -> Any:
        """Returns `next(batches)` and counts its duration as waiting for data."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def count(self, images: int) -> None:
        """Adds to the number of synthetic images."""
        self._images += images

    def lap(self) -> dict[str, float]:
        """Returns images per second, the fraction of time spent waiting for data, and peak memory in GB; restarts."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        values = {"images_per_second": self._images / seconds, "data_wait": self._waited / seconds}
        memory = peak_memory(self.device)
        if memory is not None:
            values["memory_gb"] = memory / 1e9
        self._restart()
        return values


def peak_memory(device: torch.device) -> int | None:
    """Returns the peak memory in bytes: of tensors on a CUDA device, else of the process (resident size).

    None on a system that does not report the peak (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def duration_text(seconds: float) -> str:
    """Formats a duration as "h:mm:ss"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class RunLog:
    """The JSONL file of a run and its trackers. Only the main process writes.

    Args:
        accelerator: accelerator of the run, whose trackers are used.
        path: path of the file. Each line is a JSON object: "step", named scalars, and "time" (speed and memory).
    """

    def __init__(self, accelerator: Accelerator, path: str | os.PathLike):
        self.accelerator = accelerator
        self.path = Path(path)

    def truncate(self, step: int) -> None:
        """Removes the lines after `step`, since a resumed run repeats those steps."""
        if not (self.accelerator.is_main_process and self.path.exists()):
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # an incomplete line of an interrupted write
                break
            if entry["step"] > step:
                break
            kept.append(line + "\n")
        write_text(self.path, "".join(kept))

    def write(self, step: int, values: dict[str, float], timing: dict[str, float] | None = None) -> None:
        """Writes one line, and sends the same values to the trackers (timing as `time/...`)."""
        timing = timing or {}
        self.accelerator.log({**values, **{f"{TIMING}/{k}": v for k, v in timing.items()}}, step=step)
        if self.accelerator.is_main_process:
            line = {"step": step, **values, **({TIMING: timing} if timing else {})}
            with written(self.path), open(self.path, "a") as log:
                log.write(json.dumps(line) + "\n")

    def images(self, step: int, name: str, grid: torch.Tensor) -> None:
        """Sends an image (3, H, W) in [0, 1] to the trackers that accept images."""
        image = (grid.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({name: image[None]}, step=step, dataformats="NHWC")
            elif tracker.name == "trackio":  # accelerate only passes numbers on to this tracker
                import trackio

                tracker.log({name: trackio.Image(image)}, step=step)
            elif hasattr(tracker, "log_images"):
                tracker.log_images({name: [image]}, step=step)
