"""How time grows: restoring with the photo's size, a training step with width, patch and batch, listing with files.

    python benchmarks/growth.py     # about 12 minutes; writes benchmarks/results/growth.md and its plots

Seconds are of the processor, on one thread, except those of listing, which are of the clock. Each size of a photo is a
process of its own, from mapped file to mapped file, in the precision of `--dtype` (see `inference.py`). A training step
is the joint step as the trainer takes it, on random images, with Adam (see `joint_step.py`); one of width, patch and
batch changes at a time. Listed files are empty, a thousand to a folder; memory is what the process holds more with the
list, and held more at most on the way to it and to the fingerprint. Rows that are finished are kept in `--output_dir`
and not measured again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import inference  # these two are beside this file
import joint_step
import torch

from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text
from daa_diffusers.models.restoration_unet import PRESET_WIDTHS
from daa_diffusers.sources import PhotoFolder

Row = dict[str, float]
BASE = {"preset": "tiny", "patch": 64, "batch": 4}
VARIED = {"preset": list(PRESET_WIDTHS), "patch": [32, 64, 96, 128, 192], "batch": [1, 2, 4, 8, 16]}
LABELS = {"preset": "width of the first level", "patch": "side of a patch (px)", "batch": "batch size (samples)"}
FLAT = 0.1  # share by which seconds a megapixel may differ from their median


def restoring(megapixels: float, arguments: argparse.Namespace) -> Row:
    """Seconds a megapixel of a photo of this size, and the peak of memory."""
    row = inference.run_child(arguments, megapixels, "uint8")
    return {"megapixels": megapixels, "s / MP": row["seconds per megapixel"], "peak, MiB": row["peak MiB"]}


def training(size: dict, arguments: argparse.Namespace) -> Row:
    """Seconds of a step: median, least and most."""
    torch.set_num_threads(arguments.threads)
    sizes = (size["preset"], size["batch"], size["patch"])
    step = joint_step.build_step(joint_step.OURS, *sizes, torch.device("cpu"))
    step()  # allocators
    seconds = [common.timed(step)[1] for _ in range(arguments.repeats)]
    return {"s": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}


def files(count: int, arguments: argparse.Namespace) -> Row:
    """Seconds of listing and fingerprinting `count` files, and memory, from a process of its own."""
    with tempfile.TemporaryDirectory(prefix="daa-listing-") as folder:
        for number in range(count):
            parent = Path(folder, f"{number // 1000:06d}")
            parent.mkdir(exist_ok=True)
            open(parent / f"{number:08d}.jpg", "wb").close()
        command = [sys.executable, __file__, "--list", folder]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"files": count, **json.loads(printed)}


def listed(folder: str) -> Row:
    """The same in this process, for the files in `folder`."""

    def held() -> float:  # MiB of this process
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    inference.forget_peak()
    before = held()
    sources: list[PhotoFolder] = []
    listing, _ = common.timed(lambda: sources.append(PhotoFolder(folder)))
    fingerprint, _ = common.timed(sources[0].fingerprint)
    memory = {"MiB": held() - before, "MiB at most": inference.peak() - before}
    return {"listing, s": listing, "fingerprint, s": fingerprint, **memory}


def steps() -> list[dict]:
    """The sizes of training steps, each once."""
    found = [{**BASE, name: value} for name, values in VARIED.items() for value in values]
    return [size for number, size in enumerate(found) if size not in found[:number]]


def measure(part: str, rows: dict[str, dict[str, Row]], file: Path, arguments: argparse.Namespace) -> None:
    """Adds the rows of a part that the file of rows lacks."""
    row, values = {
        "restoring": (restoring, arguments.megapixels),
        "files": (files, arguments.counts),
        "training": (training, steps()),
    }[part]
    found = rows.setdefault(part, {})
    for value in values:
        key = json.dumps(value)
        if key not in found:
            found[key] = row(value, arguments)
            write_text(file, json.dumps(rows, indent=1))
            print(part, key, found[key], flush=True)


def restoring_report(rows: dict[str, Row], plots: Path) -> list[str]:
    """Table and plot of seconds a megapixel."""
    found = sorted(rows.values(), key=lambda row: row["megapixels"])
    middle = statistics.median(row["s / MP"] for row in found)
    lines = [
        {
            "megapixels": f"{row['megapixels']:g}",
            "s / MP": f"{row['s / MP']:.3f}",
            "of the median": f"{row['s / MP'] / middle:.3f}",
            "peak, MiB": f"{row['peak, MiB']:.0f}",
        }
        for row in found
    ]
    figure, axes = figure_of(1)
    axes[0].axhspan((1 - FLAT) * middle, (1 + FLAT) * middle, alpha=0.2, label=f"median ± {FLAT:.0%}")
    axes[0].plot([row["megapixels"] for row in found], [row["s / MP"] for row in found], "o-", label="pipeline")
    axes[0].set(xscale="log", xlabel="photo (megapixels)", ylabel="time (s / megapixel)", ylim=(0, 1.5 * middle))
    axes[0].legend()
    figure.savefig(plots / "growth_restoring.png", dpi=120)
    most = max(abs(row["s / MP"] / middle - 1) for row in found)
    said = f"Largest deviation from the median: {most:.1%} (aim: at most {FLAT:.0%})."
    return ["## Restoring", markdown_table(lines, list(lines[0])), said, "![](growth_restoring.png)"]


def training_report(rows: dict[str, Row], plots: Path) -> list[str]:
    """Table and plot of a training step."""
    lines = []
    figure, axes = figure_of(len(VARIED))
    for axis, (name, values) in zip(axes, VARIED.items(), strict=True):
        sizes = [{**BASE, name: value} for value in values]
        found = [rows[json.dumps(size)] for size in sizes]
        for size, row in zip(sizes, found, strict=True):
            megapixels = size["batch"] * size["patch"] ** 2 / 1e6
            line = {"varied": name.replace("preset", "width"), "width": str(PRESET_WIDTHS[size["preset"]])}
            line |= {"patch, px": str(size["patch"]), "batch": str(size["batch"])}
            line["s / step"] = f"{row['s']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
            lines.append({**line, "s / MP of patches": f"{row['s'] / megapixels:.1f}"})
        at = [PRESET_WIDTHS[value] if name == "preset" else value for value in values]
        low, high = ([abs(row[end] - row["s"]) for row in found] for end in ("least", "most"))
        axis.errorbar(at, [row["s"] for row in found], yerr=[low, high], fmt="o-", capsize=3)
        axis.set(xscale="log", yscale="log", xlabel=LABELS[name], ylabel="time of a step (s)")
        axis.set_xticks(at, [str(each) for each in at])
    figure.savefig(plots / "growth_training.png", dpi=120)
    return ["## A training step", markdown_table(lines, list(lines[0])), "![](growth_training.png)"]


def files_report(rows: dict[str, Row], plots: Path) -> list[str]:
    """Table and plot of listing and fingerprinting."""
    found = sorted(rows.values(), key=lambda row: row["files"])
    lines = [{name: f"{value:.{0 if name == 'files' else 2}f}" for name, value in row.items()} for row in found]
    figure, axes = figure_of(2)
    for axis, unit, names in (
        (axes[0], "time (s)", ("listing, s", "fingerprint, s")),
        (axes[1], "memory (MiB)", ("MiB", "MiB at most")),
    ):
        for name in names:
            axis.plot([row["files"] for row in found], [row[name] for row in found], "o-", label=name)
        axis.set(xscale="log", xlabel="files", ylabel=unit)
        axis.legend()
    figure.savefig(plots / "growth_files.png", dpi=120)
    return ["## Listing and fingerprinting files", markdown_table(lines, list(lines[0])), "![](growth_files.png)"]


def figure_of(panels: int):
    """A figure with panels side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, panels, figsize=(4.5 * panels, 3.5), squeeze=False, layout="constrained")
    return figure, axes[0]


REPORTS = {"restoring": restoring_report, "files": files_report, "training": training_report}


def main() -> None:
    parser = common.parser(__doc__, "growth.md")
    parser.add_argument("--parts", nargs="+", choices=REPORTS, default=list(REPORTS))
    parser.add_argument("--checkpoint", default="daa-denoise", help="that restores, or a preset with random weights")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 2, 4, 12, 25, 50, 100])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="of training steps")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/growth"))
    parser.add_argument("--list", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        print(json.dumps(listed(arguments.list)))
        return
    file = arguments.output_dir / "rows.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    for folder in (arguments.output_dir, arguments.report.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        measure(part, rows, file, arguments)
        reports = [REPORTS[part](rows[part], arguments.report.parent) for part in REPORTS if part in rows]
        common.publish(
            arguments.report,
            "# Growth of time with size",
            f"`{common.command(__file__)}`",
            common.machine(),
            f"{arguments.threads} thread(s), seconds of the processor. Restoring: `{arguments.checkpoint}`, "
            f"{arguments.dtype}, `tile='auto'`. Training: the joint step, float32, median (range) of "
            f"{arguments.repeats} steps. Listing and fingerprinting: seconds of the clock.",
            *(paragraph for report in reports for paragraph in report),
        )


if __name__ == "__main__":
    main()
