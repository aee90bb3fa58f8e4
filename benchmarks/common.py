"""Common parts of the benchmarks: their options, the runs that they train, their reports."""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from daa_diffusers.files import write_text
from daa_diffusers.pipelines.precision import is_fast_in_bfloat16
from daa_diffusers.training.result import START_KEPT

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STARTED = time.perf_counter()


def parser(document: str | None, report: str | None = None, *, data: bool = False) -> argparse.ArgumentParser:
    """A parser with the option `--report`, a file of `RESULTS` by default, and `--data` on request.

    Args:
        document: the docstring of the program, its help.
        report: name of the default report; None: by default, none is written.
        data: the program reads photos.
    """
    made = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        photos = os.environ.get("DAA_DATA", ROOT / ".." / "shared" / "data")
        made.add_argument("--data", type=Path, default=photos, help="folder of the photos")
    default = RESULTS / report if report else None
    made.add_argument("--report", type=Path, default=default, help="Markdown file to write")
    return made


def command(program: str, argv: list[str] | None = None) -> str:
    """The command of a report, from the file of its program and its arguments; None: those of this process."""
    return shlex.join(["python", f"benchmarks/{Path(program).name}", *(sys.argv[1:] if argv is None else argv)])


def train(folder: Path, options: Mapping[str, Any], **variables: str) -> float:
    """Trains into `folder` on one thread in a process of its own, with options and log beside it; the seconds.

    A run that keeps the weights of its start is one that has a result.

    Args:
        folder: the run's, `output_dir`.
        options: of the training.
        variables: of the process's environment.

    Raises:
        RuntimeError: it failed; the message names the log.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = write_text(Path(f"{folder}.yaml"), yaml.safe_dump({**options, "output_dir": str(folder)}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    started = time.perf_counter()
    with open(f"{folder}.log", "a") as log:
        run = [sys.executable, str(ROOT / "examples" / "train_daa.py"), "--config", str(config)]
        if subprocess.run(run, stdout=log, stderr=log, env=environment).returncode not in (0, START_KEPT):
            raise RuntimeError(f"training failed, see {folder}.log")
    return time.perf_counter() - started


def trained(folder: Path, options: Mapping[str, Any], **variables: str) -> Path:
    """The pipeline of the run in `folder`, trained, or finished, unless it is there; arguments as of `train`."""
    pipeline = folder / "pipeline"
    if not (pipeline / "model_index.json").exists():  # it is written last
        print(f"{folder}: trained in {train(folder, options, **variables):.0f} s", flush=True)
    return pipeline


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a call takes."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def machine(*packages: str) -> str:
    """The line of a report that names the machine, the versions of torch and of `packages`, and how long it took."""
    try:
        model = Path("/proc/cpuinfo").read_text().split("model name")[1].split("\n")[0].strip("\t: ")
    except (OSError, IndexError):  # no Linux
        model = platform.processor() or platform.machine()
    amx = ", AMX" if is_fast_in_bfloat16(torch.device("cpu")) else ""
    installed = [name for name in packages if find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *installed))
    load = f"load {os.getloadavg()[0]:.1f} in the end" if hasattr(os, "getloadavg") else ""
    minutes = (time.perf_counter() - STARTED) / 60
    return f"{model}{amx}, {os.cpu_count()} cores, {load}; {versions}; {minutes:.1f} minutes, {date.today()}."


def publish(report: Path | None, *paragraphs: str) -> None:
    """Prints the paragraphs of a report, and writes them to the file `report`, if any."""
    text = "\n\n".join(paragraph.strip("\n") for paragraph in paragraphs)
    print(text)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_text(report, text + "\n")
