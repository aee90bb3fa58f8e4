"""Listing and fingerprinting of very many files: seconds and memory against their number.

    python benchmarks/listing.py --counts 20000 200000 1000000 --report benchmarks/results/listing.md

Files are empty, named as photos, a thousand to a folder. Memory is what the process holds more with the list, and held
more at most on the way to it and to the fingerprint; seconds are of the processor and of the clock, the first time that
the folders are walked. A million files take about two minutes to write and to remove, which do not count.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from inference import forget_peak, peak  # beside this file

from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.sources import PhotoFolder


def write_files(folder: Path, count: int) -> None:
    for number in range(count):
        parent = folder / f"{number // 1000:06d}"
        if number % 1000 == 0:
            parent.mkdir(parents=True)
        open(parent / f"{number:08d}.jpg", "wb").close()


def held() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(folder: str) -> list[str]:
    """Listing and fingerprint: seconds of the processor and of the clock, MiB held more after both and at most."""
    forget_peak()
    before = held()
    sources: list[PhotoFolder] = []
    spent = [common.timed(lambda: sources.append(PhotoFolder(folder)))]
    spent.append(common.timed(sources[0].fingerprint))
    seconds = [f"{processor:.2f} ({wall:.2f})" for wall, processor in spent]
    return [*seconds, f"{held() - before:.1f}", f"{peak() - before:.1f}"]


def row(count: int) -> dict[str, str]:
    """A line of the table, from a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="daa-listing-"))
    try:
        write_files(folder, count)
        command = [sys.executable, __file__, "--child", str(folder)]
        values = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\t")
    finally:
        shutil.rmtree(folder)
    names = ("listing, s", "fingerprint, s", "MiB", "MiB at most")
    return {"files": str(count), **dict(zip(names, map(str.strip, values), strict=True))}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print("\t".join(measure(arguments.child)))
        return
    rows = [row(count) for count in arguments.counts]
    common.publish(
        arguments.report,
        "# Listing of very many files",
        f"`{common.command(__file__)}`",
        common.machine(),
        "Seconds of the processor (of the clock, beside other programs); memory that the list takes, and that the "
        "process takes more at most.",
        markdown_table(rows, list(rows[0])),
    )


if __name__ == "__main__":
    main()
