"""Health of a run, without labels: does the noise predictor take a shortcut, and do restored real photos look right?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..degradations.draws import generator_for
from ..errors import ConfigurationError
from ..evaluation import label_free
from ..models.restorer import RestorerContract, in_eval_mode
from ..objectives.losses import noise_prediction
from ..objectives.noise_space import NoiseSpaceAdaptation
from ..objectives.schedules import NoiseDraws, NoiseSchedule
from ..sources.sampling import TrainingPatches
from . import setup
from .config import TrainingConfig

FEW_PHOTOS = 20
NOISE_SIDE = 256  # of the parts of real photos from which their noise is estimated: it takes some flat ones
PHOTO_SIDE = 128  # of what is restored of them
PHOTOS = 12  # for the statistics
LOSS_PATCHES = 8
PROBE_PATCHES = 32  # for the slot probe
NOISE_LEVELS = 3
NOISE_DRAWS = 1

# When alarms ring. Differences of losses are relative to the loss as it is.
UNTAUGHT = 0.95  # of the loss of a predictor that always says 0
IGNORED = 0.01
SLOTS_DIFFER = 0.05
SEPARABLE = 0.9  # held-out accuracy of the slot probe
VISIBLE = 0.5  # noise over signal amplitude, sqrt((1 - g) / g), below which the noised photo tells all by itself


@dataclass(frozen=True)
class Shortcuts:
    """What `shortcut_report` saw.

    Attributes:
        values: mean noise-prediction losses "as_is", "swapped", "real_permuted", "synthetic_zeroed", "real_zeroed" (1
            is that of always predicting 0), and "slot_accuracy" in [0, 1].
        alarms: a sentence each, with the option that helps.
    """

    values: dict[str, float]
    alarms: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class HealthReport:
    """One look at a run.

    Attributes:
        values: for the log, under `health/`: `loss_*` and `slot_accuracy` of `Shortcuts`; means over fixed real
            patches of `residual_whiteness`, `signal_correlation`, `colour_drift` (1/255); `clean_fidelity` (dB, at
            most 100); `estimated_gain` (dB); `score`.
        alarms: a sentence each.
        score: `label_free.label_free_score`; higher is better. Comparable within one run only.
    """

    values: dict[str, float]
    alarms: list[str]
    score: float


def few_photos_warning(n_real: int) -> str | None:
    """A sentence where `n_real` real photos are few to adapt to, else None."""
    if n_real >= FEW_PHOTOS:
        return None
    return (
        f"only {n_real} real photos: below {FEW_PHOTOS}, adaptation fits these rather than the camera. Add photos to "
        "`real`, or keep `steps` and `weight` low"
    )


def fixed_draws(
    schedule: NoiseSchedule, shape: Sequence[int], *, seed: int = 0, levels: int = NOISE_LEVELS
) -> list[NoiseDraws]:
    """The same draws every time: `levels` noise levels spread over the schedule's range, noise by `seed`, no swaps.

    Args:
        shape: (B, C, H, W) of the batch.
    """
    low, high = schedule.timestep_range
    still = torch.zeros(shape[0], dtype=torch.bool)
    draws = []
    for number in range(levels):
        t = round(low + (number + 0.5) / levels * (high - low))
        noise = torch.randn(tuple(shape), generator=generator_for(seed, "health", "noise", number))
        draws.append(NoiseDraws(schedule.gammas[t].expand(shape[0]), noise, still, still))
    return draws


def slot_accuracy(restored_synthetic: torch.Tensor, restored_real: torch.Tensor, *, folds: int = 4) -> float:
    """Held-out accuracy, in [0, 1], of a linear probe that tells restored synthetic from restored real photos.

    It sees what a noise predictor could go by whatever its slots: energy of fine, medium and coarse detail, in
    brightness and in colour, in the flat tenth and the middle of every patch; not colours or content. (Features of the
    predictor itself would not do: they must tell the slots apart, because one of the two matches the noised photo.)
    About 0.5 where nothing tells them apart. Clean and real photos that show other things raise it too.

    Args:
        restored_synthetic, restored_real: (B, C, H, W), of one shape; B at least twice `folds`, sides at least 16.
        folds: of the cross-validation, contiguous, so that each holds every source.

    Raises:
        ValueError: where there are too few patches.
    """
    count = len(restored_synthetic)
    if restored_real.shape != restored_synthetic.shape or count < 2 * folds:
        raise ValueError(
            f"`restored_synthetic` and `restored_real` must have one shape of at least {2 * folds} patches, got "
            f"{tuple(restored_synthetic.shape)} and {tuple(restored_real.shape)}"
        )
    features = torch.stack([_detail(restored_synthetic), _detail(restored_real)])  # (2, B, F)
    labels = torch.tensor([-1.0, 1.0], dtype=features.dtype)[:, None].expand(2, count)
    right = 0
    for held_out in torch.arange(count).chunk(folds):
        kept = torch.ones(count, dtype=torch.bool)
        kept[held_out] = False
        train, test = features[:, kept].flatten(0, 1), features[:, held_out]
        mean, deviation = train.mean(0), train.std(0) + 1e-6
        train, test = (train - mean) / deviation, (test - mean) / deviation
        # ridge regression of the labels: linear discriminant analysis, shrunk
        gram = train.mT @ train + 0.1 * len(train) * torch.eye(train.shape[1], dtype=train.dtype)
        direction = torch.linalg.solve(gram, train.mT @ labels[:, kept].flatten())
        right += int((test @ direction * labels[:, held_out] > 0).sum())
    return right / (2 * count)


def _detail(images: torch.Tensor) -> torch.Tensor:
    """Log energies (B, F), float64 on the CPU, of bands of detail in (B, C, H, W)."""
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
) -> Shortcuts:
    """How much the noise predictor goes by each of its conditions, and whether it could tell them apart.

    Losses are those of eq. (2), with the restored synthetic photo in the first slot, dropout off:

    - "real_zeroed" equal to "as_is": the real condition is ignored, and no gradient reaches restored real photos;
    - "synthetic_zeroed" equal to "as_is": the conditions do not help at these noise levels;
    - "swapped" unlike "as_is": the predictor knows the slots;
    - "real_permuted" is "as_is" in expectation, because real photos are unpaired: how far it is off shows what chance
      does to these numbers.

    Args:
        adaptation: its modes are left as they are.
        synthetic, clean, real: (B, C, H, W) in the restorer's range. The losses use the first patches, as many as the
            draws hold; the probe (where there are at least 8) all.
        draws: of `fixed_draws`.
    """
    unet, restorer = adaptation.unet, adaptation.restorer
    count = draws[0].noise.shape[0]
    with in_eval_mode(unet), in_eval_mode(restorer):
        s, q = restorer(synthetic), restorer(real)
        losses = _losses(unet, clean[:count], s[:count], q[:count], draws)
    values = {name: float(loss.mean()) for name, loss in losses.items()}
    alarms = [*_range_alarms(adaptation.schedule), *_loss_alarms(losses)]
    if len(s) >= 8:
        values["slot_accuracy"] = slot_accuracy(s, q)
        if values["slot_accuracy"] > SEPARABLE:
            alarms.append(
                f"a linear probe tells restored real photos from synthetic ones in {values['slot_accuracy']:.0%}: the "
                "noise predictor can as well. Keep `residual_swap` and `channel_shuffle` on, raise `weight`, or choose "
                "a `degradation` and `clean` photos closer to the real ones"
            )
    return Shortcuts(values, alarms)


def _losses(unet: nn.Module, clean, s, q, draws: Sequence[NoiseDraws]) -> dict[str, torch.Tensor]:
    """Loss of every sample (B,), averaged over the draws, by treatment of the conditions."""
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
            noised = NoiseSpaceAdaptation._noised(clean, draw)
            predicted = unet(noised, draw.noise_level, conditions=conditions, swap=draw.swap).sample
            each = [noise_prediction(e, p) for e, p in zip(draw.noise, predicted, strict=True)]
            total += torch.stack(each).double().cpu() / len(draws)
        losses[name] = total
    return losses


def _range_alarms(schedule: NoiseSchedule) -> list[str]:
    high = schedule.timestep_range[1]
    ratio = math.sqrt(float(1 / schedule.gammas[high] - 1))
    if ratio >= VISIBLE:
        return []
    return [
        f"at the highest noise level the noise is only {ratio:.2f} times the photo: the noised photo tells the noise "
        f"predictor what the conditions should. Widen `timestep_range` {schedule.timestep_range}, best to (1, "
        f"{len(schedule.gammas) - 1})"
    ]


def _loss_alarms(losses: dict[str, torch.Tensor]) -> list[str]:
    as_is = losses["as_is"]
    base = float(as_is.mean())
    if base > UNTAUGHT:
        return [
            f"the noise predictor has not learnt yet: its loss is {base:.2f}, and 1 without looking. Give it more "
            "`steps`, `predictor_warmup_steps`, or a higher `predictor_learning_rate`"
        ]

    def change(name: str) -> tuple[float, float]:
        difference = losses[name] - as_is
        error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
        return float(difference.mean()) / base, error / base

    alarms = []
    synthetic, real, (swapped, error) = change("synthetic_zeroed")[0], change("real_zeroed")[0], change("swapped")
    if abs(synthetic) < IGNORED and abs(real) < IGNORED:
        alarms.append(
            f"the noise predictor ignores its conditions: without either its loss changes by {synthetic:+.1%} and "
            f"{real:+.1%}. Widen `timestep_range`, or train it longer before it adapts (`predictor_warmup_steps`)"
        )
    elif abs(real) < IGNORED:
        alarms.append(
            f"the noise predictor ignores restored real photos: without them its loss changes by {real:+.1%}. Turn on "
            "`channel_shuffle` and `residual_swap`, or use `variant` hybrid"
        )
    if abs(swapped) > SLOTS_DIFFER and abs(swapped) > 3 * error:
        alarms.append(
            f"the noise predictor knows its slots: with the conditions swapped its loss changes by {swapped:+.1%}. "
            "Turn on `channel_shuffle`"
        )
    return alarms


def _stacked(dataset: TrainingPatches, count: int) -> dict[str, torch.Tensor]:
    samples = [dataset[n] for n in range(count)]
    return {name: torch.stack([torch.as_tensor(s[name]) for s in samples]) for name in ("synthetic", "clean", "real")}


def _count(source) -> int:
    try:
        return len(source)
    except TypeError:  # a stream, which is not known to be short
        return FEW_PHOTOS


class Health:
    """Looks at a run through fixed patches of its own photos, which are functions of the seed.

    Args:
        clean, real: photos (B, C, S, S) in [0, 1], on the CPU.
        side: of their top left that is restored; the noise of real ones is estimated from the whole.
        patches: "synthetic", "clean" and "real" patches (N, C, P, P), in [0, 1], on which the noise predictor is tried.
        n_real: number of real photos of the run.
        seed: of the draws.
    """

    def __init__(
        self,
        clean: torch.Tensor,
        real: torch.Tensor,
        patches: Mapping[str, torch.Tensor],
        *,
        side: int,
        n_real: int,
        seed: int = 0,
    ):
        self.patches, self.n_real, self.seed = patches, n_real, seed
        self.clean, self.real = clean[..., :side, :side], real[..., :side, :side]
        self.noise = self._noise(real)  # (K, B, C, side, side)

    @classmethod
    def from_config(
        cls, config: TrainingConfig, channels: int = 3, sources: setup.Sources | None = None
    ) -> "Health | None":
        """From the folders of a run; None for an objective that reads no real photos.

        Args:
            channels: that the restorer takes.
            sources: of the run, where they are open already.

        Raises:
            ConfigurationError: on folders without usable photos.
        """
        if not (config.reads("real") and config.real):
            return None
        seed = generator_for(config.seed, "health").initial_seed()

        probe = replace(config, seed=seed)
        dataset = setup.build_dataset(probe, channels, PROBE_PATCHES, check=False, sources=sources)
        patches = _stacked(dataset, PROBE_PATCHES)
        dataset.patch = max(NOISE_SIDE, config.patch)
        photos = _stacked(dataset, PHOTOS)
        side = config.patch * max(1, PHOTO_SIDE // config.patch)
        n_real = sum(_count(source) for source in dataset.real or ())
        return cls(photos["clean"], photos["real"], patches, side=side, n_real=n_real, seed=seed)

    def _noise(self, real: torch.Tensor) -> torch.Tensor:
        generator = generator_for(self.seed, "health", "photo noise")
        noises = [label_free.Noise.of(photo) for photo in real]
        return torch.stack(
            [
                torch.stack([noise.sample(photo, generator) for noise, photo in zip(noises, self.real, strict=True)])
                for _ in range(NOISE_DRAWS)
            ]
        )

    def run(self, restorer: nn.Module, adaptation: NoiseSpaceAdaptation | None = None) -> HealthReport:
        """Looks at `restorer`, and at the noise predictor of `adaptation` where it is given.

        Modes and weights are left as they are, and no global random state is read or written. `restorer` may hold
        averaged weights; the noise predictor is then asked about what `adaptation.restorer` restores.

        Raises:
            ConfigurationError: a restorer that takes other channels than the patches have.
        """
        contract = RestorerContract.of(restorer)
        if contract.channels != self.real.shape[1]:
            raise ConfigurationError(
                f"`restorer` must take {self.real.shape[1]} channels as the photos of this run have, got "
                f"{contract.channels}"
            )
        like = next(restorer.parameters())

        def to_range(images: torch.Tensor) -> torch.Tensor:
            return contract.to_range(images.to(like.device, like.dtype))

        def restore(images: torch.Tensor) -> torch.Tensor:  # [0, 1] to [0, 1]
            return torch.cat([contract.from_range(restorer(to_range(part))) for part in images.split(4)])

        with in_eval_mode(restorer):
            values, score = self._look(restore, like)
        alarms = []
        if adaptation is not None:
            images = {name: to_range(patches) for name, patches in self.patches.items()}
            shape = (min(LOSS_PATCHES, len(images["real"])), *images["real"].shape[1:])
            draws = fixed_draws(adaptation.schedule, shape, seed=self.seed)
            shortcuts = shortcut_report(adaptation, **images, draws=draws)
            for name, value in shortcuts.values.items():
                values[name if name == "slot_accuracy" else f"loss_{name}"] = value
            alarms = shortcuts.alarms
        warning = few_photos_warning(self.n_real)
        return HealthReport(values, alarms + ([warning] if warning else []), score)

    @torch.no_grad()
    def _look(self, restore, like: torch.Tensor) -> tuple[dict[str, float], float]:
        real, clean = (images.to(like.device, like.dtype) for images in (self.real, self.clean))
        restored = restore(real)
        values = {
            "residual_whiteness": float(label_free.residual_whiteness(real, restored).mean()),
            "signal_correlation": float(label_free.residual_signal_correlation(real, restored).mean()),
            "colour_drift": float(label_free.colour_drift(real, restored).mean()),
            "clean_fidelity": float(label_free.clean_fidelity(restore, clean).clamp(max=100).mean()),
            "estimated_gain": float(label_free.estimated_gain(restore, real, self.noise.to(real))),
        }
        values["score"] = label_free.label_free_score(values["estimated_gain"], values["signal_correlation"])
        return values, values["score"]
