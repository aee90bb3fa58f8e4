"""Does adaptation help a network that was not made for it? A small NAFNet and a DnCNN of spandrel, on real noise.

    python benchmarks/foreign.py                                  # about 10 minutes of one core

Each network starts with random weights, is trained on synthetic pairs by examples/train_daa.py (`plain`), and goes on
from there: on the same pairs alone (`control`) and with preset `adapt` on RENOIR's `train/noisy` (`adapted`), for as
many steps. `val` is measured. Runs that are there already are kept; an interrupted one resumes: the command may be
stopped and repeated.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

import common
import torch

from daa_diffusers import DAARestorationPipeline, ForeignRestorer
from daa_diffusers.evaluation.folders import evaluate_folder
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.foreign.networks import Recipe

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


def start(name: str, folder: Path) -> Path:
    """A network with random weights, as a pipeline."""
    if not (folder / "model_index.json").exists():
        torch.manual_seed(0)
        network = Recipe("spandrel", **NETWORKS[name]).build()
        DAARestorationPipeline(ForeignRestorer.wrap(network)).save_pretrained(folder)
    return folder


def rows_of(arguments: argparse.Namespace, name: str) -> dict[str, Path]:
    """The pipelines of a network, by row."""
    data, folder = Path(arguments.data), Path(arguments.output_dir) / name
    clean = [str(data / "clean" / kind) for kind in ("bsds", "highres")]
    first = {**PLAIN, "clean": clean, "steps": arguments.steps, "init_from": str(start(name, folder / "start"))}
    plain = common.trained(folder / "plain", {**QUIET, **first})
    further = {"init_from": str(plain), "clean": clean, "steps": arguments.further}
    control = {**PLAIN, **further, "learning_rate": 2e-4, "batch_size": 6, "blend": 0.5}
    real = str(data / "real_noise" / arguments.domain / "train/noisy")
    adapted = {**further, "preset": "adapt", "real": [real], "predictor_warmup_steps": arguments.further // 4}
    return {
        "plain": plain,
        "control": common.trained(folder / "control", {**QUIET, **control}),
        "adapted": common.trained(folder / "adapted", {**QUIET, **adapted}),
    }


def measure(arguments: argparse.Namespace, name: str, rows: dict[str, Path]) -> list[dict]:
    """PSNR and SSIM of every row on `val`, beside the untouched photos."""
    torch.set_num_threads(1)
    photos = Path(arguments.data) / "real_noise" / arguments.domain / "val"
    pipelines = {row: DAARestorationPipeline.from_pretrained(path) for row, path in rows.items()}
    result = evaluate_folder(pipelines, photos / "noisy", photos / "clean")
    parameters = sum(p.numel() for p in pipelines["plain"].restorer.parameters())
    plain = result.scores["plain"]["psnr"]
    lines = []
    for row in ("identity", *rows):
        scores = result.scores[row]
        gains = [after - before for after, before in zip(scores["psnr"], plain, strict=True)]
        lines.append(
            {
                "network": f"{name}, {parameters / 1000:.0f} k",
                "row": row,
                "PSNR": f"{fmean(scores['psnr']):.2f}",
                "SSIM": f"{fmean(scores['ssim']):.4f}",
                "over plain": f"{fmean(gains):+.2f}",
                "photos better": f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
            }
        )
    return lines


def main() -> None:
    parser = common.parser(__doc__, "foreign.md", data=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--domain", default="renoir", help="folder of real_noise")
    parser.add_argument("--steps", type=int, default=600, help="on synthetic pairs")
    parser.add_argument("--further", type=int, default=160, help="of control and adapted")
    parser.add_argument("--output_dir", default="outputs/foreign")
    arguments = parser.parse_args()

    lines = [line for name in arguments.networks for line in measure(arguments, name, rows_of(arguments, name))]
    common.publish(
        arguments.report,
        "# Adaptation of networks that were not made for it",
        f"`{common.command(__file__)}`",
        f"{arguments.domain}, `val`: PSNR and SSIM on RGB uint8, mean per photo. `plain`: {arguments.steps} steps "
        "on synthetic pairs (Gaussian noise up to 60) from random weights; `control`: as many further steps of "
        f"that, with the same blend, as `adapted` takes: {arguments.further} steps of preset `adapt` on the "
        "unlabeled `train/noisy`. One seed: small differences mean nothing.",
        "Networks: " + "; ".join(f"{n} `{json.dumps(NETWORKS[n]['arguments'])}`" for n in arguments.networks),
        markdown_table(lines),
    )


if __name__ == "__main__":
    main()
