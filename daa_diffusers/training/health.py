"""Health checks of a run, without ground truth: statistics of restored real photos, and shortcuts.

A shortcut lets the noise predictor distinguish its two conditions (slots), or ignore them; see `shortcuts`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ..degradations.draws import generator_for
from ..degradations.fitting.suitability import signs_of
from ..errors import ConfigurationError
from ..evaluation import label_free
from ..models.restorer import RestorerContract, in_eval_mode, restore_photos
from ..objectives.noise_space import NoiseSpaceAdaptation
from ..sources.sampling import TrainingPatches
from . import setup
from .config import TrainingConfig
from .shortcuts import LEAST_PROBED, fixed_draws, shortcut_report, slot_accuracy

FEW_PHOTOS = 20  # a run with fewer real photos gets a warning
# Patches of real photos for the statistics, sides in pixels. Noise is estimated from the whole patch, since a smaller
# one may have no flat part; the top left part is restored, its side rounded down to a multiple of `patch`.
PHOTOS, NOISE_SIDE, PHOTO_SIDE = 12, 256, 128
LOSS_PATCHES = 8  # number of patches for the noise-prediction losses
PROBE_PATCHES = 32  # number of patches for the linear probe of `slot_accuracy`


@dataclass(frozen=True)
class HealthReport:
    """Result of one health check.

    Attributes:
        values: entries of the log under `health/`. `loss_*` and `slot_accuracy` are the values of `Shortcuts`.
            `residual_whiteness`, `signal_correlation` and `colour_drift` (1/255) are means over fixed real patches,
            `clean_fidelity` (dB, at most 100) over clean ones. `estimated_gain` (dB) is the mean over the patches whose
            noise can be measured; absent if there are none. `score` is the attribute below.
        alarms: warnings, one sentence each.
        score: `label_free.label_free_score`, with a gain of 0 if `estimated_gain` is absent; higher is better. Only
            comparable within one run.
    """

    values: dict[str, float]
    alarms: list[str]
    score: float


def few_photos_warning(n_real: int) -> str | None:
    """Returns a warning if `n_real` real photos are too few to adapt to, else None."""
    if n_real >= FEW_PHOTOS:
        return None
    return (
        f"only {n_real} real photos: below {FEW_PHOTOS}, adaptation fits these rather than the camera. Add photos to "
        "`real`, or keep `steps` low"
    )


def _stacked(dataset: TrainingPatches, count: int) -> dict[str, torch.Tensor]:
    """Returns the photos of the first `count` samples, each (count, C, H, W)."""
    samples = [dataset[n] for n in range(count)]
    return {name: torch.stack([torch.as_tensor(s[name]) for s in samples]) for name in ("synthetic", "clean", "real")}


class Health:
    """Health checks of a run on fixed patches of its own photos; the choice of patches is a function of the seed.

    Args:
        clean, real: photos (B, C, S, S) in [0, 1], on the CPU.
        side: side in pixels of the top left part of every photo that is restored; noise is estimated from whole real
            photos.
        patches: "synthetic", "clean" and "real" patches (N, C, P, P), in [0, 1], on which the noise predictor is
            tested.
        n_real: number of real photos of the run.
        seed: seed of all random draws.
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
        # the gain is estimated only for these: elsewhere Stein's estimate mistakes texture or artifacts for noise
        self.measurable = torch.tensor([signs_of(photo).not_additive is None for photo in real])  # (B,)
        self.noise = self._noise(real)
        self.slots_at_start = 0.0

    @torch.no_grad()
    def measure_start(self, restorer: nn.Module) -> None:
        """Measures the slot accuracy of the initial restorer, with which later values are compared."""
        if len(self.patches["real"]) < LEAST_PROBED:
            return
        contract, weight = RestorerContract.of(restorer), next(restorer.parameters())
        with in_eval_mode(restorer):
            s, q = (
                restorer(contract.to_range(self.patches[name].to(weight.device, weight.dtype)))
                for name in ("synthetic", "real")
            )
        self.slots_at_start = slot_accuracy(s, q)

    @classmethod
    def from_config(cls, config: TrainingConfig, sources: setup.Sources | None = None) -> "Health | None":
        """Builds the health checks of a run; None for a run that uses no real photos.

        Args:
            config: options of the run.
            sources: sources of the run; None: opened here, for a restorer of three channels.

        Raises:
            ConfigurationError: a folder has no usable photos.
        """
        if not config.uses_real:
            return None
        sources = sources or setup.open_all_sources(config, channels=3)
        seed = generator_for(config.seed, "health").initial_seed()
        dataset = setup.build_dataset(replace(config, seed=seed), sources, PROBE_PATCHES, with_real=True)
        patches = _stacked(dataset, PROBE_PATCHES)
        dataset.patch = max(NOISE_SIDE, config.patch)
        photos = _stacked(dataset, PHOTOS)
        side = config.patch * max(1, PHOTO_SIDE // config.patch)
        # no warning for a stream of unknown length
        n_real = sum(FEW_PHOTOS if source.count is None else source.count for source in sources["real"])
        return cls(photos["clean"], photos["real"], patches, side=side, n_real=n_real, seed=seed)

    def _noise(self, real: torch.Tensor) -> torch.Tensor:
        """Returns a draw of every photo's own noise, for `estimated_gain`: (1, B, C, side, side)."""
        generator = generator_for(self.seed, "health", "photo noise")
        photos = zip(real, self.real, strict=True)
        return torch.stack([label_free.Noise.of(whole).sample(part, generator) for whole, part in photos])[None]

    def run(self, restorer: nn.Module, adaptation: NoiseSpaceAdaptation | None = None) -> HealthReport:
        """Checks `restorer`, and the noise predictor of `adaptation` if given.

        Train/eval modes, weights and the global random state are not changed. `restorer` may hold averaged weights;
        the noise predictor is always checked on the output of `adaptation.restorer`.

        Raises:
            ConfigurationError: the restorer and the patches differ in the number of channels.
        """
        contract = RestorerContract.of(restorer)
        if contract.channels != self.real.shape[1]:
            raise ConfigurationError(
                f"`restorer` must take {self.real.shape[1]} channels, as the photos of this run have, got "
                f"{contract.channels}"
            )
        with in_eval_mode(restorer):
            values = self._measured(partial(restore_photos, restorer, batch_size=4))
        alarms = []
        if adaptation is not None:
            weight = next(restorer.parameters())
            patches = {name: each.to(weight.device, weight.dtype) for name, each in self.patches.items()}
            images = {name: contract.to_range(each) for name, each in patches.items()}
            shape = (min(LOSS_PATCHES, len(images["real"])), *images["real"].shape[1:])
            draws = fixed_draws(adaptation.schedule, shape, seed=self.seed)
            shortcuts = shortcut_report(adaptation, **images, draws=draws, slots_at_start=self.slots_at_start)
            for name, value in shortcuts.values.items():
                values[name if name == "slot_accuracy" else f"loss_{name}"] = value
            alarms = shortcuts.alarms
        if warning := few_photos_warning(self.n_real):
            alarms.append(warning)
        return HealthReport(values, alarms, values["score"])

    @torch.no_grad()
    def _measured(self, restore: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Returns the label-free statistics, and the "score" computed from them."""
        real, restored = self.real, restore(self.real)
        values = {
            "residual_whiteness": float(label_free.residual_whiteness(real, restored).mean()),
            "signal_correlation": float(label_free.residual_signal_correlation(real, restored).mean()),
            "colour_drift": float(label_free.colour_drift(real, restored).mean()),
            "clean_fidelity": float(label_free.clean_fidelity(restore, self.clean).clamp(max=100).mean()),
        }
        if bool(self.measurable.any()):
            noise = self.noise[:, self.measurable]
            values["estimated_gain"] = float(label_free.estimated_gain(restore, real[self.measurable], noise))
        values["score"] = label_free.label_free_score(values.get("estimated_gain", 0.0), values["signal_correlation"])
        return values
