"""Listing and fingerprinting of very many files: seconds and memory against their number.

    python benchmarks/listing.py --counts 20000 200000 --report benchmarks/results/listing.md

Files are empty, named as photos, a thousand to a folder. Memory is what the process holds more with the list; seconds
are of the processor and of the clock, the first time that the folders are walked.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common

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
    """Listing and fingerprint: seconds of the processor and of the clock, and MiB held more after both."""
    before = held()
    sources: list[PhotoFolder] = []
    spent = [common.timed(lambda: sources.append(PhotoFolder(folder)))]
    spent.append(common.timed(sources[0].fingerprint))
    return [*(f"{processor:.2f} ({wall:.2f})" for wall, processor in spent), f"{held() - before:.1f}"]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print("\t".join(measure(arguments.child)))
        return
    rows = []
    for count in arguments.counts:
        folder = Path(tempfile.mkdtemp(prefix="daa-listing-"))
        try:
            write_files(folder, count)
            command = [sys.executable, __file__, "--child", str(folder)]
            listing, fingerprint, memory = subprocess.run(command, check=True, stdout=-1, text=True).stdout.split("\t")
        finally:
            shutil.rmtree(folder)
        rows.append({"files": count, "listing, s": listing, "fingerprint, s": fingerprint, "MiB": memory.strip()})
    common.publish(
        arguments.report,
        "# Listing of very many files",
        f"`{common.command(__file__)}`",
        "Seconds of the processor (of the clock, beside other programs); memory that the list takes.",
        markdown_table(rows, list(rows[0])),
    )


if __name__ == "__main__":
    main()
