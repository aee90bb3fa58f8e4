"""What does `--select_by label_free` cost? Its regret in dB against the best checkpoint by PSNR, on real runs.

    python benchmarks/selection.py

Each set of real noise is adapted to through `train/noisy`, in forms strong enough to do harm, with a checkpoint every
few steps. The label-free score sees what a run sees: `train/noisy` and the clean source. PSNR is measured on `val`.
Runs and scores that are there already are kept in `--output_dir` and not computed again.
"""

import argparse
import json
import time
from pathlib import Path

import common
import torch

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.photos.pixels import center_crop, unit_float
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.sampling import PairedFolders
from daa_diffusers.training.config import TrainingConfig, resolve
from daa_diffusers.training.health import Health
from daa_diffusers.training.run_state import list_checkpoints, load_average

SETS = ("renoir", "sidd_small", "polyu")
FORMS = {
    "hybrid": {"variant": "hybrid", "weight": 0.5},
    "paired": {"variant": "paired", "weight": 1.0},
}
SIDE = 256  # of the middle of each photo on which PSNR is measured


def options(arguments: argparse.Namespace, name: str, form: str) -> dict:
    """The training options of one run: preset `adapt`, shorter and stronger."""
    data = Path(arguments.data)
    return {
        "preset": "adapt",
        **{"fit_noise": 0.0, "pseudo_clean": False, "blend": 1.0},  # noise-space adaptation alone, all the way
        **FORMS[form],
        "init_from": str(start(arguments)),
        "output_dir": str(Path(arguments.output_dir) / name / form),
        "clean": [str(data / "clean" / kind) for kind in ("bsds", "highres")],
        "real": [str(data / "real_noise" / name / "train/noisy")],
        "batch_size": 4,
        "learning_rate": 4e-4,
        "steps": arguments.steps,
        "predictor_warmup_steps": arguments.steps // 4,
        "checkpoint_every": arguments.every,
        "keep": arguments.steps,
        "validate_every": 0,
        "health": False,
        "threads": 1,
        "report_to": "none",
        "seed": arguments.seed,
    }


def start(arguments: argparse.Namespace) -> Path:
    """The checkpoint that all runs start from, copied so that it stays the same one."""
    copy = Path(arguments.output_dir) / "start"
    if not (copy / "model_index.json").exists():
        DAARestorationPipeline.from_pretrained(arguments.plain).save_pretrained(str(copy))
    return copy


def train(arguments: argparse.Namespace, name: str, form: str) -> TrainingConfig:
    """The config of a run, which is trained where it is not there yet."""
    chosen = options(arguments, name, form)
    common.trained(Path(chosen["output_dir"]), chosen)
    return resolve(chosen).check()


def pairs(arguments: argparse.Namespace, name: str, split: str = "val") -> list:
    """(noisy, clean) middles of the photos, (C, SIDE, SIDE) in [0, 1]."""
    photos = Path(arguments.data) / "real_noise" / name / split
    folders = PairedFolders(PhotoFolder(photos / "noisy"), PhotoFolder(photos / "clean"))
    return [
        tuple(unit_float(center_crop(photo, SIDE)) for photo in folders.pair(index)) for index in range(len(folders))
    ]


def evaluate(arguments: argparse.Namespace, name: str, form: str) -> list[dict]:
    """Step, PSNR on `val` and label-free values of every checkpoint of a run, the start first; cached beside it."""
    torch.set_num_threads(1)
    config = train(arguments, name, form)
    folder = Path(config.output_dir)
    cache = folder / "scores.json"
    rows = json.loads(cache.read_text()) if cache.exists() else []
    health, photos = None, pairs(arguments, name)
    restorer = DAARestorationPipeline.from_pretrained(str(start(arguments))).restorer.float().eval()
    for number, checkpoint in enumerate([None, *list_checkpoints(folder / "checkpoints")]):
        if number < len(rows):
            continue
        if checkpoint is not None:
            load_average(checkpoint, restorer)
        with torch.no_grad():
            score = sum(float(psnr(restorer(x[None])[0], y, as_uint8=True)) for x, y in photos) / len(photos)
        health = health or Health.from_config(config)
        assert health is not None  # these variants have one
        step = 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
        rows.append({"step": step, "psnr": score, **health.run(restorer).values})
        cache.write_text(json.dumps(rows, indent=1))
    return rows


def line(name: str, form: str, rows: list[dict]) -> dict:
    """What selecting by each rule gives."""
    from scipy.stats import spearmanr

    best = max(rows, key=lambda row: row["psnr"])
    chosen = max(rows, key=lambda row: row["score"])
    return {
        "set": name,
        "run": form,
        "best PSNR": f"{best['psnr']:.2f}",
        "best step": str(best["step"]),
        "label-free step": str(chosen["step"]),
        "regret label-free": f"{best['psnr'] - chosen['psnr']:.3f}",
        "regret last": f"{best['psnr'] - rows[-1]['psnr']:.3f}",
        "regret start": f"{best['psnr'] - rows[0]['psnr']:.3f}",
        "worst": f"{best['psnr'] - min(row['psnr'] for row in rows):.3f}",
        "rank correlation": f"{spearmanr([r['psnr'] for r in rows], [r['score'] for r in rows]).statistic:+.2f}",
    }


def main() -> None:
    parser = common.parser(__doc__, "selection.md", data=True)
    parser.add_argument("--plain", default="daa-denoise", help="checkpoint to start from")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=12, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="outputs/selection")
    arguments = parser.parse_args()

    started = time.perf_counter()
    runs = [(name, form) for form in arguments.forms for name in arguments.sets]
    for name, form in runs:
        train(arguments, name, form)
    lines = [line(name, form, evaluate(arguments, name, form)) for name, form in runs]
    common.publish(
        arguments.report,
        "# Regret of `--select_by label_free`",
        f"`{common.command(__file__)}`"
        f", {(time.perf_counter() - started) / 60:.0f} minutes in the last call (finished parts are kept)",
        "Regret is the best PSNR of a run minus that of the checkpoint chosen, in dB, on `val` (RGB uint8, mean "
        f"per photo, middle {SIDE} px). Every run takes {arguments.steps} steps with a checkpoint every "
        f"{arguments.every}; the start is one of them. `worst` is the regret of the worst checkpoint. The rank "
        "correlation (Spearman) is that of score and PSNR.",
        markdown_table(lines),
    )


if __name__ == "__main__":
    main()
