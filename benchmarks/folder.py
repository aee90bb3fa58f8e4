"""`daa restore` of a folder of JPEGs on a CPU against the bare network, and of one photo: time and memory.

    python benchmarks/folder.py --threads 1 2 --report benchmarks/results/folder.md    # 5 minutes of a quiet machine

In each round the network restores one megapixel whole some times, the folder is restored by what the command calls
(photos are read ahead and written behind in threads), and the network comes again: a ratio is the folder's seconds by
those of as many megapixels of the network alone, around it. Wall-clock seconds show what overlaps, and other programs'
share of the machine; processor seconds count all work. The precision is that of `--dtype auto`. One photo is restored
by the command in a process of its own, with its imports (see `startup.py`).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import common
import torch
from inference import bare, photo_of  # beside this file
from PIL import Image

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.restoring.options import Options
from daa_diffusers.restoring.outputs import find_jobs
from daa_diffusers.restoring.work import restore_all

Seconds = tuple[float, float]  # of the clock, of the processor
CALLS = 4  # of the bare network before and after the folder


def folder_rows(arguments: argparse.Namespace, scratch: Path) -> list[dict]:
    """Ratios to the bare network by number of threads, with and without the guard."""
    pipeline = DAARestorationPipeline.from_pretrained(arguments.checkpoint)
    pipeline.restorer.eval()
    pipeline.enable_mixed_precision()
    pipeline.set_progress_bar_config(disable=True)
    album = scratch / "album"
    album.mkdir()
    for number in range(arguments.photos):
        write_photo(album / f"{number}.jpg", arguments.megapixels)
    once = bare(pipeline, side := arguments.side, side)
    share = CALLS * side**2 / 1e6 / (arguments.megapixels * arguments.photos)  # of the folder's pixels

    def network() -> None:
        for _ in range(CALLS):
            once()

    rows = []
    for threads, guard in product(arguments.threads, (False, True)):
        torch.set_num_threads(threads)
        network()
        ratios: list[Seconds] = []
        per_photo: list[Seconds] = []
        for _ in range(arguments.repeats):
            around = [common.timed(network)]
            options = Options(guard=guard, overwrite=True)
            jobs = find_jobs([str(album)], str(scratch / "out"), overwrite=True).jobs
            folder = common.timed(lambda jobs=jobs, options=options: list(restore_all(jobs, options, lambda: pipeline)))
            around.append(common.timed(network))
            alone = [statistics.mean(each[kind] for each in around) / share for kind in (0, 1)]
            ratios.append((folder[0] / alone[0], folder[1] / alone[1]))  # of the clock, of the processor
            per_photo.append((folder[0] / arguments.photos, folder[1] / arguments.photos))
        rows.append(
            {
                "threads": str(threads),
                "guard": "yes" if guard else "no",
                "folder / bare network, wall clock": spread([each[0] for each in ratios]),
                "folder / bare network, processor": spread([each[1] for each in ratios]),
                "s a photo, wall clock": spread([each[0] for each in per_photo]),
                "s a photo, processor": spread([each[1] for each in per_photo]),
                "precision": str(pipeline.mixed_precision or torch.float32).removeprefix("torch."),
            }
        )
        print(rows[-1], flush=True)
    return rows


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def write_photo(path: Path, megapixels: float) -> None:
    Image.fromarray(photo_of(megapixels)).save(path, quality=92)


# Linux alone tells the peak of a process that does not count its parent's.
COMMAND = """
import sys
from daa_diffusers.cli.app import main
if status := main():
    sys.exit(status)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def command(arguments: argparse.Namespace, threads: int, photo: Path, out: Path) -> tuple[Seconds, float]:
    """Seconds and peak MiB of `daa restore` of one photo."""
    given = ["restore", photo, "-o", out, "--overwrite", "--checkpoint", arguments.checkpoint]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, given)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return (wall, used), float(done.stdout.splitlines()[-1]) / 1024


def command_rows(arguments: argparse.Namespace, scratch: Path) -> list[dict]:
    rows = []
    photo = scratch / "alone.jpg"
    write_photo(photo, arguments.megapixels)
    for threads in arguments.threads:
        runs = [command(arguments, threads, photo, scratch / "alone") for _ in range(arguments.repeats)]
        rows.append(
            {
                "threads": str(threads),
                "one photo of": f"{arguments.megapixels:g} MP",
                "s, wall clock": spread([seconds[0] for seconds, _ in runs]),
                "s, processor": spread([seconds[1] for seconds, _ in runs]),
                "peak MiB": f"{max(peak for _, peak in runs):.0f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def parse() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--checkpoint", default="daa-denoise")
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--side", type=int, default=1000, help="pixels, of what the network restores alone")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the network")
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    scratch = Path(tempfile.mkdtemp(prefix="daa-folder-"))
    try:
        rows, alone = folder_rows(arguments, scratch), command_rows(arguments, scratch)
    finally:
        shutil.rmtree(scratch)
    common.publish(
        arguments.report,
        "# `daa restore` of a folder",
        f"`{common.command(__file__)}`",
        common.machine(),
        f"`{arguments.checkpoint}`, {arguments.photos} JPEGs of {arguments.megapixels:g} MP; {arguments.repeats} "
        "rounds, median (range).",
        markdown_table(rows, list(rows[0])),
        "The command alone, with its imports:",
        markdown_table(alone, list(alone[0])),
    )


if __name__ == "__main__":
    main()
