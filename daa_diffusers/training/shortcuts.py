"""Shortcuts of a noise predictor: ignored conditions, distinguishable slots, noise visible in the input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from ..degradations.draws import generator_for
from ..models.restorer import in_eval_mode
from ..objectives.losses import squared_error
from ..objectives.noise_space import NoiseSpaceAdaptation
from ..objectives.schedules import NoiseDraws, NoiseSchedule, noised

NOISE_LEVELS = 3  # noise levels at which the losses are measured
FOLDS = 4  # folds of the cross-validation in `slot_accuracy`
LEAST_PROBED = 2 * FOLDS  # least number of patches for it

# Thresholds of the alarms. Differences of losses are relative to the loss "as_is".
UNTRAINED = 0.95  # noise-prediction loss; a predictor that always returns 0 has 1
IGNORED = 0.01  # difference of losses without a condition
SLOTS_DIFFER = 0.05  # difference of losses with swapped conditions
SEPARABLE = 0.9  # held-out accuracy of the slot probe
MORE_SEPARABLE = 0.05  # least rise over the initial restorer's accuracy, which is high if the content differs
VISIBLE = 0.5  # ratio of noise to signal amplitude, sqrt((1 - g) / g), below which the noised photo reveals its noise


@dataclass(frozen=True)
class Shortcuts:
    """Result of `shortcut_report`.

    Attributes:
        values: mean noise-prediction losses "as_is", "swapped", "real_permuted", "synthetic_zeroed", "real_zeroed" (1
            if the prediction is always 0), and "slot_accuracy" in [0, 1].
        alarms: warnings, one sentence each, with options that help.
    """

    values: dict[str, float]
    alarms: list[str] = field(default_factory=list)


def fixed_draws(
    schedule: NoiseSchedule, shape: Sequence[int], *, seed: int = 0, levels: int = NOISE_LEVELS
) -> list[NoiseDraws]:
    """Returns deterministic draws: `levels` noise levels spread over the schedule's range, without swaps.

    Args:
        schedule: noise schedule.
        shape: shape (B, C, H, W) of the batch.
        seed: seed of the noise.
        levels: number of noise levels, and of draws.
    """
    low, high = schedule.timestep_range
    still = torch.zeros(shape[0], dtype=torch.bool)
    draws = []
    for number in range(levels):
        t = round(low + (number + 0.5) / levels * (high - low))
        noise = torch.randn(tuple(shape), generator=generator_for(seed, "health", "noise", number))
        draws.append(NoiseDraws(schedule.gammas[t].expand(shape[0]), noise, still, still))
    return draws


def slot_accuracy(restored_synthetic: torch.Tensor, restored_real: torch.Tensor) -> float:
    """Returns the held-out accuracy of a linear probe that separates restored synthetic from restored real photos.

    The accuracy is in [0, 1], and about 0.5 if the photos are not separable. Different content of clean and real photos
    raises it, too.

    The features of the probe are energies of fine, medium and coarse detail in brightness and color, at the 0.1 and 0.5
    quantiles over the cells of a patch, because a noise predictor could use them in either slot. (The predictor's own
    features are unsuitable: they must distinguish the slots, because one of the two photos matches the noised photo.)

    Args:
        restored_synthetic, restored_real: (B, C, H, W), of one shape; B at least `LEAST_PROBED`, sides at least 16.

    Raises:
        ValueError: the shapes differ, or there are too few patches.
    """
    count = len(restored_synthetic)
    if restored_real.shape != restored_synthetic.shape or count < LEAST_PROBED:
        raise ValueError(
            f"`restored_synthetic` and `restored_real` must have one shape of at least {LEAST_PROBED} patches, got "
            f"{tuple(restored_synthetic.shape)} and {tuple(restored_real.shape)}"
        )
    features = torch.stack([_detail(restored_synthetic), _detail(restored_real)])  # (2, B, F)
    labels = torch.tensor([-1.0, 1.0], dtype=features.dtype)[:, None].expand(2, count)
    correct = 0
    for held_out in torch.arange(count).chunk(FOLDS):  # contiguous, so that each fold contains every source
        used = torch.ones(count, dtype=torch.bool)
        used[held_out] = False
        train, test = features[:, used].flatten(0, 1), features[:, held_out]
        mean, deviation = train.mean(0), train.std(0) + 1e-6
        train, test = (train - mean) / deviation, (test - mean) / deviation
        # ridge regression of the labels, equivalent to linear discriminant analysis with shrinkage
        gram = train.mT @ train + 0.1 * len(train) * torch.eye(train.shape[1], dtype=train.dtype)
        direction = torch.linalg.solve(gram, train.mT @ labels[:, used].flatten())
        correct += int((test @ direction * labels[:, held_out] > 0).sum())
    return correct / (2 * count)


def _detail(images: torch.Tensor) -> torch.Tensor:
    """Returns log energies (B, F), float64 on the CPU, of three frequency bands of images (B, C, H, W)."""
    images = images.detach().double().cpu()
    brightness = images.mean(1, keepdim=True)
    features = []
    for part in (brightness, images - brightness) if images.shape[1] > 1 else (brightness,):
        finer = part
        for _ in range(3):
            coarser = F.avg_pool2d(finer, 2)
            band = finer - F.interpolate(coarser, size=finer.shape[2:], mode="nearest")
            cells = F.adaptive_avg_pool2d(band.square().mean(1, keepdim=True), 8).flatten(1)  # (B, 64)
            features += [cells.quantile(0.1, dim=1), cells.quantile(0.5, dim=1)]
            finer = coarser
    return torch.log(torch.stack(features, dim=1) + 1e-8)


@torch.no_grad()
def shortcut_report(
    adaptation: NoiseSpaceAdaptation,
    synthetic: torch.Tensor,
    clean: torch.Tensor,
    real: torch.Tensor,
    *,
    draws: Sequence[NoiseDraws],
    slots_at_start: float = 0.0,
) -> Shortcuts:
    """Measures how much the noise predictor uses each of its conditions, and whether it can distinguish them.

    The losses are those of eq. (2), without dropout, with the restored synthetic photo in the first slot:

    - If "real_zeroed" equals "as_is", the real condition is ignored, and no gradient reaches restored real photos.
    - If "synthetic_zeroed" equals "as_is", the conditions do not help at these noise levels.
    - If "swapped" differs from "as_is", the predictor distinguishes the slots.
    - "real_permuted" equals "as_is" in expectation, because real photos are unpaired; the difference shows the
      statistical error of these numbers.

    Args:
        adaptation: noise-space adaptation; its train/eval modes are not changed.
        synthetic, clean, real: patches (B, C, H, W) in the restorer's range. The losses use the first of them, as many
            as a draw has samples; the probe uses all, if there are at least `LEAST_PROBED`.
        draws: result of `fixed_draws`.
        slots_at_start: "slot_accuracy" of the initial restorer.
    """
    unet, restorer = adaptation.unet, adaptation.restorer
    count = draws[0].noise.shape[0]
    with in_eval_mode(unet), in_eval_mode(restorer):
        s, q = restorer(synthetic), restorer(real)
        losses = _losses(unet, clean[:count], s[:count], q[:count], draws)
    values = {name: float(loss.mean()) for name, loss in losses.items()}
    alarms = [*_range_alarms(adaptation.schedule), *_loss_alarms(losses)]
    if len(s) >= LEAST_PROBED:
        values["slot_accuracy"] = slot_accuracy(s, q)
        if values["slot_accuracy"] > max(SEPARABLE, slots_at_start + MORE_SEPARABLE):
            alarms.append(
                f"a linear probe separates restored real from synthetic photos with {values['slot_accuracy']:.0%} "
                "accuracy: the noise predictor can as well. Keep `residual_swap` and `channel_shuffle` on, raise "
                "`weight`, or choose a `degradation` and `clean` photos closer to the real ones"
            )
    return Shortcuts(values, alarms)


def _losses(unet: nn.Module, clean, s, q, draws: Sequence[NoiseDraws]) -> dict[str, torch.Tensor]:
    """Returns the loss of every sample (B,), averaged over the draws, for each treatment of the conditions.

    `s` and `q` are restored synthetic and real photos; all photos are (B, C, H, W).
    """
    nothing = torch.zeros_like(s)
    treatments = {
        "as_is": (s, q),
        "swapped": (q, s),
        "real_permuted": (s, q.roll(1, 0)),
        "synthetic_zeroed": (nothing, q),
        "real_zeroed": (s, nothing),
    }
    losses = {}
    for name, conditions in treatments.items():
        total = torch.zeros(len(s), dtype=torch.float64)
        for draw in draws:
            draw = draw.to(clean.device, clean.dtype)
            z = noised(clean, draw.noise, draw.noise_level)
            predicted = unet(z, draw.noise_level, conditions=conditions, swap=draw.swap).sample
            of_samples = [squared_error(p, e) for p, e in zip(predicted, draw.noise, strict=True)]
            total += torch.stack(of_samples).double().cpu() / len(draws)
        losses[name] = total
    return losses


def _range_alarms(schedule: NoiseSchedule) -> list[str]:
    """Returns an alarm in a list if the noised photo shows its noise at every noise level, else an empty list."""
    high = schedule.timestep_range[1]
    ratio = math.sqrt(float(1 / schedule.gammas[high] - 1))  # sqrt((1 - g) / g)
    if ratio >= VISIBLE:
        return []
    return [
        f"at the highest noise level the noise is only {ratio:.2f} times the photo: the noise predictor can see the "
        f"noise without its conditions. Widen `timestep_range` {schedule.timestep_range}, best to (1, "
        f"{len(schedule.gammas) - 1})"
    ]


def _loss_alarms(losses: dict[str, torch.Tensor]) -> list[str]:
    """Returns the alarms for the result of `_losses`."""
    as_is = losses["as_is"]
    base = float(as_is.mean())
    if base > UNTRAINED:
        return [
            f"the noise predictor has not learned yet: its loss is {base:.2f} (1 if it always predicts 0). Give it "
            "more `steps`, `predictor_warmup_steps`, or a higher `predictor_learning_rate`"
        ]

    def change(name: str) -> tuple[float, float]:
        """Returns the mean change of the loss by a treatment and its standard error, both relative to "as_is"."""
        difference = losses[name] - as_is
        error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
        return float(difference.mean()) / base, error / base

    def is_ignored(name: str) -> bool:  # with statistical significance
        mean, error = change(name)
        return abs(mean) + 2 * error < IGNORED

    alarms = []
    (synthetic, _), (real, _) = change("synthetic_zeroed"), change("real_zeroed")
    swapped, error = change("swapped")
    if is_ignored("synthetic_zeroed") and is_ignored("real_zeroed"):
        alarms.append(
            f"the noise predictor ignores its conditions: without either its loss changes by {synthetic:+.1%} and "
            f"{real:+.1%}. Widen `timestep_range`, or train it longer before it adapts (`predictor_warmup_steps`)"
        )
    elif is_ignored("real_zeroed"):
        alarms.append(
            f"the noise predictor ignores restored real photos: without them its loss changes by {real:+.1%}. Turn on "
            "`channel_shuffle` and `residual_swap`, or use `variant` hybrid"
        )
    if abs(swapped) > SLOTS_DIFFER and abs(swapped) > 3 * error:
        alarms.append(
            f"the noise predictor distinguishes its slots: swapped conditions change its loss by {swapped:+.1%}. "
            "Turn on `channel_shuffle`"
        )
    return alarms
