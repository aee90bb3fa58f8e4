"""Why does noise-space adaptation help or hurt? Its gradient against the supervised one, on pairs of real photos.

    python benchmarks/alignment.py --restorer daa-denoise-plain

A restorer is frozen, noise predictors are trained on what it restores, and on the pairs of `train` (never `val`) these
are measured: the alignment of each adaptation gradient with the supervised one, at the restored photo and at the
restorer's parameters, through the real branch alone; what the gradient is made of; and the noise-prediction error
against the quality of the conditions. Finished parts are kept in `--output_dir`; the report and the plots are made of
them. An hour on one core.
"""

import argparse
import functools
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.training.config import PRESETS
from daa_diffusers.training.objectives import charbonnier, contrastive
from daa_diffusers.training.schedules import NoiseDraws, NoiseSchedule

ROOT = Path(__file__).resolve().parents[1]
SETS = ("renoir", "sidd_small", "polyu")
TIMES = (20, 100, 250, 450, 700, 950)
ERROR_TIMES = (100, 450)
PARTS = ("smoothing", "back to noisy")
REGIONAL = [f"{part}{region}" for part in PARTS for region in ("", " flat", " textured")]
PROJECTED = ("eq. (4)", "hybrid", "score")
ADAPT = PRESETS["adapt"]
NOISE_SHARES = (0.25, 0.5, 1.0)
BLURS = (0.5, 1.0, 2.0)  # standard deviations in pixels
DETAIL_BLUR = 1.0  # what "blur(q) - q" blurs by
Photos = dict[str, Tensor]  # each (B, 3, H, W): synthetic, clean, s; real, q, and where measured, target (of real)
Row = dict[str, str | int | float]


def blur(x: Tensor, sigma: float = DETAIL_BLUR) -> Tensor:
    """Gaussian blur of (B, C, H, W), mirrored at the borders."""
    from torchvision.transforms.v2.functional import gaussian_blur

    size = 2 * math.ceil(3 * sigma) + 1
    return gaussian_blur(x, [size, size], [sigma, sigma])


# --- photos


def photos(arguments: argparse.Namespace, restorer: nn.Module, sets: list[str], count: int, stream: str) -> Photos:
    """`count` synthetic pairs, real pairs of the sets in turns, and both restored; a function of seed and `stream`."""
    from daa_diffusers.data.degradations import degradation_from_config
    from daa_diffusers.data.photos import PhotoFolder
    from daa_diffusers.data.sampling import TrainingPatches

    data, patch, seed = Path(arguments.data), arguments.patch, arguments.seed + 1000 * (stream == "measure")
    clean = [PhotoFolder(folder) for folder in arguments.clean or [data / "clean" / k for k in ("bsds", "highres")]]
    real = [data / "real_noise" / name / "train" for name in sets]
    pairs = [(PhotoFolder(folder / "noisy"), PhotoFolder(folder / "clean")) for folder in real]
    degradation, scale = degradation_from_config(ADAPT["degradation"]), ADAPT["clean_scale"]
    synthetic = TrainingPatches(clean, degradation, patch=patch, length=count, seed=seed, clean_scale=scale)
    paired = TrainingPatches([], None, paired=pairs, patch=patch, length=count, seed=seed)
    samples = [(synthetic[n], paired[n]) for n in range(count)]
    found = {key: torch.stack([one[key] for one, _ in samples]) for key in ("synthetic", "clean")}
    found["real"] = torch.stack([other["synthetic"] for _, other in samples])
    found["target"] = torch.stack([other["clean"] for _, other in samples])
    with torch.no_grad():
        found["s"] = torch.cat([restorer(part) for part in found["synthetic"].split(16)])
        found["q"] = torch.cat([restorer(part) for part in found["real"].split(16)])
    return found


def texture(photo: Tensor) -> Tensor:
    """Local standard deviation (B, 1, H, W) of the brightness of (B, 3, H, W)."""
    grey = photo.mean(1, keepdim=True)
    return (blur(grey.square(), 2.0) - blur(grey, 2.0).square()).clamp_min(0).sqrt()


def batches(bank: Photos, size: int) -> Iterator[Photos]:
    """The bank in batches."""
    for start in range(0, len(bank["q"]), size):
        yield {key: value[start : start + size] for key, value in bank.items()}


# --- noise predictors


def noised(target: Tensor, draws: NoiseDraws) -> Tensor:
    """(1)"""
    g = draws.noise_level[:, None, None, None]
    return g.sqrt() * target + (1 - g).sqrt() * draws.noise


def clean_estimate(z: Tensor, noise: Tensor, draws: NoiseDraws) -> Tensor:
    """(1), solved for the clean image."""
    g = draws.noise_level[:, None, None, None]
    return (z - (1 - g).sqrt() * noise) / g.sqrt()


def predict(unet: nn.Module, z: Tensor, draws: NoiseDraws, a: Tensor, b: Tensor, negative: bool = False) -> Tensor:
    """(2), or with the other swap (3)."""
    swap = draws.swap_negative if negative else draws.swap
    return unet(z, draws.noise_level, conditions=(a, b), swap=swap).sample


def error(draws: NoiseDraws, predicted: Tensor) -> Tensor:
    """Mean squared error of the predicted noise."""
    return F.mse_loss(predicted, draws.noise)


def swapped(x: Photos, q: Tensor) -> tuple[Tensor, Tensor]:
    """The negative conditions of (3)."""
    return x["synthetic"] + q - x["real"], x["real"] + x["s"] - x["synthetic"]


def paired_loss(unet: nn.Module, x: Photos, draws: NoiseDraws, generator: torch.Generator) -> Tensor:
    """(4)"""
    z = noised(x["clean"], draws)
    positive = error(draws, predict(unet, z, draws, x["s"], x["q"]))
    return contrastive(positive, error(draws, predict(unet, z, draws, *swapped(x, x["q"]), negative=True)))


def positive_loss(unet: nn.Module, x: Photos, draws: NoiseDraws, generator: torch.Generator) -> Tensor:
    """L+ alone."""
    return error(draws, predict(unet, noised(x["clean"], draws), draws, x["s"], x["q"]))


def blur_negative_loss(unet: nn.Module, x: Photos, draws: NoiseDraws, generator: torch.Generator) -> Tensor:
    """(4) with a second negative: one of the two conditions is blurred."""
    z, sigma = noised(x["clean"], draws), 0.5 + float(torch.rand((), generator=generator))
    a, b = (
        (x["s"], blur(x["q"], sigma)) if torch.rand((), generator=generator) < 0.75 else (blur(x["s"], sigma), x["q"])
    )
    blurred = error(draws, predict(unet, z, draws, a, b, negative=True))
    noisy = error(draws, predict(unet, z, draws, *swapped(x, x["q"]), negative=True))
    positive = error(draws, predict(unet, z, draws, x["s"], x["q"]))
    return (contrastive(positive, noisy) + contrastive(positive, blurred)) / 2


def degraded_loss(unet: nn.Module, x: Photos, draws: NoiseDraws, generator: torch.Generator) -> Tensor:
    """L+ where the matched condition is the target with any share of its noise, or blurred."""
    share, sigma = torch.rand(2, generator=generator).tolist()
    noisy = x["clean"] + share * (x["synthetic"] - x["clean"])
    matched = noisy if torch.rand((), generator=generator) < 0.5 else blur(x["clean"], 0.3 + 1.7 * sigma)
    return error(draws, predict(unet, noised(x["clean"], draws), draws, matched, x["q"]))


def renoised_loss(unet: nn.Module, x: Photos, draws: NoiseDraws, generator: torch.Generator) -> Tensor:
    """(4) with the same white noise, of 0 to 20/255, on every condition."""
    sigma = 20 / 255 * float(torch.rand((), generator=generator))
    extra = sigma * torch.randn(x["q"].shape, generator=generator)
    a, b = swapped(x, x["q"])
    z = noised(x["clean"], draws)
    positive = error(draws, predict(unet, z, draws, x["s"] + extra, x["q"] + extra))
    return contrastive(positive, error(draws, predict(unet, z, draws, a + extra, b + extra, negative=True)))


def distribution_loss(unet: nn.Module, x: Photos, draws: NoiseDraws, generator: torch.Generator) -> Tensor:
    """No restored conditions: one denoiser of clean photos (conditions 0) and of restored real ones (conditions 1)."""
    zero, one = torch.zeros_like(x["q"]), torch.ones_like(x["q"])
    clean = error(draws, predict(unet, noised(x["clean"], draws), draws, zero, zero))
    return (clean + error(draws, predict(unet, noised(x["q"], draws), draws, one, one))) / 2


FORMS: dict[str, Callable[[nn.Module, Photos, NoiseDraws, torch.Generator], Tensor]] = {
    "paired": paired_loss,
    "positive": positive_loss,
    "blur negative": blur_negative_loss,
    "degraded": degraded_loss,
    "renoised": renoised_loss,
    "distribution": distribution_loss,
}


def train_predictor(arguments: argparse.Namespace, form: str, bank: Photos) -> dict[int, Path]:
    """Trains the predictor of preset `adapt` beside the frozen restorer; returns its checkpoints by steps.

    "paired" starts anew, the other forms from the last "paired" one; all go on from `--start` where that is given.
    """
    from daa_diffusers.data.sampling import generator_for

    folder = Path(arguments.output_dir) / arguments.name / "predictors" / form.replace(" ", "_")
    ages = arguments.ages if form == "paired" and not arguments.start else [arguments.fix_steps]
    found = {age: folder / str(age) for age in ages}
    if all(path.exists() for path in found.values()):
        return found
    torch.manual_seed(arguments.seed)
    if arguments.start:
        unet = run_predictor(Path(arguments.start))
    elif form == "paired":
        unet = DAAUNet2DConditionModel.from_preset(ADAPT["noise_predictor"], **ADAPT["noise_predictor_options"])
    else:
        unet = DAAUNet2DConditionModel.from_pretrained(folder.parent / "paired" / str(max(arguments.ages)))
    unet.train()
    optimizer = torch.optim.Adam(unet.parameters(), lr=ADAPT["predictor_learning_rate"])
    schedule, started = NoiseSchedule(), time.perf_counter()
    for step in range(1, max(ages) + 1):
        generator = generator_for(arguments.seed, "predictor", step)
        chosen = torch.randint(len(bank["q"]), (ADAPT["batch_size"],), generator=generator)
        top, left = torch.randint(arguments.patch - arguments.crop + 1, (2,), generator=generator).tolist()
        square = (..., slice(top, top + arguments.crop), slice(left, left + arguments.crop))
        x = {key: value[chosen][square] for key, value in bank.items()}
        loss = FORMS[form](unet, x, schedule.draw(x["q"].shape, generator=generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in found:
            partial = folder / f".{step}"
            unet.save_pretrained(partial)
            shutil.rmtree(found[step], ignore_errors=True)
            os.replace(partial, found[step])
            print(f"{form}: {step} steps, loss {loss.item():.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return found


# --- gradients


def gradients(unet: nn.Module, form: str, x: Photos, draws: NoiseDraws) -> Photos:
    """dL/dq (B, 3, H, W) of each term, by name; the descent direction is its negative."""
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
    is_open = float(positive - negative + 0.1 > 0)
    found["eq. (4)"] = (found["L+"] + is_open * (found["L+"] + found["-L-"])) / 2
    found["hybrid L1"] = at_q(F.l1_loss(hybrid, draws.noise))
    if form == "blur negative":
        found["-L(blurred)"] = -at_q(error(draws, predict(unet, z, draws, s, blur(q), negative=True)))
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


def parts(gradient: Tensor, x: Photos) -> dict[str, Tensor]:
    """What a descent direction is made of: (B,) numbers by name, for all, flat and textured pixels.

    "rest" is the share of its energy that is neither along blur(q) - q nor along x_r - q; nan: no pixel of the kind.
    """
    q, direction = x["q"], -gradient
    smoothing, back = blur(q) - q, x["real"] - q
    target = x["target"]
    textured = (texture(target) > x["texture"]).float()
    found = {}
    for region, mask in (("", torch.ones_like(textured)), (" flat", 1 - textured), (" textured", textured)):
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

    def report(term: str, t: int, quantity: str, value: float | Tensor) -> None:
        rows.append({**label, "term": term, "t": t, "quantity": quantity, "value": float(value)})

    sums: Photos = {}
    for t in TIMES:
        found = gradients(unet, str(label["form"]), x, draws_for(arguments, label, t, x))
        for name, gradient in found.items():
            sums[name] = sums.get(name, torch.zeros_like(q)) + gradient / len(TIMES)
            report(name, t, "photo: cos clean", cosines(-gradient, x["target"] - x["q"]).mean())
            report(name, t, "rate", rate(gradient) / rate(supervised))
    smoothing = blur(x["q"]) - x["q"]
    sums |= {f"{name}, projected": project_out(sums[name], smoothing) for name in PROJECTED if name in sums}
    for name, gradient in {"supervised": supervised, "smoothing": -smoothing, **sums}.items():
        for part, value in parts(gradient, x).items():
            report(name, 0, f"photo: {part}", value.nanmean())
        report(name, 0, "rate", rate(gradient) / rate(supervised))
        flat = torch.cat([g.flatten() for g in at_parameters(gradient)])
        report(name, 0, "parameters: cos", F.cosine_similarity(flat, right_flat, dim=0))
    return rows


def draws_for(arguments: argparse.Namespace, label: Row, t: int, x: Photos) -> NoiseDraws:
    """The draws of a batch at one noise level, the same for every predictor."""
    from daa_diffusers.data.sampling import generator_for

    generator = generator_for(arguments.seed, "draws", str(label["set"]), t, int(label["batch"]))
    return NoiseSchedule(timestep_range=(t, t)).draw(x["q"].shape, generator=generator)


def restorer_error(label: Row, x: Photos) -> list[Row]:
    """What the restorer does wrong: the parts of clean - q, and the squared error when q is made a little smoother."""
    rows: list[Row] = []

    def report(term: str, quantity: str, value: float | Tensor) -> None:
        rows.append({**label, "term": term, "t": 0, "quantity": quantity, "value": float(value)})

    for part, value in parts(x["q"] - x["target"], x).items():
        report("clean - q", f"photo: {part}", value.nanmean())
    textured = (texture(x["target"]) > x["texture"]).float()
    for region, mask in (("all", torch.ones_like(textured)), ("flat", 1 - textured), ("textured", textured)):
        before, after = (
            ((photo - x["target"]) * mask).square().sum() for photo in (x["q"], torch.lerp(x["q"], blur(x["q"]), 0.25))
        )
        report(region, "smoother", 100 * (after / before - 1))
    return rows


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
                    one = float(error(draws, predict(unet, photo, draws, a, b)))
                    errors[kind, name] = errors.get((kind, name), 0.0) + one
    return [
        {**label, "term": kind, "t": 0, "quantity": f"error: {name}", "value": 100 * (one / errors[kind, "clean"] - 1)}
        for (kind, name), one in errors.items()
    ]


# --- the program


def run_predictor(folder: Path) -> DAAUNet2DConditionModel:
    """The noise predictor of a training run of preset `adapt`, at its last checkpoint."""
    from safetensors.torch import load_file

    from daa_diffusers.training.checkpoint import list_checkpoints

    weights = load_file(list_checkpoints(folder / "checkpoints")[-1] / "model.safetensors")
    unet = DAAUNet2DConditionModel.from_preset(ADAPT["noise_predictor"], **ADAPT["noise_predictor_options"])
    unet.load_state_dict({k.removeprefix("unet."): v for k, v in weights.items() if k.startswith("unet.")})
    return unet


def predictors(arguments: argparse.Namespace, restorer: nn.Module) -> Iterator[tuple[str, int, str, nn.Module]]:
    """(form, steps, set, predictor): of the runs given, by set, or trained here for all sets together."""
    for run in arguments.runs:
        for name in arguments.sets:
            steps = json.loads((Path(run.format(set=name)) / "run.json").read_text())["options"]["steps"]
            yield f"run {Path(run).name}", int(steps), name, run_predictor(Path(run.format(set=name)))
    bank: Photos = {}
    for form in arguments.forms:
        bank = bank or photos(arguments, restorer, arguments.sets, arguments.pool, "train")
        for age, path in train_predictor(arguments, form, bank).items():
            for name in arguments.sets:
                yield form, age, name, DAAUNet2DConditionModel.from_pretrained(path)


def measuring_batches(arguments: argparse.Namespace, restorer: nn.Module, name: str) -> list[Photos]:
    """The real pairs of a set, restored, in batches; those of a smaller number of batches are the first of a larger."""
    bank = photos(arguments, restorer, [name], max(arguments.batches, 4) * arguments.batch, "measure")
    level = texture(bank["target"][: 4 * arguments.batch]).median()
    bank["texture"] = level.expand(len(bank["q"]), 1, 1, 1)
    return list(batches(bank, arguments.batch))


def measure(arguments: argparse.Namespace) -> None:
    """Measures one restorer batch by batch, each into a file of its own, so that any can be the last."""
    from daa_diffusers import DAARestorationPipeline

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
    for form, age, name, unet in found:
        part = parts_folder(arguments) / f"{form.replace(' ', '_')}-{age}-{name}-{batch}.json"
        if part.exists():
            continue
        label: Row = {"form": form, "steps": age, "set": name, "batch": batch}
        x, started = banks[name][batch], time.perf_counter()
        if unet is None:
            rows = restorer_error(label, x)
        else:
            unet.eval().requires_grad_(False)
            rows = alignment(arguments, restorer, unet, label, x)
            if form != "distribution":
                rows += condition_errors(arguments, unet, label, x)
        write(part, json.dumps(rows))
        print(f"{form}, {age} steps, {name}, {batch}: {time.perf_counter() - started:.0f} s", flush=True)


def parts_folder(arguments: argparse.Namespace) -> Path:
    """Where the measured batches of a restorer lie."""
    return Path(arguments.output_dir) / arguments.name / "parts"


def write(path: Path, text: str) -> None:
    """Beside it first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


# --- the report


def averages(rows: list[Row]) -> list[Row]:
    """Mean over the batches, with its standard error (nan for a single batch)."""
    grouped: dict[tuple, list[float]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("form", "steps", "set", "term", "t", "quantity"))
        if not math.isnan(float(row["value"])):  # no pixel of the kind in that batch
            grouped.setdefault(key, []).append(float(row["value"]))
    names = ("form", "steps", "set", "term", "t", "quantity")
    found = []
    for key, values in grouped.items():
        all_values = torch.tensor(values, dtype=torch.float64)
        spread = float(all_values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        found.append(dict(zip(names, key, strict=True)) | {"value": float(all_values.mean()), "error": spread})
        found[-1]["batches"] = len(values)
    return found


def pivot(found: list[Row], quantity: str, columns: str = "set", **only: str | int) -> str:
    """A Markdown table of one quantity: a row for each predictor and term, `mean +- standard error`."""
    from daa_diffusers.evaluation.statistics import markdown_table

    lines: dict[tuple, Row] = {}
    for row in found:
        if row["quantity"] == quantity and all(row[name] == value for name, value in only.items()):
            names = [name for name in ("form", "steps", "set", "term", "t") if name not in (columns, *only)]
            line = lines.setdefault(tuple(row[name] for name in names), {name: row[name] for name in names})
            spread = "(one)" if math.isnan(float(row["error"])) else f"± {row['error']:.3f}"
            line[str(row[columns])] = f"{row['value']:+.3f} {spread}"
    every = list(dict.fromkeys(name for line in lines.values() for name in line))
    return markdown_table([{name: str(line.get(name, "")) for name in every} for line in lines.values()], every)


def report(arguments: argparse.Namespace, rows: list[Row]) -> str:
    """The Markdown report; the CSV and the plots are written beside it and into `--plots`."""
    found = averages(rows)
    target, columns = Path(arguments.report), list(found[0])
    lines = [
        ",".join(f"{row[c]:.5g}" if isinstance(row[c], float) else f'"{row[c]}"' for c in columns) for row in found
    ]
    write(target.with_suffix(".csv"), "\n".join([",".join(columns), *lines, ""]))
    counts = ", ".join(f"{form} {n}" for form, n in sorted({(str(row["form"]), row["batches"]) for row in found}))
    sections = ["# Alignment of adaptation gradients with the supervised one", ""]
    sections += [f"`python benchmarks/alignment.py {' '.join(sys.argv[1:])}`", ""]
    sections += [
        f"Pairs of `train`, from `{arguments.restorer}`. Mean ± standard error, or (one), over batches of",
        f"{arguments.batch} patches of {arguments.patch} px ({counts}).",
        f"Without t: the mean of the gradients at t = {', '.join(map(str, TIMES))}.",
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
    errors = [{**row, "condition": str(row["quantity"])[7:], "quantity": "error"} for row in found]
    errors = [row for row, one in zip(errors, found, strict=True) if str(one["quantity"]).startswith("error")]
    sections += ["## Noise-prediction error against that with the clean photo as condition, per cent", ""]
    sections += [pivot(errors, "error", "condition", t=0), ""]
    text = "\n".join(sections)
    write(target, text)
    plot(found, Path(arguments.plots))
    return text


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
            for axis, one in zip(line, sets, strict=True):
                draw(axis, [r for r in found if (r["form"], r["steps"], r["set"]) == (form, steps, one)])
                axis.set_title(f"{one} ({form}, {steps} steps)", fontsize=9)
                axis.axhline(0, color="black", linewidth=0.6)
            line[0].set_ylabel(label, fontsize=8)
        axes[0][-1].legend(fontsize=6)
        figure.tight_layout()
        temporary = folder / f".{name}.png"
        figure.savefig(temporary, dpi=80)
        plt.close(figure)
        os.replace(temporary, folder / f"{name}.png")

    def curve(axis, rows: list[Row], name: str, positions: list, **style) -> None:
        values, spreads = ([float(row[key]) for row in rows] for key in ("value", "error"))
        spreads = [0.0 if math.isnan(spread) else spread for spread in spreads]
        axis.errorbar(positions, values, spreads, label=name, capsize=2, linewidth=1.2, **style)

    def by_time(axis, rows: list[Row]) -> None:
        for term in dict.fromkeys(row["term"] for row in rows if row["quantity"] == "rate" and row["t"]):
            one = [row for row in rows if row["quantity"] == "rate" and row["t"] and row["term"] == term]
            curve(axis, one, str(term), [row["t"] for row in one], marker="o", markersize=3)
        axis.set_xlabel("t")

    def by_part(axis, rows: list[Row]) -> None:
        terms = [row["term"] for row in rows if row["quantity"] == "photo: cos clean" and not row["t"]]
        for offset, part in enumerate([f"{a} {b}" for a in ("clean", *PARTS) for b in ("flat", "textured")]):
            one = [row for row in rows if row["quantity"] == f"photo: cos {part}"]
            curve(axis, one, part, [n + offset / 8 for n in range(len(one))], marker="os"[offset % 2], linestyle="none",
                  markersize=4, color=f"C{offset // 2}")  # fmt: skip
        axis.set_xticks(range(len(terms)), terms, rotation=60, ha="right", fontsize=7)

    def by_condition(axis, rows: list[Row]) -> None:
        one = [row for row in rows if str(row["quantity"]).startswith("error")]
        for color, term in enumerate(dict.fromkeys(row["term"] for row in one)):
            for kind, style in (("noise", "-"), ("blur", "--")):
                some = [row for row in one if row["term"] == term and kind in str(row["quantity"])]
                places = [float(str(row["quantity"]).split()[-1]) for row in some]
                curve(
                    axis, some, f"{term}: {kind}", places, linestyle=style, color=f"C{color}", marker="o", markersize=3
                )
        axis.set_xlabel("share of the real noise, or blur in pixels")

    panels("by_noise_level", "rate (1: supervised)", by_time, forms[:1])
    panels("parts", "cosine of the descent direction", by_part, forms[:1])
    panels("conditions", "error against clean condition, %", by_condition, forms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restorer", default="daa-denoise-plain", help="bundled checkpoint or folder")
    parser.add_argument("--name", default="plain", help="of this start, in the output folder")
    parser.add_argument("--data", default=os.environ.get("DAA_DATA", str(ROOT / ".." / "shared" / "data")))
    parser.add_argument("--clean", nargs="*", help="clean photos; default: bsds and highres of --data")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--runs", nargs="*", default=[], help="training runs to take predictors of: folders with {set}")
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--ages", nargs="+", type=int, default=[100, 300, 1000], help="steps of the predictor")
    parser.add_argument(
        "--fix_steps", type=int, default=150, help="steps of every other predictor, from the last paired one"
    )
    parser.add_argument("--start", help="a training run: all predictors go on from its, for --fix_steps")
    parser.add_argument("--pool", type=int, default=480, help="patches that predictors are trained on")
    parser.add_argument("--batches", type=int, default=4, help="of each set, that are measured")
    parser.add_argument("--batch", type=int, default=8, help="patches in each")
    parser.add_argument("--patch", type=int, default=ADAPT["patch"])
    parser.add_argument("--crop", type=int, default=32, help="side of what predictors are trained on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="outputs/alignment")
    parser.add_argument("--report_only", action="store_true", help="of what is measured already")
    parser.add_argument("--report", default=str(ROOT / "benchmarks" / "results" / "alignment.md"))
    parser.add_argument("--plots", default=str(ROOT / "docs" / "adaptation"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.report_only:
        measure(arguments)
    rows = [row for part in sorted(parts_folder(arguments).glob("*.json")) for row in json.loads(part.read_text())]
    print(report(arguments, rows))


if __name__ == "__main__":
    main()
