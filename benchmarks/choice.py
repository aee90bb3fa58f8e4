"""Does `daa adapt` choose well? Regret of its choice against the best row of `adaptation.py`, and where renoising pays.

    python benchmarks/choice.py

Reads the rows that are kept with the project and trains none. Regret is the PSNR on `val` of the best row, without the
oracle, minus that of the method chosen; both are means over the seeds measured. A domain is shown once the rows of both
methods of the choice were measured: pairs fitted to the photos, and renoised self-distillation with fitted noise. The
figure shows their difference against the share of the photos' noise that the start leaves, and the correlation of
neighboring pixels: both are measured without labels. The second table shows what the last weights miss against the best
ones of a run, at the planned number of steps and at four times as many.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import adaptation
import common
from adaptation import ALL_ROWS
from adaptation_plan import COMMON
from adaptation_report import Scores, collect

from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import replacing
from daa_diffusers.training.choosing import MIN_LEFT

FITTED = "fitted noise, pseudo-clean"
RENOISED = ("chosen", "renoised slowly, fitted noise")  # the first of these rows that was measured
KINDS = ("phone", "grain", "enlarged", "coded", "sharpened", "scanned", "blotched")
STRONG = ("renoir", "polyu", *(f"{kind}_strong" for kind in KINDS))
SHOWN = ("renoir_white", "polyu_white", *KINDS, *STRONG)
PLANNED = COMMON["steps"]
HELD_OUT = ("sharpened", "scanned", "blotched")  # domains made after the rule
COLUMNS = [
    *("domain", "left / noise", "correlation", "start", "control", "fitted", "renoised", "oracle", "chosen", "regret"),
    *("best row", "of oracle minus control"),
]


@dataclass(frozen=True)
class Measured:
    """A domain, and the rows that were measured in it.

    Attributes:
        left: fraction of the noise's standard deviation that the start leaves.
        neighbors: correlation of the noise of neighboring pixels.
        renoised: name of the row of renoised self-distillation.
        chosen: name of the row of the method that `daa adapt` chooses.
        scores: rows with the planned number of steps.
        longer: rows with four times as many.
        psnr: PSNR (dB) by row, means over the seeds, with that of the start as "plain".
    """

    domain: str
    left: float
    neighbors: float
    renoised: str
    chosen: str
    scores: dict[str, Scores]
    longer: dict[str, Scores]
    psnr: dict[str, float]

    @property
    def gain(self) -> float:
        """PSNR of renoising minus that of fitted pairs, in dB."""
        return self.psnr[self.renoised] - self.psnr[FITTED]

    @property
    def best(self) -> str:
        """The row of most PSNR, without the oracle."""
        return max((row for row in self.scores if row != "oracle"), key=self.psnr.__getitem__)


def saved_rows(arguments: argparse.Namespace, name: str, *given: str) -> tuple[argparse.Namespace, dict[str, Scores]]:
    """Returns the options of `adaptation.py` for a domain, with those `given`, and its rows that are there."""
    rows = [row for row in ALL_ROWS if row != "chosen" or name not in STRONG]  # there it may be another method
    options = adaptation.parse(
        ["--domains", name, "--scores", str(arguments.scores), "--data", str(arguments.data), *given, "--rows", *rows]
    )
    return options, collect([task for task in adaptation.tasks_of(options) if task.scores.exists()], name)


def measured(arguments: argparse.Namespace) -> Iterator[Measured]:
    """Yields the domains whose rows are there."""
    for name in SHOWN:
        options, scores = saved_rows(arguments, name, "--seeds", "3")
        renoised = next((row for row in RENOISED if row in scores), "")
        if FITTED not in scores or not renoised:
            continue
        _, longer = saved_rows(arguments, name, "--steps", str(4 * PLANNED))
        psnr = {row: statistics.fmean(found["means"]) for row, found in scores.items()}
        psnr["plain"] = statistics.fmean(adaptation.fixed_rows(options, name)["plain"]["psnr"])
        choice = adaptation.measured_choice(options, name, adaptation.plan(options, name, FITTED, 0).options)
        chosen = renoised if adaptation.method_chosen(choice) == "renoised_fitted" else FITTED
        left = choice["left"] / choice["noise"]
        yield Measured(name, left, choice["neighbors"], renoised, chosen, scores, longer, psnr)


def line_of(domain: Measured) -> dict[str, str]:
    """Returns the line of a domain in the table."""
    psnr = domain.psnr
    line = {
        "domain": domain.domain + (" (made after the rule)" if domain.domain in HELD_OUT else ""),
        "left / noise": f"{domain.left:.2f}",
        "correlation": f"{domain.neighbors:.2f}",
        "chosen": "renoised" if domain.chosen == domain.renoised else "fitted",
        "regret": f"{psnr[domain.best] - psnr[domain.chosen]:.2f}",
        "best row": domain.best,
    }
    rows = {"start": "plain", "control": "control", "fitted": FITTED, "renoised": domain.renoised, "oracle": "oracle"}
    for title, row in rows.items():
        if row in psnr:
            by_seed = domain.scores[row]["means"] if row in domain.scores else ()
            line[title] = f"{psnr[row]:.2f}" + (f" ± {statistics.stdev(by_seed):.2f}" if len(by_seed) > 1 else "")
    if {"control", "oracle"} <= set(psnr) and psnr["oracle"] > psnr["control"]:
        closed = (psnr[domain.chosen] - psnr["control"]) / (psnr["oracle"] - psnr["control"])
        line["of oracle minus control"] = f"{100 * closed:.0f} %"
    return line


def drift_of(domain: Measured) -> dict[str, str]:
    """Returns the line of a domain in the table of drift: the chosen row of the first seed."""
    line = {"domain": domain.domain, "row": domain.chosen}
    for steps, scores in ((PLANNED, domain.scores), (4 * PLANNED, domain.longer)):
        if domain.chosen in scores:
            along = list(scores[domain.chosen]["steps"].values())  # PSNR of the checkpoints, the last steps' last
            line |= {f"{steps} steps": f"{along[-1]:.2f}", f"missed at {steps}": f"{max(along) - along[-1]:.2f}"}
    return line


def plot(domains: list[Measured], path: Path) -> None:
    """Gain of renoising over fitted pairs against the share of noise that the start leaves; color: correlation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    left, gain, neighbors = zip(*((domain.left, domain.gain, domain.neighbors) for domain in domains), strict=True)
    points = axes.scatter(left, gain, c=neighbors, cmap="viridis", zorder=3)
    for domain in domains:
        at = (domain.left, domain.gain)
        axes.annotate(domain.domain, at, xytext=(4, 3), textcoords="offset points", fontsize=6)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axvline(MIN_LEFT, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("share of the photos' noise that the start leaves (dashed: the rule's threshold)")
    axes.set_ylabel("renoised minus fitted pairs, dB")
    figure.colorbar(points, label="correlation of neighboring pixels")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main() -> None:
    parser = common.parser(__doc__, "choice.md", data=True)
    parser.add_argument("--scores", type=Path, default=common.RESULTS / "adaptation", help="folder of the kept rows")
    arguments = parser.parse_args()
    domains = list(measured(arguments))
    plot(domains, arguments.report.with_suffix(".png"))
    common.publish(
        arguments.report,
        "# The choice of `daa adapt` against the best row",
        f"`{common.command(__file__)}`: PSNR (dB) on `val`, mean ± standard deviation over two or three seeds, "
        "otherwise of one.",
        markdown_table([line_of(domain) for domain in domains], COLUMNS),
        f"![Where renoising pays]({arguments.report.with_suffix('.png').name})",
        "## Drift",
        "PSNR after the last step, and what it misses against the best of four checkpoints; the first seed.",
        markdown_table([drift_of(domain) for domain in domains]),
    )


if __name__ == "__main__":
    main()
