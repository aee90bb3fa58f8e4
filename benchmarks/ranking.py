"""Does the noise predictor, kept as a critic, rank restored photos by quality? `daa rank` against the true error.

    python benchmarks/ranking.py        # it may be stopped and repeated at any time

The checkpoint is that of examples/configs/daa-denoise-hybrid.yaml, trained again with its noise predictor kept (480
steps on the noisy training photos of the three sets). The true error of a restored photo is its PSNR against the clean
one. Scores are compared on `train` first, where one may choose, and measured on `val`.
"""

import argparse
import json
import statistics
from pathlib import Path

import common
import numpy as np
import torch
import yaml

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.degradations.filters import gaussian_filter
from daa_diffusers.degradations.fitting.photo_noise import Noise
from daa_diffusers.evaluation import psnr
from daa_diffusers.evaluation.folders import restore
from daa_diffusers.evaluation.photo_pairs import PhotoPairs
from daa_diffusers.evaluation.ranking import prediction_error
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text

SETS = ("renoir", "sidd_small", "polyu")
PARTS = {"train": 12, "val": 1000}  # and how many photos of each set
LEVELS = (0.95, 0.8, 0.5, 0.2)
CONFIG = common.ROOT / "examples" / "configs" / "daa-denoise-hybrid.yaml"


def train(arguments: argparse.Namespace) -> Path:
    """The pipeline with its noise predictor, which is trained where it is not there yet."""
    own = {"init_from": arguments.start, "save_noise_predictor": True, "report_to": "none"}
    own |= {"steps": arguments.steps} if arguments.steps else {}
    options = {**yaml.safe_load(CONFIG.read_text()), **own}
    return common.trained(Path(arguments.output_dir) / "run", options, DAA_DATA=str(Path(arguments.data).resolve()))


def look(arguments: argparse.Namespace, checkpoint: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Scores and PSNR of every photo, by part and set."""
    torch.set_num_threads(1)
    cache = Path(arguments.output_dir) / "scores.json"
    found = json.loads(cache.read_text()) if cache.exists() else {part: {} for part in PARTS}
    pipeline = DAARestorationPipeline.from_pretrained(checkpoint, load_noise_predictor=True)
    pipeline.set_progress_bar_config(disable=True)
    for part, most in PARTS.items():
        for name in SETS:
            if name in found[part]:
                continue
            folder = Path(arguments.data) / "real_noise" / name / part
            pairs = PhotoPairs(folder / "noisy", folder / "clean")
            chosen = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int))
            rows = [scores_of(pipeline, *pairs.read(int(index))) for index in chosen]
            found[part][name] = {score: [row[score] for row in rows] for score in rows[0]}
            write_text(cache, json.dumps(found))
            print(f"{part}, {name}: {len(rows)} photos", flush=True)
    return found


def scores_of(pipeline, degraded: torch.Tensor, clean: torch.Tensor) -> dict[str, float]:
    """All scores of one photo, and "psnr" of its restored version."""
    restored = restore(pipeline, degraded)
    found = {"psnr": float(psnr(restored, clean, as_uint8=True))}
    blurred = gaussian_filter(restored[None], 1.0)[0]

    def error(photo: torch.Tensor, conditions: torch.Tensor, g: float) -> float:
        return prediction_error(
            pipeline.unet, photo, conditions, value_range=pipeline.value_range, noise_levels=[g], seeds=1
        )

    for g in LEVELS:
        own, other = error(restored, restored, g), error(restored, degraded, g)
        found[f"critic, g = {g}"] = own
        found[f"conditions: input minus restored, g = {g}"] = other - own
        found[f"over that of the blurred photo, g = {g}"] = own / error(blurred, blurred, g)
    for form in ("critic", "conditions: input minus restored", "over that of the blurred photo"):
        found[f"{form}, all g"] = statistics.fmean(found[f"{form}, g = {g}"] for g in LEVELS)
    draw = Noise.of(degraded).sample(degraded, torch.Generator().manual_seed(0))
    found["noise of the input"] = float(draw.square().mean())
    found["what was removed"] = float((degraded - restored).square().mean())
    found["detail of the restored"] = float((restored - blurred).square().mean())
    return found


def spearman(scores: list[float], errors: list[float]) -> float:
    """Rank correlation, in [-1, 1]."""
    from torchmetrics.functional import spearman_corrcoef

    return float(
        spearman_corrcoef(torch.tensor(scores, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64))
    )


def chance(scores: list[float], errors: list[float], draws: int = 5000) -> float:
    """Share of random orders whose correlation is at least as far from 0."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (scores, errors)]
    rng = np.random.default_rng(0)
    centered = [rank - rank.mean() for rank in ranks]
    shuffled = np.array([centered[0][rng.permutation(len(scores))] @ centered[1] for _ in range(draws)])
    return float((np.abs(shuffled) >= abs(centered[0] @ centered[1]) - 1e-9).mean())


def report(arguments: argparse.Namespace, found: dict) -> str:
    """The tables as Markdown, best on `train` first."""
    text = [
        "# `daa rank`: does the order of its scores follow the true error?",
        f"`{arguments.command}`",
        "The checkpoint is that of examples/configs/daa-denoise-hybrid.yaml with its noise predictor kept "
        "(480 steps). "
        "Spearman correlation of the score with the negative PSNR of the restored photo (RGB, 8 bit): 1 is the right "
        "order, 0 none. `pooled`: photos of all sets in one list. `p`: share of random orders that correlate as "
        "strongly, on the pooled photos. `critic`: z and both conditions from the restored photo, one draw of noise "
        f"for each g, the share of the signal's power that is left; all g: mean over {', '.join(map(str, LEVELS))}. "
        "Below it stand variants that were tried: by how much the error rises when the conditions are the untouched "
        "input; the error over that of the restored photo blurred by 1 px. The last three need no noise predictor: "
        "noise power of the input as estimated, mean square of input minus restored, and of what a blur of 1 px takes "
        "of the restored.",
    ]
    for part in PARTS:
        sets = found[part]
        counts = {name: len(sets[name]["psnr"]) for name in SETS}
        lines = []
        for score in (key for key in sets[SETS[0]] if key != "psnr"):
            line = {"score": score}
            for name in SETS:
                rho = spearman(sets[name][score], [-value for value in sets[name]["psnr"]])
                line[f"{name} ({counts[name]})"] = f"{rho:+.2f}"
            scores = [value for name in SETS for value in sets[name][score]]
            errors = [-value for name in SETS for value in sets[name]["psnr"]]
            line |= {
                f"pooled ({len(scores)})": f"{spearman(scores, errors):+.2f}",
                "p": f"{chance(scores, errors):.3f}",
            }
            lines.append(line)
        text += [f"## {part}", markdown_table(lines)]
    return "\n\n".join(text) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, "ranking.md", data=True)
    parser.add_argument("--start", default="daa-denoise", help="checkpoint to adapt (results: daa-denoise-plain)")
    parser.add_argument("--steps", type=int, help="of the training; default: that of the config")
    parser.add_argument("--output_dir", default="outputs/ranking")
    arguments = parser.parse_args(argv)
    arguments.command = common.command(__file__, argv)
    common.publish(arguments.report, report(arguments, look(arguments, train(arguments))))


if __name__ == "__main__":
    main()
