"""Does adaptation help a network that was not made for it? A small NAFNet and a DnCNN of spandrel, on real noise.

    python benchmarks/foreign.py                                  # about 10 minutes of one core

Each network starts with random weights, is trained on synthetic pairs by examples/train_daa.py (`plain`), and goes on
from there: on the same pairs alone (`control`) and with preset `adapt` on RENOIR's `train/noisy` (`adapted`), for as
many steps. `val` is measured. Runs that are there already are kept; an interrupted one resumes: the command may be
stopped and repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from daa_diffusers.files import write_text

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {
    "NAFNet": {
        "architecture": "NAFNet:NAFNet",
        "arguments": {
            "img_channel": 3,
            "width": 12,
            "middle_blk_num": 1,
            "enc_blk_nums": [1, 1, 1],
            "dec_blk_nums": [1, 1, 1],
        },
    },
    "DnCNN": {
        "architecture": "DnCNN:DnCNN",
        "arguments": {"in_nc": 3, "out_nc": 3, "nc": 24, "nb": 7, "act_mode": "BR", "mode": "DnCNN"},
    },
}
PLAIN = {
    "preset": "small",
    "variant": "vanilla",
    "degradation": {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 60.0},
    "clean_scale": [0.25, 1.0],
    "learning_rate": 1e-3,
    "learning_rate_schedule": "cosine",
    "patch": 48,
    "batch_size": 6,
    "ema_decay": 0.99,
}
QUIET = {"validate_every": 0, "health": False, "report_to": "none", "threads": 1, "keep": 1, "log_every": 50}


def sizes(name: str) -> dict:
    return NETWORKS[name]["arguments"]


def start(name: str, folder: Path) -> Path:
    """A network with random weights, as a pipeline."""
    import torch

    from daa_diffusers import DAARestorationPipeline, ForeignRestorer
    from daa_diffusers.foreign.networks import Recipe

    if not (folder / "model_index.json").exists():
        torch.manual_seed(0)
        network = Recipe("spandrel", **NETWORKS[name]).build()
        DAARestorationPipeline(ForeignRestorer.wrap(network)).save_pretrained(folder)
    return folder


def train(folder: Path, options: dict) -> Path:
    """Trains in a process of its own, where the run is not whole already; its pipeline."""
    import yaml

    if not (folder / "pipeline" / "model_index.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_suffix(".yaml")
        write_text(file, yaml.safe_dump({**QUIET, **options, "output_dir": str(folder)}))
        began = time.perf_counter()
        with open(folder.with_suffix(".log"), "a") as log:
            command = [sys.executable, str(ROOT / "examples" / "train_daa.py"), "--config", str(file)]
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        print(f"{folder.parent.name} {folder.name}: trained in {time.perf_counter() - began:.0f} s", flush=True)
    return folder / "pipeline"


def rows_of(arguments: argparse.Namespace, name: str) -> dict[str, Path]:
    """The pipelines of a network, by row."""
    data, folder = Path(arguments.data), Path(arguments.output_dir) / name
    clean = [str(data / "clean" / kind) for kind in ("bsds", "highres")]
    plain = train(
        folder / "plain",
        {**PLAIN, "clean": clean, "steps": arguments.steps, "init_from": str(start(name, folder / "start"))},
    )
    further = {"init_from": str(plain), "clean": clean, "steps": arguments.further}
    control = {**PLAIN, **further, "learning_rate": 2e-4, "batch_size": 6, "blend": 0.5}
    real = str(data / "real_noise" / arguments.domain / "train/noisy")
    adapted = {**further, "preset": "adapt", "real": [real], "predictor_warmup_steps": arguments.further // 4}
    return {
        "plain": plain,
        "control": train(folder / "control", control),
        "adapted": train(folder / "adapted", adapted),
    }


def measure(arguments: argparse.Namespace, name: str, rows: dict[str, Path]) -> list[dict]:
    """PSNR and SSIM of every row on `val`, beside the untouched photos."""
    import torch

    from daa_diffusers import DAARestorationPipeline
    from daa_diffusers.evaluation.folders import evaluate_folder

    torch.set_num_threads(1)
    photos = Path(arguments.data) / "real_noise" / arguments.domain / "val"
    pipelines = {row: DAARestorationPipeline.from_pretrained(path) for row, path in rows.items()}
    result = evaluate_folder(pipelines, photos / "noisy", photos / "clean")
    parameters = sum(p.numel() for p in pipelines["plain"].restorer.parameters())
    plain = result.scores["plain"]["psnr"]
    lines = []
    for row in ("identity", *rows):
        scores = result.scores[row]
        gains = [mine - theirs for mine, theirs in zip(scores["psnr"], plain, strict=True)]
        lines.append(
            {
                "network": f"{name}, {parameters / 1000:.0f} k",
                "row": row,
                "PSNR": f"{mean(scores['psnr']):.2f}",
                "SSIM": f"{mean(scores['ssim']):.4f}",
                "over plain": f"{mean(gains):+.2f}",
                "photos better": f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
            }
        )
    return lines


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("DAA_DATA", str(ROOT / ".." / "shared" / "data")))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--domain", default="renoir", help="folder of real_noise")
    parser.add_argument("--steps", type=int, default=600, help="on synthetic pairs")
    parser.add_argument("--further", type=int, default=160, help="of control and adapted")
    parser.add_argument("--output_dir", default="outputs/foreign")
    parser.add_argument("--report", default=str(ROOT / "benchmarks" / "results" / "foreign.md"))
    arguments = parser.parse_args()

    from daa_diffusers.evaluation.statistics import markdown_table

    lines = [line for name in arguments.networks for line in measure(arguments, name, rows_of(arguments, name))]
    text = "\n".join(
        [
            "# Adaptation of networks that were not made for it",
            "",
            f"`{' '.join(['python benchmarks/foreign.py', *sys.argv[1:]])}`",
            "",
            f"{arguments.domain}, `val`: PSNR and SSIM on RGB uint8, mean per photo. `plain`: {arguments.steps} steps",
            "on synthetic pairs (Gaussian noise up to 60) from random weights; `control`: as many further steps of",
            f"that, with the same blend, as `adapted` takes: {arguments.further} steps of preset `adapt` on the",
            "unlabeled `train/noisy`. One seed: small differences mean nothing.",
            "",
            "Networks: " + "; ".join(f"{name} `{json.dumps(sizes(name))}`" for name in arguments.networks),
            "",
            markdown_table(lines),
            "",
        ]
    )
    target = Path(arguments.report)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    print(text)


if __name__ == "__main__":
    main()
