"""Start of `daa restore` of one small photo: seconds, memory, and the imports that take longest. Half a minute.

    python benchmarks/startup.py --repeats 5 --report benchmarks/results/startup.md

Processor seconds count all of the command, with one thread; wall-clock seconds also depend on other programs. Seconds
of an import are those of its own code (`python -X importtime`), without the modules that it imports.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import common
from folder import command, spread, write_photo  # beside this file

from daa_diffusers.evaluation.statistics import markdown_table

MEGAPIXELS = 0.004
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")
PROGRAM = "import sys; from daa_diffusers.cli.app import main; sys.exit(main())"


def own_seconds(photo: Path, out: Path) -> Counter[str]:
    """Seconds of the own code of each imported module."""
    given = ["restore", str(photo), "-o", str(out), "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", PROGRAM, *given],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = (match for line in done.stderr.splitlines() if (match := LINE.match(line)))
    return Counter({match[2]: int(match[1]) / 1e6 for match in found})


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--checkpoint", default="daa-denoise")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shown", type=int, default=15, help="number of modules and packages to list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photo, out = Path(scratch, "photo.jpg"), Path(scratch, "out")
        write_photo(photo, MEGAPIXELS)
        runs = [command(arguments, 1, photo, out) for _ in range(arguments.repeats)]
        modules = own_seconds(photo, out)
    packages: Counter[str] = Counter()
    for name, seconds in modules.items():
        packages[name.partition(".")[0]] += seconds
    start = {
        "s, processor": spread([processor for (_, processor), _ in runs]),
        "s, wall clock": spread([wall for (wall, _), _ in runs]),
        "peak MiB": f"{max(peak for _, peak in runs):.0f}",
        "modules": len(modules),
    }
    tables = [
        [{what: f"`{name}`", "s": f"{seconds:.3f}"} for name, seconds in each.most_common(arguments.shown)]
        for what, each in (("package", packages), ("module", modules))
    ]
    common.publish(
        arguments.report,
        "# Start of `daa restore`",
        f"`{common.command(__file__)}`",
        f"One photo of {MEGAPIXELS:g} MP, `{arguments.checkpoint}`, one thread; median (range) of {arguments.repeats} "
        f"runs. {common.machine()}",
        markdown_table([start], list(start)),
        f"Imports by the time of their own code, {sum(modules.values()):.2f} s in all (wall clock, one run):",
        *(markdown_table(rows, list(rows[0])) for rows in tables),
    )


if __name__ == "__main__":
    main()
