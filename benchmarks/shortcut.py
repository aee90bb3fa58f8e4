"""Does training at low noise levels alone wreck the result, as in the paper's Table 4, and is it reported?

    python benchmarks/shortcut.py

Restorers from random weights, on white Gaussian noise and the unlabeled photos of a set of real noise, without channel
shuffling and residual swapping: noise levels t in [1, 100] (16.8 dB in the paper, against 32 with all of the method),
in [900, 999], in [1, 999], and no adaptation at all. The gradient of adaptation is as large as that of the pairs, or
ten times as large. Rows that are finished are kept in `--scores`, runs that were interrupted go on.
"""

import argparse
import json
import statistics
from pathlib import Path

import common
from adaptation import measure, slug
from adaptation_plan import GAUSSIAN

from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text

COMMON = {
    "preset": "tiny",
    "degradation": GAUSSIAN,
    "patch": 48,
    "batch_size": 4,
    "learning_rate": 5e-4,
    "learning_rate_schedule": "cosine",
    "ema_decay": 0.99,
    "threads": 1,
    "report_to": "none",
    "checkpoint_every": 100,
    "validate_every": 400,  # health
    "log_every": 50,
}
NAIVE = {
    "variant": "paired",
    "weight": 1.0,
    "weight_schedule": "balanced",
    "channel_shuffle": False,
    "residual_swap": False,
}
ROWS = {
    "no adaptation": {"variant": "vanilla"},
    "t in [1, 100]": {**NAIVE, "timestep_range": [1, 100]},
    "t in [900, 999]": {**NAIVE, "timestep_range": [900, 999]},
    "t in [1, 999]": NAIVE,
    "t in [1, 100], weight 10": {**NAIVE, "timestep_range": [1, 100], "weight": 10.0},
    "t in [1, 999], weight 10": {**NAIVE, "weight": 10.0},
}


def work(arguments: argparse.Namespace, row: str) -> dict:
    """Trains and measures one row, or reads what was measured: scores of photos, alarms of the run, its seconds."""
    kept = arguments.scores / f"{slug(row)}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    data, folder = Path(arguments.data), arguments.output_dir / slug(row)
    options = {**COMMON, **ROWS[row], "steps": arguments.steps, "output_dir": str(folder)}
    options["clean"] = [str(data / "clean" / kind) for kind in ("bsds", "highres")]
    options["real"] = [str(data / "real_noise" / arguments.set / "train" / "noisy")]
    seconds = common.train(folder, options)
    last = max((folder / "checkpoints").glob("step-*/state.json"))
    counters = json.loads(last.read_text())["counters"]
    scores = measure(arguments, arguments.set, str(folder / "pipeline"))
    found = {
        "psnr": scores["psnr"],
        "ssim": scores["ssim"],
        "s": round(seconds),
        "health": {name: round(value, 4) for name, value in counters["health"].items()},
        "alarms": counters["alarms"],
    }
    arguments.scores.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(found, indent=1) + "\n")
    return found


def report(arguments: argparse.Namespace, found: dict[str, dict]) -> str:
    """The table, and what the alarms say."""
    identity = measure(arguments, arguments.set, None)
    lines = [{"row": "identity", "PSNR": f"{statistics.fmean(identity['psnr']):.2f}"}]
    warnings = []
    for row, measured in found.items():
        health = measured["health"]
        as_is, zeroed = health.get("loss_as_is"), health.get("loss_real_zeroed")
        lines.append(
            {
                "row": row,
                "PSNR": f"{statistics.fmean(measured['psnr']):.2f}",
                "SSIM": f"{statistics.fmean(measured['ssim']):.4f}",
                "worst photo": f"{min(measured['psnr']):.2f}",
                "noise prediction": f"{as_is:.3f}" if as_is else "",
                "... real condition zeroed": f"{zeroed:.3f}" if zeroed else "",
                "slot accuracy": f"{health['slot_accuracy']:.2f}" if "slot_accuracy" in health else "",
                "alarms": str(len(measured["alarms"])),
                "minutes": f"{measured['s'] / 60:.1f}",
            }
        )
        warnings += [f"- {row}: {alarm}" for alarm in measured["alarms"]]
    columns = list(lines[-1])
    text = [
        "# Training at low noise levels alone",
        f"`{arguments.command}`",
        f"From random weights, {arguments.steps} steps of 4 patches of 48 px of white Gaussian noise, preset `tiny`, "
        f"with the unlabeled photos of {arguments.set}; measured on its `val` (PSNR in dB and SSIM on RGB uint8, mean "
        "per photo). "
        "Noise prediction: the mean squared error of the predictor at the end (1: it always returns 0).",
        markdown_table(lines, columns),
        "Warnings at the end:",
        "\n".join(warnings) or "- none",
    ]
    return "\n\n".join(text) + "\n"


def main() -> None:
    parser = common.parser(__doc__, "shortcut.md", data=True)
    parser.add_argument("--set", default="renoir", choices=["renoir", "sidd_small", "polyu"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/shortcut"))
    parser.add_argument("--scores", type=Path, default=common.RESULTS / "shortcut")
    arguments = parser.parse_args()
    arguments.command = common.command(__file__)
    common.publish(arguments.report, report(arguments, {row: work(arguments, row) for row in arguments.rows}))


if __name__ == "__main__":
    main()
