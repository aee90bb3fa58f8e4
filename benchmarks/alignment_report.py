"""The report of `alignment.py`: Markdown tables, a CSV and plots of what was measured."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import common
import torch

from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import replacing, write_text

PARTS = ("smoothing", "back to noisy")
REGIONAL = [f"{part}{region}" for part in PARTS for region in ("", " flat", " textured")]
Row = dict[str, str | int | float]


def averages(rows: list[Row]) -> list[Row]:
    """Mean over the batches, with its standard error (nan for a single batch)."""
    names = ("form", "steps", "set", "term", "t", "quantity")
    grouped: dict[tuple, list[float]] = {}
    for row in rows:
        if not math.isnan(float(row["value"])):  # no pixel of the kind in that batch
            grouped.setdefault(tuple(row[name] for name in names), []).append(float(row["value"]))
    found = []
    for key, values in grouped.items():
        each, count = torch.tensor(values, dtype=torch.float64), len(values)
        error = float(each.std()) / count**0.5 if count > 1 else math.nan
        measured = {"value": float(each.mean()), "error": error, "batches": count}
        found.append({**dict(zip(names, key, strict=True)), **measured})
    return found


def pivot(found: list[Row], quantity: str, columns: str = "set", **only: str | int) -> str:
    """A Markdown table of one quantity: a row for each predictor and term, `mean +- standard error`."""
    lines: dict[tuple, Row] = {}
    for row in found:
        if row["quantity"] == quantity and all(row[name] == value for name, value in only.items()):
            names = [name for name in ("form", "steps", "set", "term", "t") if name not in (columns, *only)]
            line = lines.setdefault(tuple(row[name] for name in names), {name: row[name] for name in names})
            spread = "(one)" if math.isnan(float(row["error"])) else f"± {row['error']:.3f}"
            line[str(row[columns])] = f"{row['value']:+.3f} {spread}"
    every = list(dict.fromkeys(name for line in lines.values() for name in line))
    return markdown_table([{name: str(line.get(name, "")) for name in every} for line in lines.values()], every)


def report(arguments: argparse.Namespace, rows: list[Row], times: Sequence[int]) -> None:
    """Publishes the Markdown report; the CSV and the plots are written beside it and into `--plots`."""
    found = averages(rows)
    target, columns = Path(arguments.report), list(found[0])
    lines = [
        ",".join(f"{row[c]:.5g}" if isinstance(row[c], float) else f'"{row[c]}"' for c in columns) for row in found
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target.with_suffix(".csv"), "\n".join([",".join(columns), *lines, ""]))
    counts = ", ".join(f"{form} {n}" for form, n in sorted({(str(row["form"]), row["batches"]) for row in found}))
    sections = ["# Alignment of adaptation gradients with the supervised one", ""]
    sections += [f"`{common.command('alignment.py')}`", ""]
    sections += [
        f"Pairs of `train`, from `{arguments.restorer}`. Mean ± standard error, or (one), over batches of",
        f"{arguments.batch} patches of {arguments.patch} px ({counts}).",
        f"Without t: the mean of the gradients at t = {', '.join(map(str, times))}.",
        "What each column means is in the docstrings of the program; docs/adaptation.md says what follows.",
        "",
    ]
    tables = [
        ("At the parameters: cosine with the supervised gradient", "parameters: cos", {}),
        (
            "Rate: fall of the supervised loss, over that by the supervised gradient",
            "rate",
            {"t": 0},
        ),
        ("At the photo: cosine of the descent direction with clean - q", "photo: cos clean", {"t": 0}),
        *((f"At the photo: cosine with {name}", f"photo: cos {name}", {"t": 0}) for name in REGIONAL),
        ("Share of the energy along neither", "photo: rest", {"t": 0}),
        ("Change of the restorer's squared error, per cent, by q + (blur(q) - q) / 4", "smoother", {}),
    ]
    for title, quantity, only in tables:
        sections += [f"## {title}", "", pivot(found, quantity, **only), ""]
    timed = [row for row in found if row["t"]]
    sections += ["## Rate, by noise level t", "", pivot(timed, "rate", "t"), ""]
    sections += ["## At the photo, by noise level t", "", pivot(timed, "photo: cos clean", "t"), ""]
    errors = []
    for row in found:
        kind, _, condition = str(row["quantity"]).partition(": ")
        if kind == "error":
            errors.append({**row, "condition": condition, "quantity": "error"})
    sections += ["## Noise-prediction error against that with the clean photo as condition, per cent", ""]
    sections += [pivot(errors, "error", "condition", t=0), ""]
    common.publish(target, "\n".join(sections))
    plot(found, Path(arguments.plots))


def plot(found: list[Row], folder: Path) -> None:
    """A picture by noise level and one of the parts, of the first predictor measured; one of the conditions, of all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    forms = list(dict.fromkeys((row["form"], row["steps"]) for row in found if row["quantity"] == "error: clean"))
    sets = list(dict.fromkeys(str(row["set"]) for row in found))

    def panels(name: str, label: str, draw: Callable, forms: list) -> None:
        if not forms:
            return
        size = (4 * len(sets), 3.2 * len(forms))
        figure, axes = plt.subplots(len(forms), len(sets), figsize=size, sharey="row", squeeze=False)
        for (form, steps), line in zip(forms, axes, strict=True):
            for axis, name_of_set in zip(line, sets, strict=True):
                draw(axis, [r for r in found if (r["form"], r["steps"], r["set"]) == (form, steps, name_of_set)])
                axis.set_title(f"{name_of_set} ({form}, {steps} steps)", fontsize=9)
                axis.axhline(0, color="black", linewidth=0.6)
            line[0].set_ylabel(label, fontsize=8)
        axes[0][-1].legend(fontsize=6)
        figure.tight_layout()
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=80)
        plt.close(figure)

    def curve(axis, rows: list[Row], name: str, positions: list, **style) -> None:
        values, spreads = ([float(row[key]) for row in rows] for key in ("value", "error"))
        spreads = [0.0 if math.isnan(spread) else spread for spread in spreads]
        axis.errorbar(positions, values, spreads, label=name, capsize=2, linewidth=1.2, **style)

    def by_time(axis, rows: list[Row]) -> None:
        rates = [row for row in rows if row["quantity"] == "rate" and row["t"]]
        for term in dict.fromkeys(row["term"] for row in rates):
            of_term = [row for row in rates if row["term"] == term]
            curve(axis, of_term, str(term), [row["t"] for row in of_term], marker="o", markersize=3)
        axis.set_xlabel("t")

    def by_part(axis, rows: list[Row]) -> None:
        terms = [row["term"] for row in rows if row["quantity"] == "photo: cos clean" and not row["t"]]
        for offset, part in enumerate([f"{a} {b}" for a in ("clean", *PARTS) for b in ("flat", "textured")]):
            of_part = [row for row in rows if row["quantity"] == f"photo: cos {part}"]
            style = {"marker": "os"[offset % 2], "linestyle": "none", "markersize": 4, "color": f"C{offset // 2}"}
            curve(axis, of_part, part, [n + offset / 8 for n in range(len(of_part))], **style)
        axis.set_xticks(range(len(terms)), terms, rotation=60, ha="right", fontsize=7)

    def by_condition(axis, rows: list[Row]) -> None:
        errors = [row for row in rows if str(row["quantity"]).startswith("error")]
        for color, term in enumerate(dict.fromkeys(row["term"] for row in errors)):
            for kind, line in (("noise", "-"), ("blur", "--")):
                shown = [row for row in errors if row["term"] == term and kind in str(row["quantity"])]
                places = [float(str(row["quantity"]).split()[-1]) for row in shown]
                style = {"linestyle": line, "color": f"C{color}", "marker": "o", "markersize": 3}
                curve(axis, shown, f"{term}: {kind}", places, **style)
        axis.set_xlabel("share of the real noise, or blur in pixels")

    panels("by_noise_level", "rate (1: supervised)", by_time, forms[:1])
    panels("parts", "cosine of the descent direction", by_part, forms[:1])
    panels("conditions", "error against clean condition, %", by_condition, forms)
