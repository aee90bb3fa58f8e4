"""Plots the logs of training runs: losses, weight and gradients, validation, health.

python examples/plot_run.py outputs/daa-denoise outputs/daa-denoise-control --output curves.png
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Panel title -> names of its values; a name that ends in "/" matches all names with that prefix.
PANELS = {
    "losses": ("loss/pair", "loss/noise", "loss/noise_positive", "loss/noise_negative", "loss/adaptation"),
    "weight and gradients": ("loss/weight", "gradient/"),
    "validation": ("validation/psnr", "validation/psnr_identity"),
    "health": ("health/",),
}


def read_run(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Reads the curves of a run, name -> (steps, values), from `folder/log.jsonl`."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        step = entry.pop("step")
        for name, value in entry.items():
            if isinstance(value, int | float):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves


def draw(runs: Sequence[Path], output: Path) -> None:
    """Draws the `PANELS` that have values; each run has its own line style."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves = {run.name: read_run(run) for run in runs}

    def belongs(name: str, wanted: tuple[str, ...]) -> bool:
        return any(name == w or (w.endswith("/") and name.startswith(w)) for w in wanted)

    panels = {
        title: sorted({name for run in curves.values() for name in run if belongs(name, wanted)})
        for title, wanted in PANELS.items()
    }
    panels = {title: names for title, names in panels.items() if names}
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False, layout="constrained")
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for color, name in enumerate(names):
            for style, (run, found) in zip(("-", "--", ":", "-.") * len(curves), curves.items(), strict=False):
                if name in found:
                    label = name if len(curves) == 1 else f"{name}, {run}"
                    marker = "o" if len(found[name][0]) < 30 else None
                    axis.plot(*found[name], style, color=f"C{color % 10}", marker=marker, markersize=3, label=label)
        axis.set(title=title, xlabel="step")
        if all(v > 0 for n in names for c in curves.values() for v in c.get(n, ((), ()))[1]) and title != "validation":
            axis.set_yscale("log")
        axis.legend(fontsize="x-small")
    temporary = output.with_name(f".{output.name}.tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of training runs")
    parser.add_argument("--output", type=Path, default=Path("curves.png"))
    arguments = parser.parse_args()
    missing = [str(run) for run in arguments.runs if not (run / "log.jsonl").is_file()]
    if missing:
        print(f"error: `runs` must be output folders of training runs; no log.jsonl in {missing}", file=sys.stderr)
        return 2
    draw(arguments.runs, arguments.output)
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
