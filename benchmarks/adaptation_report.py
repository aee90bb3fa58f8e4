"""The tables, the CSV and the plots of `adaptation.py`."""

import argparse
import csv
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
from adaptation_plan import ABLATION, COMMON, DOMAINS, ROWS

from daa_diffusers.evaluation.statistics import gap_closed, markdown_table, paired_bootstrap
from daa_diffusers.files import replacing

STEPS_SHOWN = ("control", "fitted noise, pseudo-clean", "DANN", "mean teacher", "paper", "adapted", "oracle")
Scores = dict[str, Any]  # "photos": names, metric: numbers; of a row: means over its seeds
COLUMNS = [
    "row",
    "PSNR",
    "SSIM",
    "worst photo against identity",
    "below identity",
    "minus control (95 %)",
    "minus plain (95 %)",
    "seeds",
    "gap closed",
    "minutes",
]


def collect(tasks: Sequence, domain: str) -> dict[str, Scores]:
    """Rows of a domain: per-photo means over seeds, "means" of each seed, and the mean training "minutes"."""
    rows: dict[str, Scores] = {}
    for name in (*ROWS, *ABLATION):
        runs = [json.loads(t.scores.read_text()) for t in tasks if (t.domain, t.row) == (domain, name)]
        if not runs:
            continue
        metric = main_metric(domain)
        row: Scores = {"photos": runs[0]["photos"]}
        for key in (metric, "ssim"):
            row[key] = [statistics.fmean(values) for values in zip(*(run[key] for run in runs), strict=True)]
        row["steps"] = runs[0]["steps"]  # of the first seed
        row["means"] = [statistics.fmean(run[metric]) for run in runs]
        row["minutes"] = statistics.fmean(run["s"] for run in runs) / 60
        rows[name] = row
    return rows


def main_metric(domain: str) -> str:
    """The metric that decides: PSNR, or PSNR after the best shift."""
    return DOMAINS[domain].evaluation["metrics"][0]


def lines_of(domain: str, rows: dict[str, Scores]) -> list[dict[str, str]]:
    """The lines of a domain's table."""
    metric = main_metric(domain)
    mean = {name: statistics.fmean(row[metric]) for name, row in rows.items()}
    # what adaptation could reach: the supervised bound, or for a weak start the strongest plain one if that is lower
    bounds = [mean[name] for name in ("oracle", "strongest plain") if name in mean]
    lines = []
    for name, row in rows.items():
        line = {"row": name, "PSNR": f"{mean[name]:.2f}", "SSIM": f"{statistics.fmean(row['ssim']):.4f}"}
        against = [a - b for a, b in zip(row[metric], rows["identity"][metric], strict=True)]
        line["worst photo against identity"] = f"{min(against):+.2f}"
        line["below identity"] = f"{sum(a < 0 for a in against)} of {len(against)}"
        if "control" in rows and name not in ("identity", "plain", "control", "strongest plain"):
            difference = paired_bootstrap(row[metric], rows["control"][metric])
            line["minus control (95 %)"] = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        if name not in ("identity", "plain"):
            difference = paired_bootstrap(row[metric], rows["plain"][metric])
            line["minus plain (95 %)"] = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        if bounds and "control" in mean and name in (*ROWS, *ABLATION) and name not in ("oracle", "control"):
            closed = gap_closed(mean[name], mean["control"], min(bounds))
            line["gap closed"] = "" if math.isnan(closed) else f"{100 * closed:.0f} %"  # NaN: no gap
        if len(row.get("means", ())) > 1:
            line["seeds"] = f"{len(row['means'])}, sd {statistics.stdev(row['means']):.2f}"
        if "minutes" in row:
            line["minutes"] = f"{row['minutes']:.1f}"
        lines.append(line)
    return lines


def budget_of(arguments: argparse.Namespace) -> str:
    """What every row may take, in words."""
    options = {**COMMON, **DOMAINS[arguments.domains[0]].options}
    where = "on a CUDA card" if on_cuda(arguments) else "on one thread"
    if "mixed_precision" in options:
        where = f"in {options['mixed_precision']} {where}"
    steps = DOMAINS[arguments.domains[0]].options.get("steps", arguments.steps)
    patches = f"{options['batch_size']} patches of {options['patch']} px"
    return f"{steps} steps of {patches} from the domain's plain restorer, {where}"


def on_cuda(arguments: argparse.Namespace) -> bool:
    """Whether the domains are those of the official size."""
    return arguments.domains[0].endswith("_official")


def write_report(
    arguments: argparse.Namespace,
    tasks: Sequence,
    fixed_rows: Callable[[argparse.Namespace, str], dict[str, Scores]],
) -> str:
    """Writes Markdown, CSV and plots beside each other; returns the Markdown."""
    text = [
        "# Adaptation to real photos, method by method",
        f"`{arguments.command}`",
        f"One trainer, one restorer, one budget: {budget_of(arguments)}. Mean of per-image scores on "
        "`val`, 8 bit, RGB (rain: Y; blur: best shift within 5 px). A row with several seeds shows means over them; "
        "the interval is a paired bootstrap over photos and somewhat too narrow for so few (5 photos: it covers 85 %). "
        "`gap closed` is (row - control) / (bound - control); the bound is the oracle, or the "
        "strongest plain restorer where that is lower. `minutes` hold other programs' share of the machine.",
    ]
    records = []
    hours = 0.0
    for domain in arguments.domains:
        trained = collect(tasks, domain)
        rows = {**fixed_rows(arguments, domain), **trained}
        text += [f"## {domain}", markdown_table(lines_of(domain, rows), COLUMNS)]
        metric = main_metric(domain)
        hours += sum(row["minutes"] * len(row["means"]) for row in trained.values()) / 60
        for name, row in rows.items():
            records += [
                [domain, name, photo, f"{psnr:.4f}", f"{ssim:.5f}"]
                for photo, psnr, ssim in zip(row["photos"], row[metric], row["ssim"], strict=True)
            ]
        plots = arguments.report.with_suffix("")
        plot(domain, rows, plots / f"{domain}.png")
        text.append(f"![{domain}]({plots.name}/{domain}.png)")
        if any(name in trained for name in STEPS_SHOWN):
            plot_steps(domain, rows, plots / f"{domain}_steps.png")
            text.append(f"![PSNR against steps]({plots.name}/{domain}_steps.png)")
    text.append(f"Training of these rows took {hours:.1f} {'hours' if on_cuda(arguments) else 'core hours'}.")
    common.publish(arguments.report, *text)
    with replacing(arguments.report.with_suffix(".csv")) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["domain", "row", "photo", "psnr", "ssim"])
        writer.writerows(records)


def plot(domain: str, rows: dict[str, Scores], path: Path) -> None:
    """Every row's mean and its photos, as differences from plain."""
    from matplotlib.figure import Figure

    metric = main_metric(domain)
    shown = [name for name in rows if name not in ("identity", "plain")]
    figure = Figure(figsize=(8, 0.8 + 0.32 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for height, name in enumerate(reversed(shown)):
        difference = [a - b for a, b in zip(rows[name][metric], rows["plain"][metric], strict=True)]
        axes.plot(difference, [height] * len(difference), "|", color="0.6", markersize=9)
        axes.plot(statistics.fmean(difference), height, "o", color="C0" if "adapted" in name else "C7")
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(shown)), list(reversed(shown)))
    axes.set_xlabel("PSNR minus plain, dB (bars: photos, dot: mean)")
    axes.set_title(f"{domain}: plain {statistics.fmean(rows['plain'][metric]):.2f} dB")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def plot_steps(domain: str, rows: dict[str, Scores], path: Path) -> None:
    """PSNR against steps, of each run's checkpoints (moving average, blended as the final weights)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    plain = statistics.fmean(rows["plain"][main_metric(domain)])
    for name in STEPS_SHOWN:
        if name in rows:
            steps = {0: plain, **{int(step): value for step, value in rows[name]["steps"].items()}}
            axes.plot(steps.keys(), steps.values(), "o-", label=name, markersize=3, linewidth=1.2)
    axes.set(xlabel="steps", ylabel="PSNR, dB", title=domain)
    axes.legend(fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
