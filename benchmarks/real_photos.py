"""Does adaptation help on real photos? One table per set of real noise, made by one command, resumable.

    python benchmarks/real_photos.py --plain daa-denoise-plain --jobs 2

Each set is adapted to through `train/noisy` alone and measured on `val`. The rows: identity (the untouched input),
plain (the restorer to start from), control (plain, trained on for as many further steps on the same synthetic pairs),
adapted in three forms, and the oracle (supervised on the clean photos of `train`), which bounds what adaptation could
reach.
Finished rows are kept in `--output_dir` and not computed again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from daa_diffusers.training.config import PRESETS

ROOT = Path(__file__).resolve().parents[1]
SETS = ("renoir", "sidd_small", "polyu")
# What all trained rows share. Chosen on the training losses and on first trials before the table was made.
COMMON = {
    "clean_scale": PRESETS["adapt"]["clean_scale"],
    "patch": 48,
    "batch_size": 4,
    "learning_rate": 1e-4,
    "learning_rate_schedule": "cosine",
    "predictor_learning_rate": 5e-4,
    "ema_decay": 0.99,
    "threads": 1,
    "report_to": "none",
    "checkpoint_every": 100,
    "validate_every": 0,
    "keep": 1,
    "log_every": 20,
    "noise_predictor_options": PRESETS["adapt"]["objective"]["noise_predictor_options"],
}
ROWS = {
    "control": {"variant": "vanilla"},
    "paper": {"variant": "paired", "weight_schedule": "paper", "weight": 0.2},
    "balanced": {"variant": "paired", "weight_schedule": "balanced", "weight": 1.0},
    "hybrid": {"variant": "hybrid", "weight_schedule": "balanced", "weight": 1.0},
    "oracle": {"variant": "vanilla"},
}
ADAPTED = ("paper", "balanced", "hybrid")


def options(arguments: argparse.Namespace, name: str, row: str) -> dict:
    """The training options of one row, as examples/train_daa.py takes them."""
    photos = Path(arguments.data) / "real_noise" / name
    chosen = {**COMMON, **ROWS[row], "init_from": arguments.plain, "steps": arguments.steps, "seed": arguments.seed}
    chosen["output_dir"] = str(Path(arguments.output_dir) / name / row)
    if row == "oracle":
        chosen |= {"paired_degraded": [str(photos / "train/noisy")], "paired_clean": [str(photos / "train/clean")]}
    else:
        chosen["clean"] = [str(Path(arguments.data) / "clean" / kind) for kind in ("bsds", "highres")]
        chosen["degradation"] = json.loads(arguments.degradation)
    if row in ADAPTED:
        chosen["real"] = [str(photos / "train/noisy")]
        chosen["predictor_warmup_steps"] = arguments.steps // 3
    return chosen


def train_row(arguments: argparse.Namespace, name: str, row: str) -> None:
    """Trains one row in a process of its own; does nothing where its pipeline is there already."""
    import yaml

    chosen = options(arguments, name, row)
    folder = Path(chosen["output_dir"])
    if (folder / "seconds.json").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.parent / f"{row}.yaml"
    config.write_text(yaml.safe_dump(chosen))
    started = time.perf_counter()
    with open(folder.parent / f"{row}.log", "a") as log:
        command = [sys.executable, str(ROOT / "examples" / "train_daa.py"), "--config", str(config)]
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (folder / "seconds.json").write_text(json.dumps(time.perf_counter() - started))
    print(f"{name} {row}: {time.perf_counter() - started:.0f} s", flush=True)


def scores(arguments: argparse.Namespace, name: str, checkpoint: str | None) -> dict[str, list[float]]:
    """Per-image PSNR and SSIM (RGB uint8) on `val` of a checkpoint, or of the untouched input for None."""
    from daa_diffusers import DAARestorationPipeline
    from daa_diffusers.evaluation.metrics import psnr, ssim
    from daa_diffusers.photos.reading import read_photo, to_float
    from daa_diffusers.sources.folders import PhotoFolder
    from daa_diffusers.sources.sampling import pair_by_name

    photos = Path(arguments.data) / "real_noise" / name / "val"
    noisy_folder, clean_folder = PhotoFolder(photos / "noisy"), PhotoFolder(photos / "clean")
    pipeline = None
    if checkpoint is not None:
        pipeline = DAARestorationPipeline.from_pretrained(checkpoint)
        pipeline.set_progress_bar_config(disable=True)
    result: dict[str, list[float]] = {"photo": [], "psnr": [], "ssim": []}
    for ours, theirs in pair_by_name(noisy_folder, clean_folder):
        noisy_path, clean_path = noisy_folder.paths[ours], clean_folder.paths[theirs]
        noisy, clean = to_float(read_photo(noisy_path)), to_float(read_photo(clean_path))
        restored = noisy if pipeline is None else pipeline(noisy, output_type="pt").images[0]
        result["photo"].append(noisy_path.name)
        result["psnr"].append(float(psnr(restored, clean, as_uint8=True)))
        result["ssim"].append(float(ssim(restored, clean, as_uint8=True)))
    return result


def evaluate(arguments: argparse.Namespace, name: str) -> dict[str, dict]:
    """Scores of every row of a set that is trained, cached beside the rows."""
    cache = Path(arguments.output_dir) / name / "scores.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    checkpoints: dict[str, str | None] = {"identity": None, "plain": arguments.plain}
    checkpoints |= {row: str(cache.parent / row / "pipeline") for row in ROWS}
    checkpoints |= {Path(extra).name: extra for extra in arguments.also}
    for row, checkpoint in checkpoints.items():
        is_there = row not in ROWS or (cache.parent / row / "seconds.json").exists()
        if row not in known and is_there:
            known[row] = scores(arguments, name, checkpoint)
            if row in ROWS:
                known[row]["seconds"] = json.loads((cache.parent / row / "seconds.json").read_text())
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(known, indent=1))
    return {row: known[row] for row in checkpoints if row in known}


def table(name: str, rows: dict[str, dict]) -> list[dict]:
    """Rows of the Markdown table of one set."""
    from daa_diffusers.evaluation.statistics import gap_closed, paired_bootstrap

    def mean(row: str, metric: str = "psnr") -> float:
        return sum(rows[row][metric]) / len(rows[row][metric])

    lines = []
    for row, values in rows.items():
        line = {"set": name, "row": row, "PSNR": f"{mean(row):.2f}", "SSIM": f"{mean(row, 'ssim'):.4f}"}
        line["worst photo against identity"] = (
            f"{min(a - b for a, b in zip(values['psnr'], rows['identity']['psnr'], strict=True)):+.2f}"
        )
        if row not in ("identity", "plain", "control") and "control" in rows:
            difference = paired_bootstrap(values["psnr"], rows["control"]["psnr"])
            line["minus control (95 %)"] = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            if "oracle" in rows and row != "oracle":
                line["gap closed"] = f"{100 * gap_closed(mean(row), mean('control'), mean('oracle')):.0f} %"
        if "seconds" in values:
            line["minutes"] = f"{values['seconds'] / 60:.1f}"
        lines.append(line)
    return lines


def compare(arguments: argparse.Namespace) -> list[dict]:
    """An adapted checkpoint against its fair control, set by set."""
    from daa_diffusers.evaluation.statistics import paired_bootstrap

    cache = Path(arguments.output_dir) / "compare.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    lines = []
    for name in arguments.sets:
        for checkpoint in arguments.compare:
            key = f"{name} {checkpoint}"
            if key not in known:
                known[key] = scores(arguments, name, checkpoint)["psnr"]
                cache.parent.mkdir(parents=True, exist_ok=True)
                cache.write_text(json.dumps(known))
        adapted, control = (known[f"{name} {checkpoint}"] for checkpoint in arguments.compare)
        difference = paired_bootstrap(adapted, control)
        line = {"set": name, "adapted": f"{sum(adapted) / len(adapted):.2f}"}
        line |= {"control": f"{sum(control) / len(control):.2f}", "photos": str(difference.n)}
        line["minus control (95 %)"] = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        lines.append(line)
    return lines


def report(arguments: argparse.Namespace) -> str:
    """The Markdown report and a CSV with every image, written beside each other; returns the Markdown."""
    from daa_diffusers.evaluation.statistics import markdown_table

    lines, csv = [], ["set,row,photo,psnr,ssim"]
    for name in arguments.sets:
        rows = evaluate(arguments, name)
        lines += table(name, rows)
        for row, values in rows.items():
            per_photo = zip(values["photo"], values["psnr"], values["ssim"], strict=True)
            csv += [f"{name},{row},{photo},{p:.4f},{s:.5f}" for photo, p, s in per_photo]
    columns = [
        "set",
        "row",
        "PSNR",
        "SSIM",
        "worst photo against identity",
        "minus control (95 %)",
        "gap closed",
        "minutes",
    ]
    text = "\n".join(
        [
            "# Real photos: adapted to `train/noisy`, measured on `val`",
            "",
            f"`python benchmarks/real_photos.py {' '.join(sys.argv[1:])}`",
            "",
            "Per-image PSNR (dB) and SSIM on RGB uint8, one seed. The interval is a paired bootstrap over the photos",
            "of `val`; with so few photos it is somewhat too narrow (5 photos: it covers 85 %). `gap closed` is"
            " (row - control) /",
            "(oracle - control). `minutes` is the training time of the row on one core, which other work slowed down:",
            f"{arguments.steps} steps of {COMMON['batch_size']} patches of {COMMON['patch']} px.",
            "",
            markdown_table(lines, columns),
            "",
        ]
    )
    if arguments.compare:
        columns = ["set", "photos", "adapted", "control", "minus control (95 %)"]
        names = [Path(c).parent.name if Path(c).name == "pipeline" else c for c in arguments.compare]
        text += f"\n`{names[0]}` against its fair control `{names[1]}` (the same pairs and steps, no real photos):\n\n"
        text += markdown_table(compare(arguments), columns) + "\n"
    target = Path(arguments.report)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.with_suffix(".csv").write_text("\n".join(csv) + "\n")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("DAA_DATA", str(ROOT / ".." / "shared" / "data")))
    parser.add_argument("--plain", default="daa-denoise-plain", help="checkpoint to start from")
    parser.add_argument("--also", nargs="*", default=[], help="further checkpoints to measure, such as daa-denoise")
    parser.add_argument("--compare", nargs=2, metavar=("ADAPTED", "CONTROL"), help="two more checkpoints")
    parser.add_argument(
        "--degradation", default=json.dumps(PRESETS["adapt"]["degradation"]), help="of the synthetic pairs, JSON"
    )
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="rows trained at a time, one thread each")
    parser.add_argument("--output_dir", default="outputs/real_photos")
    parser.add_argument("--report", default=str(ROOT / "benchmarks" / "results" / "real_photos.md"))
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = [pool.submit(train_row, arguments, name, row) for row in arguments.rows for name in arguments.sets]
        for one in waiting:
            one.result()
    print(report(arguments))


if __name__ == "__main__":
    main()
