"""Subprocess of `daa adapt`: start, progress (read from its files), and cancellation."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigurationError
from ..files import replacing

PACKAGE_PARENT = Path(__file__).resolve().parents[2]  # added to the Python path of the process
# Progress bar in the output of the process: step, number of steps, remaining time ("?" at first).
BAR = re.compile(r"training:[^\r\n]*?(\d+)/(\d+) \[[^\r\n<]*<([\d:?]+)")
STAGE = re.compile(r"^preparing: (.+)$", re.MULTILINE)  # messages before the first training step
LOSSES = ("pair", "untouched", "noise", "adaptation")  # names of the displayed losses in the log
TAIL = 4000  # bytes read from the end of the output
State = Literal["idle", "preparing", "training", "finishing", "stopping", "done", "stopped", "failed"]
Losses = tuple[tuple[int, str, float], ...]  # (step, name, value)


@dataclass(frozen=True)
class Progress:
    """Progress of an adaptation.

    Args:
        state: "preparing" until the first step, "finishing" after the last; "stopped" by `Adaptation.cancel`;
            "failed" also if no trained weights were better.
        step, steps: number of completed and of planned steps.
        left: remaining time as tqdm prints it, such as "05:10" or "1:05:10"; "" if unknown.
        losses: the logged losses.
        message: sentence to display.
        checkpoint: pipeline folder of a finished or stopped run; None if no weights were saved.
    """

    state: State = "idle"
    step: int = 0
    steps: int = 0
    left: str = ""
    losses: Losses = ()
    message: str = "No adaptation is running."
    checkpoint: str | None = None

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.state in ("preparing", "training", "finishing", "stopping")


class Adaptation:
    """Manager of a `daa adapt` process, one at a time.

    Args:
        runs: parent of the runs' folders, which are kept.
        folder: folder for copies of photos and for the output of the process. Runs can be resumed while it exists.
    """

    def __init__(self, runs: Path, folder: Path) -> None:
        self.runs, self.folder = runs, folder
        self._lock = threading.RLock()
        # the last run: its process, command, output folder, whether `cancel` was called, and when the process started
        self._process: subprocess.Popen | None = None
        self._command: list[str] = []
        self._run = runs
        self._canceled = False
        self._launched = 0.0
        self._kept: str | None = None  # the result of `keep_newest` for this run: its path or ""; None: not called yet

    def start(self, photos: Sequence[str], clean: Sequence[str], *, checkpoint: str, minutes: float) -> None:
        """Starts a run.

        Args:
            photos: photo files to adapt to.
            clean: clean photo files; empty: photos of scikit-image are used.
            checkpoint: initial checkpoint; its task determines the degradation, as in `daa adapt`.
            minutes: time budget in minutes.

        Raises:
            ConfigurationError: a run is in progress, or there are no photos.
        """
        if not photos:
            raise ConfigurationError("choose photos to adapt to first")
        with self._lock:
            if self.progress().running:
                raise ConfigurationError("an adaptation is already running: wait for it, or cancel it")
            name = _new_name(self.runs, self.folder / "photos")
            copies = self.folder / "photos" / name
            real_folder = _copied(photos, copies / "your photos")
            clean_folder = _copied(clean, copies / "clean photos") if clean else self._clean_photos()
            self._run = self.runs / name
            self._command = [sys.executable, "-m", "daa_diffusers.cli", "adapt", str(real_folder)]
            self._command += ["--clean", str(clean_folder), "--output", str(self._run)]
            self._command += ["--checkpoint", checkpoint, "--minutes", f"{minutes:g}"]
            self._launch()

    def resume(self) -> None:
        """Resumes a stopped run; raises ConfigurationError if there is none."""
        with self._lock:
            if self.progress().state != "stopped":
                raise ConfigurationError("there is no stopped adaptation to resume")
            self._launch()

    def cancel(self) -> None:
        """Requests the process to save its state and exit; `progress` reports when it has exited."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._canceled = True
                self._process.terminate()

    def close(self, seconds: float = 60.0) -> None:
        """Stops the process, and waits until it has saved; kills it after `seconds`."""
        self.cancel()
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def progress(self) -> Progress:
        """Returns the current progress, from the state of the process and its files."""
        with self._lock:
            if self._process is None:
                return Progress()
            code = self._process.poll()  # exit status; None: running
            output = "\n" + _tail(self._output)
            bars = BAR.findall(output)
            step, steps, left = (int(bars[-1][0]), int(bars[-1][1]), bars[-1][2]) if bars else (0, 0, "")
            losses = _losses(self._run / "log.jsonl")
            if code is None:
                state: State = "stopping"
                if not self._canceled:
                    state = "training" if step < steps else "finishing" if bars else "preparing"
                left = "" if "?" in left else left
                message = self._preparing(output) if state == "preparing" else _MESSAGES[state]
                return Progress(state, step, steps, left, losses, message)
            if code == 0:
                checkpoint = str(self._run / "pipeline")
                return Progress("done", step, steps, "", losses, _MESSAGES["done"], checkpoint)
            if self._canceled:
                return self._stopped(step, steps, losses)
            from ..training.result import START_KEPT

            message = NOTHING_GAINED if code == START_KEPT else f"It failed: {self._reason(output)}"
            return Progress("failed", step, steps, "", losses, message)

    # --- the process ---

    @property
    def _output(self) -> Path:
        """File with the output of the process."""
        return self.folder / "photos" / self._run.name / "output.txt"

    def _launch(self) -> None:
        """Starts the process."""
        paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "TQDM_MININTERVAL": "0.5"}
        self._canceled, self._kept, self._launched = False, None, time.monotonic()
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )

    def _preparing(self, output: str) -> str:
        """Returns the message before the first step."""
        stages = STAGE.findall(output)
        stage = stages[-1].strip() if stages else "loading"
        seconds = time.monotonic() - self._launched
        return f"Before the first step: {stage} ({seconds:.0f} s so far). Large photos take minutes."

    def _stopped(self, step: int, steps: int, losses: Losses) -> Progress:
        """Returns the progress of a canceled run, after saving its weights as a pipeline."""
        if self._kept is None:
            kept = keep_newest(self._run)
            self._kept = "" if kept is None else str(kept)
        message = _MESSAGES["stopped"] if self._kept else "Stopped before the first step."
        return Progress("stopped", step, steps, "", losses, message, self._kept or None)

    def _reason(self, output: str) -> str:
        """Returns the error in the output of the process, which may have several lines, or its last line."""
        _, marker, error = output.rpartition("\nerror: ")
        reason = (error if marker else output.strip().rpartition("\n")[2]).strip() or "the process ended"
        for folder in (*sorted(self.folder.glob("photos/*/*")), self._run):
            reason = reason.replace(str(folder), folder.name)  # hide local folders
        return reason

    def _clean_photos(self) -> Path:
        """Writes the photos of scikit-image, and returns their folder."""
        from ..sources.demo_photos import clean_photos

        return clean_photos(self.folder / "clean_photos")


NOTHING_GAINED = (
    "No trained weights restore better than the initial checkpoint, so keep using that one. More time, or clean photos "
    "similar to yours, may help."
)
_MESSAGES: dict[State, str] = {
    "training": "Training.",
    "finishing": "Saving, and comparing before and after.",
    "stopping": "Saving the current weights.",
    "done": "Done. The adapted checkpoint can be selected above.",
    "stopped": "Stopped. The current weights can be selected above. Continue resumes the run.",
}


def keep_newest(run: Path) -> Path | None:
    """Saves the weights of a stopped run as a pipeline: their moving average, blended with the initial weights.

    Args:
        run: output folder of the run.

    Returns:
        Folder of the pipeline, "stopped-at-N" in `run`; None if no step was saved.
    """
    import yaml
    from diffusers.utils.logging import disable_progress_bar

    from ..hub.record_files import RUN_RECORD
    from ..hub.records import keep_run_record
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
    from ..training.run_state import list_checkpoints, load_average

    disable_progress_bar()  # for loading
    saved = list_checkpoints(run / "checkpoints")
    if not saved:
        return None
    options = yaml.safe_load((run / "options.yaml").read_text(encoding="utf-8"))
    pipeline = DAARestorationPipeline.from_pretrained(options["init_from"])
    load_average(saved[-1], pipeline.restorer, options["blend"])
    step = json.loads((saved[-1] / "state.json").read_text())["step"]
    keep_run_record(pipeline.restorer, {**json.loads((run / RUN_RECORD).read_text(encoding="utf-8")), "steps": step})
    folder = run / f"stopped-at-{step}"
    pipeline.save_pretrained(folder)
    return folder


def _new_name(*folders: Path) -> str:
    """Returns a new name from the current time, with a number if it exists in one of the folders."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    names = itertools.chain([now], (f"{now}_{number}" for number in itertools.count(2)))
    return next(name for name in names if not any((folder / name).exists() for folder in folders))


def _copied(files: Sequence[str], folder: Path) -> Path:
    """Copies files into one folder, under unique names."""
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        with replacing(folder / f"{number:04d}_{os.path.basename(file)}") as temporary:
            shutil.copyfile(file, temporary)
    return folder


def _tail(path: Path) -> str:
    """Returns the last `TAIL` bytes of a file as text; "" if it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - TAIL))
        return file.read().decode("utf-8", "replace")
    return ""


def _losses(path: Path) -> Losses:
    """Reads the displayed losses from a log; () if it does not exist."""
    losses: list[tuple[int, str, float]] = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:  # incomplete: being written
                break
            values = ((name, entry.get(f"loss/{name}")) for name in LOSSES)
            losses += [(entry["step"], name, value) for name, value in values if value is not None]
    return tuple(losses)
