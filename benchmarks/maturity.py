"""What does a trained noise predictor buy? The same measures with predictors of more and more steps of training.

    DAA_DATA=... accelerate launch examples/train_daa.py --config examples/configs/weak-tiny.yaml
    DAA_DATA=... accelerate launch examples/train_daa.py --config examples/configs/noise-predictor.yaml
    python examples/bundle_checkpoint.py outputs/noise-predictor plain --noise_predictor 500 1500 6000 \
        --folder outputs/predictors
    python benchmarks/maturity.py --predictors outputs/predictors/plain

The start is a small restorer that knows white noise only, the real photos are those of domain `phone`, with strong
correlated noise (`camera_photos.py`). Measured with the fresh predictor of preset `adapt` and with each folder of those
given:

1. L+ of eq. (4) with one condition replaced, on the same draws: by the clean photo, zeros, the degraded photo.
2. The cosine of descent directions at the restored real photos q with clean - q, of `alignment.py`'s terms.
3. PSNR of the clean photo as the predictor estimates it from noised q, x0-prediction, against that of q.
4. PSNR on `val` after the paper's adaptation (constant weight 1) with the predictor, and of rows to compare with.

1 to 3 take minutes, each row of 4 some. What is done is kept in `--scores`, and the report is made of that.
"""

import argparse
import json
from pathlib import Path

import adaptation
import common
import torch
from adaptation_plan import DOMAINS, GAUSSIAN, PLAIN, ROWS, Row, _space
from alignment import cosines, gradients
from alignment_predictors import Photos, _new_predictor, batches, clean_estimate, error, noised, photos, predict
from camera_photos import make_photos
from torch import Tensor, nn

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text
from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.objectives.schedules import NoiseDraws, NoiseSchedule

DOMAIN = "phone_tiny"
FRESH = "fresh"
RANGES = {"t in 1..100": (1, 100), "t in 1..999": (1, 999)}
DRAWS = 2  # of noise levels, for each patch and range
TIMES = (20, 50, 100, 200, 450, 800)
LOW = 300  # "low t": up to it
TERMS = ("L+", "-L-", "eq. (4)", "hybrid", "score", "regression", "score, dropped")
Numbers = dict[str, float]


def bank_of(arguments: argparse.Namespace) -> list[Photos]:
    """Pairs of the domain's training part in batches, restored by the start."""
    restorer = DAARestorationPipeline.from_pretrained(adaptation.start_of(DOMAINS[DOMAIN])).restorer.float().eval()
    return list(batches(photos(arguments, restorer, ["phone"], arguments.patches, "measure"), 8))


def draws_of(arguments: argparse.Namespace, x: Photos, low: int, high: int, *keys: int) -> NoiseDraws:
    """Draws that are the same for every predictor."""
    generator = generator_for(arguments.seed, "maturity", low, high, *keys)
    return NoiseSchedule(timestep_range=(low, high)).draw(x["q"].shape, generator=generator)


@torch.no_grad()
def condition_losses(arguments: argparse.Namespace, unet: nn.Module, bank: list[Photos]) -> dict[str, Numbers]:
    """L+ by range of t and by what the conditions are; "s, q" is the method's own."""

    def conditions(x: Photos) -> dict[str, tuple[Tensor, Tensor]]:
        s, q, nothing = x["s"], x["q"], torch.zeros_like(x["q"])
        second = {"q": q, "clean": x["target"], "zeros": nothing, "noisy": x["real"]}
        first = {"clean": x["clean"], "zeros": nothing, "noisy": x["synthetic"]}
        return {f"s, {name}": (s, c) for name, c in second.items()} | {
            f"{name}, q": (c, q) for name, c in first.items()
        }

    found: dict[str, Numbers] = {}
    for name, (low, high) in RANGES.items():
        sums: Numbers = {}
        for number, x in enumerate(bank):
            for draw in range(DRAWS):
                draws = draws_of(arguments, x, low, high, number, draw)
                z = noised(x["clean"], draws)
                for pair, (a, b) in conditions(x).items():
                    loss = float(error(draws, predict(unet, z, draws, a, b)))
                    sums[pair] = sums.get(pair, 0.0) + loss / DRAWS / len(bank)
        found[name] = sums
    return found


def directions(arguments: argparse.Namespace, unet: nn.Module, bank: list[Photos]) -> dict[str, Numbers]:
    """Cosine with clean - q of each term's mean descent direction, over low t and over all."""
    sums: dict[str, Numbers] = {"low t": {}, "all t": {}}
    for number, x in enumerate(bank):
        totals: dict[str, Photos] = {"low t": {}, "all t": {}}
        for t in TIMES:
            draws = draws_of(arguments, x, t, t, number)
            found = gradients(unet, "paired", x, draws)
            with torch.no_grad():
                found["score, dropped"] = x["q"] - estimate(unet, x, draws, "dropped")
            for kind in ("low t", "all t") if t <= LOW else ("all t",):
                for term in TERMS:
                    totals[kind][term] = totals[kind].get(term, torch.zeros_like(x["q"])) + found[term]
        for kind, total in totals.items():
            for term, gradient in total.items():
                cosine = cosines(-gradient, x["target"] - x["q"]).mean().item()
                sums[kind][term] = sums[kind].get(term, 0.0) + cosine / len(bank)
    return sums


def estimate(unet: nn.Module, x: Photos, draws: NoiseDraws, kind: str) -> Tensor:
    """The clean photo (B, 3, H, W) as predicted from noised q with conditions (q, q), (s, q), or none."""
    q = x["q"]
    a, b = {"q, q": (q, q), "s, q": (x["s"], q), "dropped": (torch.zeros_like(q),) * 2}[kind]
    z = noised(q, draws)
    return clean_estimate(z, predict(unet, z, draws, a, b), draws)


@torch.no_grad()
def estimates(arguments: argparse.Namespace, unet: nn.Module, bank: list[Photos]) -> dict[str, Numbers]:
    """PSNR of the estimates minus that of q in dB, by conditions and t; means over patches."""
    found: dict[str, Numbers] = {}
    for kind in ("q, q", "s, q", "dropped"):
        found[kind] = {}
        for t in TIMES:
            gains = []
            for number, x in enumerate(bank):
                predicted = estimate(unet, x, draws_of(arguments, x, t, t, number), kind)
                gains.append(psnr(predicted, x["target"]) - psnr(x["q"], x["target"]))
            found[kind][f"t = {t}"] = torch.cat(gains).mean().item()
    return found


def psnr(photo: Tensor, target: Tensor) -> Tensor:
    """(B,) dB, clamped to [0, 1]."""
    return -10 * (photo.clamp(0, 1) - target).square().mean((1, 2, 3)).log10()


def measure(arguments: argparse.Namespace) -> None:
    """Measures 1 to 3 of every predictor into a file of its name, unless that is there."""
    folder = arguments.scores / "measured"
    paths = {name: folder / f"{name.replace(' ', '-')}.json" for name in predictors(arguments)}
    bank = [] if all(path.exists() for path in paths.values()) else bank_of(arguments)
    for name, source in predictors(arguments).items():
        if paths[name].exists():
            continue
        torch.manual_seed(arguments.seed)
        unet = _new_predictor() if source is None else DAAUNet2DConditionModel.from_pretrained(source)
        unet.float().eval().requires_grad_(False)
        found = {
            "losses": condition_losses(arguments, unet, bank),
            "directions": directions(arguments, unet, bank),
            "estimates": estimates(arguments, unet, bank),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_text(paths[name], json.dumps({"name": name, **found}, indent=1) + "\n")
        print(f"measured: {name}", flush=True)


def predictors(arguments: argparse.Namespace) -> dict[str, Path | None]:
    """Name -> folder: the fresh one, and those of the folders given by number of steps."""
    found: dict[str, Path | None] = {FRESH: None}
    for folder in arguments.predictors:
        each = [path.parent for path in folder.glob("*/config.json")]
        steps = {path: json.loads((path / "training.json").read_text())["steps"] for path in each}
        found |= {f"{folder.name} {steps[path]}": path for path in sorted(each, key=lambda path: steps[path])}
    return found


def rows(arguments: argparse.Namespace) -> dict[str, Row]:
    """The adaptations: the paper's with each predictor; the fresh one learns for a third of the steps first.

    "L+, balanced" is without the negative of eq. (4), with the gradient of L+ as large as that of L_pair, since L+ and
    its gradient shrink with training. "score" is objective `score` with the last predictor.
    """
    paper = {"variant": "paired", "weight_schedule": "constant"}
    found = {"control": ROWS["control"], "renoised": ROWS["renoised"]}
    for name, folder in predictors(arguments).items():
        trained = {} if folder is None else {"noise_predictor_from": str(folder.resolve()), "predictor_warmup_steps": 0}
        found[f"paper, {name}"] = _space(**paper, **trained)
        balanced = {"variant": "paired", "weight_schedule": "balanced", "residual_swap": False}
        found[f"L+, balanced, {name}"] = _space(**balanced, **trained)
    if trained:
        for conditions in ("none", "restored"):
            options = {**PLAIN, "objective": "score", "conditions": conditions}
            options["noise_predictor_from"] = trained["noise_predictor_from"]
            found[f"score, conditions {conditions}, {name}"] = Row(options)
    return found


def adapt(arguments: argparse.Namespace) -> None:
    """Trains and measures 4 row by row, through `adaptation.py`."""
    options = ["--domains", DOMAIN, "--steps", str(arguments.steps), "--data", str(arguments.data)]
    run = adaptation.parse([*options, "--output_dir", arguments.output_dir, "--scores", str(arguments.scores)])
    every = rows(arguments)
    adaptation.ALL_ROWS.update(every)
    adaptation.fixed_rows(run, DOMAIN)
    for name in every:
        if arguments.rows is not None and name not in arguments.rows:
            continue
        task = adaptation.plan(run, DOMAIN, name, arguments.seed)
        adaptation.work(task, run)
        if task.scores.exists():
            kept = arguments.scores / "rows" / f"{adaptation.slug(name)}-{arguments.seed}.json"
            kept.parent.mkdir(parents=True, exist_ok=True)
            steps = json.loads(task.scores.read_text())["steps"]
            write_text(kept, json.dumps({"name": name, "seed": arguments.seed, "steps": steps}) + "\n")


def table(title: str, lines: dict[str, Numbers], form: str) -> list[str]:
    """A Markdown table: a line for each name."""
    columns = list(dict.fromkeys(column for numbers in lines.values() for column in numbers))
    cells = [
        {"predictor": name, **{c: format(numbers[c], form) if c in numbers else "" for c in columns}}
        for name, numbers in lines.items()
    ]
    return [f"## {title}", "", markdown_table(cells, ["predictor", *columns]), ""]


def age(found: dict) -> tuple[str, int]:
    """For the order: the fresh one, then by form and steps."""
    form, _, steps = found["name"].rpartition(" ")
    return (form, int(steps) if steps.isdigit() else 0)


def report(arguments: argparse.Namespace) -> str:
    """The Markdown report of all that is in `--scores`."""
    found = sorted((json.loads(path.read_text()) for path in (arguments.scores / "measured").glob("*.json")), key=age)
    sections = ["# Maturity of the noise predictor", "", "`python benchmarks/maturity.py`", ""]
    sections += ["The docstring of the program says what is measured. Names: form of the training and its steps.", ""]
    for name in RANGES:
        lines = {measured["name"]: measured["losses"][name] for measured in found}
        sections += table(f"L+ with conditions replaced, {name}", lines, ".4f")
    for kind in ("low t", "all t"):
        lines = {measured["name"]: measured["directions"][kind] for measured in found}
        sections += table(f"Cosine of the descent direction with clean - q, {kind}", lines, "+.3f")
    for kind in ("q, q", "s, q", "dropped"):
        lines = {measured["name"]: measured["estimates"][kind] for measured in found}
        sections += table(f"PSNR of x0-prediction of noised q minus that of q, dB, conditions {kind}", lines, "+.2f")
    lines = {}
    for path in sorted((arguments.scores / "rows").glob("*.json")):
        row = json.loads(path.read_text())
        lines[f"{row['name']}, seed {row['seed']}"] = {f"{step} steps": score for step, score in row["steps"].items()}
    fixed = arguments.scores / DOMAIN / "fixed.json"
    if fixed.exists():
        for key, scores in json.loads(fixed.read_text()).items():
            lines[key.rsplit(" ", 1)[0]] = {"0 steps": sum(scores["psnr"]) / len(scores["psnr"])}
    sections += table("PSNR on val after adaptation, dB", dict(sorted(lines.items())), ".2f")
    return "\n".join(sections)


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, "maturity.md", data=True)
    parser.add_argument(
        "--predictors", nargs="*", type=Path, default=[], help="folders of predictors, one of each step"
    )
    parser.add_argument("--clean", nargs="*", help="clean photos of the pairs; default: bsds and highres of --data")
    parser.add_argument("--patches", type=int, default=24, help="for 1 to 3")
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=500, help="of the adaptations")
    parser.add_argument("--rows", nargs="*", help="of the adaptations; default: all; nothing: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="outputs/maturity")
    parser.add_argument("--scores", type=Path, default=common.RESULTS / "maturity")
    parser.add_argument("--only-report", action="store_true", help="of what is measured already")
    arguments = parser.parse_args(argv)
    arguments.degradation = GAUSSIAN
    torch.set_num_threads(1)
    if not arguments.only_report:
        make_photos("phone", Path(arguments.data))
        measure(arguments)
        if arguments.rows != []:
            adapt(arguments)
    common.publish(arguments.report, report(arguments))


if __name__ == "__main__":
    main()
