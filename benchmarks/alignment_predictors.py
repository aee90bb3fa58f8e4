"""Photos that `alignment.py` measures, synthetic and real, restored, and losses that noise predictors learn from."""

import argparse
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from adaptation_plan import OWN_PHOTOS
from torch import Tensor, nn

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.filters import gaussian_filter
from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.objectives import schedules
from daa_diffusers.objectives.losses import contrastive
from daa_diffusers.objectives.schedules import NoiseDraws, NoiseSchedule
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.sampling import TrainingPatches
from daa_diffusers.training.config import PRESETS
from daa_diffusers.training.run_state import list_checkpoints

ADAPT = PRESETS["adapt"]
DETAIL_BLUR = 1.0  # what "blur(q) - q" blurs by
# (B, 3, H, W) by name: `synthetic` and `clean`, a pair, and `s`, the restored synthetic photo; `real` and `target`, a
# pair, and `q`, the restored real photo. For measurements also `texture` (B, 1, 1, 1): pixels are textured where the
# result of `texture()` is above it, else flat.
Photos = dict[str, Tensor]


def _new_predictor() -> DAAUNet2DConditionModel:
    objective = ADAPT["objective"]
    return DAAUNet2DConditionModel.from_preset(
        objective.get("noise_predictor", "tiny"), **objective["noise_predictor_options"]
    )


def blur(x: Tensor, sigma: float = DETAIL_BLUR) -> Tensor:
    """Gaussian blur of (B, C, H, W), mirrored at the borders."""
    return gaussian_filter(x, sigma, math.ceil(3 * sigma))


# --- photos


def photos(arguments: argparse.Namespace, restorer: nn.Module, sets: list[str], count: int, stream: str) -> Photos:
    """`count` synthetic pairs, real pairs of the sets in turns, and both restored; a function of seed and `stream`."""
    data, patch, seed = Path(arguments.data), arguments.patch, arguments.seed + 1000 * (stream == "measure")
    clean = [PhotoFolder(folder) for folder in arguments.clean or [data / "clean" / k for k in ("bsds", "highres")]]
    folders = {"phone": OWN_PHOTOS / "phone_photos"}
    trained = [folders.get(name, data / "real_noise" / name) / "train" for name in sets]
    pairs = [(PhotoFolder(folder / "noisy"), PhotoFolder(folder / "clean")) for folder in trained]
    degradation = degradation_from_config(getattr(arguments, "degradation", ADAPT["degradation"]))
    scale = ADAPT["clean_scale"]
    synthetic = TrainingPatches(clean, degradation, patch=patch, length=count, seed=seed, clean_scale=scale)
    paired = TrainingPatches([], None, paired=pairs, patch=patch, length=count, seed=seed)
    samples = [(synthetic[n], paired[n]) for n in range(count)]
    found = {key: torch.stack([made[key] for made, _ in samples]) for key in ("synthetic", "clean")}
    found["real"] = torch.stack([real["synthetic"] for _, real in samples])
    found["target"] = torch.stack([real["clean"] for _, real in samples])
    with torch.no_grad():
        found["s"] = torch.cat([restorer(part) for part in found["synthetic"].split(16)])
        found["q"] = torch.cat([restorer(part) for part in found["real"].split(16)])
    return found


def texture(photo: Tensor) -> Tensor:
    """Local standard deviation (B, 1, H, W) of the brightness of (B, 3, H, W)."""
    gray = photo.mean(1, keepdim=True)
    return (blur(gray.square(), 2.0) - blur(gray, 2.0).square()).clamp_min(0).sqrt()


def batches(bank: Photos, size: int) -> Iterator[Photos]:
    """The bank in batches."""
    for start in range(0, len(bank["q"]), size):
        yield {key: value[start : start + size] for key, value in bank.items()}


# --- noise predictors


def noised(target: Tensor, draws: NoiseDraws) -> Tensor:
    """(1)"""
    return schedules.noised(target, draws.noise, draws.noise_level)


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
    zeros, ones = torch.zeros_like(x["q"]), torch.ones_like(x["q"])
    clean = error(draws, predict(unet, noised(x["clean"], draws), draws, zeros, zeros))
    return (clean + error(draws, predict(unet, noised(x["q"], draws), draws, ones, ones))) / 2


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
    folder = Path(arguments.output_dir) / arguments.name / "predictors" / form.replace(" ", "_")
    ages = arguments.ages if form == "paired" and not arguments.start else [arguments.fix_steps]
    found = {age: folder / str(age) for age in ages}
    if all(path.exists() for path in found.values()):
        return found
    torch.manual_seed(arguments.seed)
    if arguments.start:
        unet = run_predictor(Path(arguments.start))
    elif form == "paired":
        unet = _new_predictor()
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


def run_predictor(folder: Path) -> DAAUNet2DConditionModel:
    """The noise predictor of a training run of preset `adapt`, at its last checkpoint."""
    from safetensors.torch import load_file

    weights = load_file(list_checkpoints(folder / "checkpoints")[-1] / "model.safetensors")
    unet = _new_predictor()
    unet.load_state_dict({k.removeprefix("unet."): v for k, v in weights.items() if k.startswith("unet.")})
    return unet
