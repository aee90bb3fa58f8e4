"""Why does noise-space adaptation help or hurt? Its gradient against the supervised one, on pairs of real photos.

    python benchmarks/alignment.py --restorer daa-denoise

A restorer is frozen, noise predictors are trained on what it restores, and on the pairs of `train` (never `val`) these
are measured: the alignment of each adaptation gradient with the supervised one, at the restored photo and at the
restorer's parameters, through the real branch alone; what the gradient is made of; and the noise-prediction error
against the quality of the conditions. Finished parts are kept in `--output_dir`; the report and the plots are made of
them. An hour on one core.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import torch
import torch.nn.functional as F
from alignment_predictors import (
    ADAPT,
    FORMS,
    Photos,
    batches,
    blur,
    clean_estimate,
    error,
    noised,
    photos,
    predict,
    run_predictor,
    swapped,
    texture,
    train_predictor,
)
from alignment_report import Row, report
from torch import Tensor, nn
from torch.func import functional_call

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.files import write_text
from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.objectives.losses import charbonnier
from daa_diffusers.objectives.schedules import NoiseDraws, NoiseSchedule

SETS = ("renoir", "sidd_small", "polyu")
TIMES = (20, 100, 250, 450, 700, 950)  # t of the noise levels at which gradients are measured, and averaged
ERROR_TIMES = (100, 450)  # t of those at which noise-prediction errors are measured
PROJECTED = ("eq. (4)", "hybrid", "score")  # terms that are also measured without their smoothing part
# qualities of conditions: shares of the real noise, and blurs (standard deviations in pixels)
NOISE_SHARES = (0.25, 0.5, 1.0)
BLURS = (0.5, 1.0, 2.0)


# --- gradients


def gradients(unet: nn.Module, form: str, x: Photos, draws: NoiseDraws) -> Photos:
    """dL/dq (B, 3, H, W) of each term, by name; the descent direction is its negative.

    "L+", "-L-" and "eq. (4)" are those of variant "paired"; "hybrid" is L+ with another photo noised. "score" and
    "regression" are q minus its estimate from noised q, whose conditions are (q, q) and (s, q), without a gradient
    through the noise predictor.
    """
    q = x["q"].detach().requires_grad_()
    s = x["s"]

    def at_q(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, q, retain_graph=True)[0]

    z_q = noised(x["q"], draws)
    if form == "distribution":
        with torch.no_grad():
            clean, ours = (
                clean_estimate(z_q, predict(unet, z_q, draws, c, c), draws)
                for c in (torch.zeros_like(s), torch.ones_like(s))
            )
        return {"clean minus restored score": ours - clean}
    z, z_other = noised(x["clean"], draws), noised(x["clean"].roll(1, 0), draws)
    positive = error(draws, predict(unet, z, draws, s, q))
    negative = error(draws, predict(unet, z, draws, *swapped(x, q), negative=True))
    hybrid = predict(unet, z_other, draws, s, q)
    found = {"L+": at_q(positive), "-L-": -at_q(negative), "hybrid": at_q(error(draws, hybrid))}
    is_open = float(positive - negative + 0.1 > 0)  # the hinge of (4)
    found["eq. (4)"] = (found["L+"] + is_open * (found["L+"] + found["-L-"])) / 2
    found["hybrid L1"] = at_q(F.l1_loss(hybrid, draws.noise))
    if form == "blur negative":
        found["-L(blurred)"] = -at_q(error(draws, predict(unet, z, draws, s, blur(q), negative=True)))
        # `blur_negative_loss`, with the hinge of the blurred negative open
        found["eq. (4) + blurred"] = (found["eq. (4)"] + (2 * found["L+"] + found["-L(blurred)"]) / 2) / 2
    with torch.no_grad():
        for name, other in (("score", x["q"]), ("regression", s)):
            found[name] = x["q"] - clean_estimate(z_q, predict(unet, z_q, draws, other, x["q"]), draws)
    return found


def project_out(gradient: Tensor, direction: Tensor) -> Tensor:
    """The gradient without its part along `direction`, sample by sample."""
    share = (gradient * direction).flatten(1).sum(1) / direction.square().flatten(1).sum(1).clamp_min(1e-12)
    return gradient - share[:, None, None, None] * direction


def cosines(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) cosines of (B, 3, H, W), within `mask` (B, 1, H, W) if given."""
    if mask is not None:
        a, b = a * mask, b * mask
    return F.cosine_similarity(a.flatten(1), b.flatten(1))


def regions(x: Photos) -> tuple[tuple[str, Tensor], ...]:
    """Names and masks (B, 1, H, W) of all, flat and textured pixels."""
    textured = (texture(x["target"]) > x["texture"]).float()
    return ("", torch.ones_like(textured)), (" flat", 1 - textured), (" textured", textured)


def composition(direction: Tensor, x: Photos) -> dict[str, Tensor]:
    """What a change of q (B, 3, H, W) is made of: (B,) numbers by name, for all, flat and textured pixels.

    "rest" is the share of its energy that is neither along blur(q) - q nor along x_r - q; nan: no pixel of the kind.
    """
    q, target = x["q"], x["target"]
    smoothing, back = blur(q) - q, x["real"] - q
    found = {}
    for region, mask in regions(x):
        is_there = mask.flatten(1).any(1)
        for name, other in (("clean", target - q), ("smoothing", smoothing), ("back to noisy", back)):
            found[f"cos {name}{region}"] = cosines(direction, other, mask).where(is_there, torch.nan)
        basis = torch.stack([(smoothing * mask).flatten(1), (back * mask).flatten(1)], dim=2)  # (B, N, 2)
        d = (direction * mask).flatten(1)[..., None]
        fitted = basis @ torch.linalg.pinv(basis.mT @ basis) @ (basis.mT @ d)
        rest = (d - fitted).square().sum((1, 2)) / d.square().sum((1, 2)).clamp_min(1e-20)
        found[f"rest{region}"] = rest.where(is_there, torch.nan)
    return found


def supervised_change(restorer: nn.Module, real: Tensor, step: list[Tensor]) -> Tensor:
    """How the restored photos (B, 3, H, W) change along a step of the parameters (Jacobian times vector)."""
    names = [name for name, p in restorer.named_parameters() if p.requires_grad]
    parameters = {name: p.detach() for name, p in restorer.named_parameters()}
    tangents = {name: torch.zeros_like(p) for name, p in parameters.items()} | dict(zip(names, step, strict=True))
    return torch.func.jvp(lambda p: functional_call(restorer, p, (real,)), (parameters,), (tangents,))[1]


def alignment(arguments: argparse.Namespace, restorer: nn.Module, unet: nn.Module, label: Row, x: Photos) -> list[Row]:
    """Rows of one predictor on one batch: cosines at the photo and at the parameters, and the parts of each gradient.

    "rate" is how fast the supervised loss falls, to first order, per L2 norm of the gradient at the restored photos,
    over the same for the supervised gradient itself (1): what the "balanced" weight gives, through the parameters.
    """
    parameters = [p for p in restorer.parameters() if p.requires_grad]
    restored = restorer(x["real"])
    q = restored.detach().requires_grad_()
    supervised = torch.autograd.grad(charbonnier(q, x["target"]), q)[0]

    def at_parameters(gradient: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(restored, parameters, gradient, retain_graph=True))

    right = at_parameters(supervised)
    change = supervised_change(restorer, x["real"], right)
    right_flat = torch.cat([g.flatten() for g in right])
    rows: list[Row] = []

    def rate(gradient: Tensor) -> float:
        return float((gradient * change).sum() / gradient.norm().clamp_min(1e-20))

    def add(term: str, t: int, quantity: str, value: float | Tensor) -> None:
        rows.append({**label, "term": term, "t": t, "quantity": quantity, "value": float(value)})

    sums: Photos = {}
    for t in TIMES:
        found = gradients(unet, str(label["form"]), x, draws_for(arguments, label, t, x))
        for name, gradient in found.items():
            sums[name] = sums.get(name, torch.zeros_like(q)) + gradient / len(TIMES)
            add(name, t, "photo: cos clean", cosines(-gradient, x["target"] - x["q"]).mean())
            add(name, t, "rate", rate(gradient) / rate(supervised))
    smoothing = blur(x["q"]) - x["q"]
    sums |= {f"{name}, projected": project_out(sums[name], smoothing) for name in PROJECTED if name in sums}
    for name, gradient in {"supervised": supervised, "smoothing": -smoothing, **sums}.items():
        for part, value in composition(-gradient, x).items():
            add(name, 0, f"photo: {part}", value.nanmean())
        add(name, 0, "rate", rate(gradient) / rate(supervised))
        flat = torch.cat([g.flatten() for g in at_parameters(gradient)])
        add(name, 0, "parameters: cos", F.cosine_similarity(flat, right_flat, dim=0))
    return rows


def draws_for(arguments: argparse.Namespace, label: Row, t: int, x: Photos) -> NoiseDraws:
    """The draws of a batch at one noise level, the same for every predictor."""
    generator = generator_for(arguments.seed, "draws", str(label["set"]), t, int(label["batch"]))
    return NoiseSchedule(timestep_range=(t, t)).draw(x["q"].shape, generator=generator)


def restorer_error(label: Row, x: Photos) -> list[Row]:
    """What the restorer does wrong: the parts of clean - q, and the squared error when q is made a little smoother."""
    found = {
        ("clean - q", f"photo: {part}"): value.nanmean() for part, value in composition(x["target"] - x["q"], x).items()
    }
    for region, mask in regions(x):
        before, after = (
            ((photo - x["target"]) * mask).square().sum() for photo in (x["q"], torch.lerp(x["q"], blur(x["q"]), 0.25))
        )
        found[region.strip() or "all", "smoother"] = 100 * (after / before - 1)
    return [
        {**label, "term": term, "t": 0, "quantity": quantity, "value": float(value)}
        for (term, quantity), value in found.items()
    ]


# --- the paper's motivating figure


def condition_errors(arguments: argparse.Namespace, unet: nn.Module, label: Row, x: Photos) -> list[Row]:
    """Noise-prediction error against the quality of a condition, over that with the clean photo, in per cent.

    "matched": the condition is made of the noised photo itself, beside an unmatched restored one; "unmatched": it is
    made of the real photo, beside the matched restored one; "both unmatched": as that, and another photo is noised.
    """
    qualities: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"clean": lambda clean, noisy: clean}
    qualities |= {f"noise {share}": functools.partial(torch.lerp, weight=share) for share in NOISE_SHARES}
    qualities |= {f"blur {sigma}": lambda clean, noisy, sigma=sigma: blur(clean, sigma) for sigma in BLURS}
    errors: dict[tuple[str, str], float] = {}
    with torch.no_grad():
        for t in ERROR_TIMES:
            draws = draws_for(arguments, label, t, x)
            z, z_other = noised(x["clean"], draws), noised(x["clean"].roll(1, 0), draws)
            for name, quality in qualities.items():
                matched, unmatched = quality(x["clean"], x["synthetic"]), quality(x["target"], x["real"])
                views = {"matched": (z, matched, x["q"]), "unmatched": (z, x["s"], unmatched)}
                views["both unmatched"] = (z_other, x["s"], unmatched)
                for kind, (photo, a, b) in views.items():
                    at_t = float(error(draws, predict(unet, photo, draws, a, b)))
                    errors[kind, name] = errors.get((kind, name), 0.0) + at_t
    rows: list[Row] = []
    for (kind, name), total in errors.items():
        rise = 100 * (total / errors[kind, "clean"] - 1)
        rows.append({**label, "term": kind, "t": 0, "quantity": f"error: {name}", "value": rise})
    return rows


# --- the program


def predictors(arguments: argparse.Namespace, restorer: nn.Module) -> Iterator[tuple[str, int, str, nn.Module]]:
    """(form, training steps, set, predictor): of the runs given, by set, or trained here for all sets together."""
    for run in arguments.runs:
        for name in arguments.sets:
            folder = Path(run.format(set=name))
            steps = json.loads((folder / "run.json").read_text())["options"]["steps"]
            yield f"run {Path(run).name}", int(steps), name, run_predictor(folder)
    bank: Photos = {}
    for form in arguments.forms:
        bank = bank or photos(arguments, restorer, arguments.sets, arguments.pool, "train")
        for steps, path in train_predictor(arguments, form, bank).items():
            for name in arguments.sets:
                yield form, steps, name, DAAUNet2DConditionModel.from_pretrained(path)


def measuring_batches(arguments: argparse.Namespace, restorer: nn.Module, name: str) -> list[Photos]:
    """The real pairs of a set, restored, in batches; those of a smaller number of batches are the first of a larger."""
    bank = photos(arguments, restorer, [name], max(arguments.batches, 4) * arguments.batch, "measure")
    level = texture(bank["target"][: 4 * arguments.batch]).median()
    bank["texture"] = level.expand(len(bank["q"]), 1, 1, 1)
    return list(batches(bank, arguments.batch))


def measure(arguments: argparse.Namespace) -> None:
    """Measures one restorer batch by batch, each into a file of its own, so that any can be the last."""
    restorer = DAARestorationPipeline.from_pretrained(arguments.restorer).restorer.float().eval()
    if list(restorer.config.value_range) != [0, 1]:
        raise ConfigurationError(f"`--restorer` must work on [0, 1], got {list(restorer.config.value_range)}")
    banks = {name: measuring_batches(arguments, restorer, name) for name in arguments.sets}
    none: list[tuple[str, int, str, nn.Module | None]] = [("none", 0, name, None) for name in arguments.sets]
    for batch in range(arguments.batches):
        measure_batch(arguments, restorer, none, banks, batch)
    found = list(predictors(arguments, restorer))
    for batch in range(arguments.batches):
        measure_batch(arguments, restorer, found, banks, batch)


def measure_batch(arguments: argparse.Namespace, restorer: nn.Module, found: list, banks: dict, batch: int) -> None:
    """One batch of each predictor in `found`; without a predictor, the restorer's own error."""
    for form, steps, name, unet in found:
        part = parts_folder(arguments) / f"{form.replace(' ', '_')}-{steps}-{name}-{batch}.json"
        if part.exists():
            continue
        label: Row = {"form": form, "steps": steps, "set": name, "batch": batch}
        x, started = banks[name][batch], time.perf_counter()
        if unet is None:
            rows = restorer_error(label, x)
        else:
            unet.eval().requires_grad_(False)
            rows = alignment(arguments, restorer, unet, label, x)
            if form != "distribution":
                rows += condition_errors(arguments, unet, label, x)
        part.parent.mkdir(parents=True, exist_ok=True)
        write_text(part, json.dumps(rows))
        print(f"{form}, {steps} steps, {name}, {batch}: {time.perf_counter() - started:.0f} s", flush=True)


def parts_folder(arguments: argparse.Namespace) -> Path:
    """Where the measured batches of a restorer lie."""
    return Path(arguments.output_dir) / arguments.name / "parts"


def main() -> None:
    parser = common.parser(__doc__, "alignment.md", data=True)
    parser.add_argument("--restorer", default="daa-denoise", help="bundled checkpoint or folder")
    parser.add_argument("--name", default="plain", help="of this start, in the output folder")
    parser.add_argument("--clean", nargs="*", help="clean photos; default: bsds and highres of --data")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--runs", nargs="*", default=[], help="more predictors: folders of training runs, with {set}")
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    parser.add_argument(
        "--ages", nargs="+", type=int, default=[100, 300, 1000], help="training steps of paired predictors"
    )
    parser.add_argument(
        "--fix_steps", type=int, default=150, help="training steps of all others, from the last paired one or --start"
    )
    parser.add_argument("--start", help="training run whose predictor all others start from")
    parser.add_argument("--pool", type=int, default=480, help="patches that predictors are trained on")
    parser.add_argument("--batches", type=int, default=4, help="of each set, that are measured")
    parser.add_argument("--batch", type=int, default=8, help="patches in each")
    parser.add_argument("--patch", type=int, default=ADAPT["patch"])
    parser.add_argument("--crop", type=int, default=32, help="side of what predictors are trained on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="outputs/alignment")
    parser.add_argument("--report_only", action="store_true", help="of what is measured already")
    parser.add_argument("--plots", default=str(common.ROOT / "docs" / "adaptation"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.report_only:
        measure(arguments)
    rows = [row for part in sorted(parts_folder(arguments).glob("*.json")) for row in json.loads(part.read_text())]
    report(arguments, rows, TIMES)


if __name__ == "__main__":
    main()
