"""Choice of the method of an adaptation, by what can be measured of its photos and of the restorer to start from."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..degradations.draws import generator_for
from ..degradations.fitting.photo_noise import WHITE, Noise
from ..degradations.fitting.suitability import signs_of
from ..errors import ConfigurationError
from ..evaluation.label_free import estimated_gain
from ..models.restorer import RestorerContract, in_eval_mode
from ..objectives.registry import with_defaults
from ..objectives.renoised import LEAST_GAIN
from ..objectives.renoising import remainder, white_noise_gain
from . import setup
from .config import TrainingConfig
from .held_out import pairs_apart
from .preparation import MEASURED_PATCHES, measured_photos

logger = logging.getLogger(__name__)

TRIED_SIDE = 128  # of the middle of photos that are restored to try renoising
PAYS = 0.25  # dB that restoring once more, renoised, must gain

_RENOISED: dict[str, Any] = {
    "objective": {"type": "renoised"},
    "pseudo_clean": False,
    "blend": 1.0,
    "predictor_warmup_steps": 0,
    "select_by": "label_free",
}
# Options over those of the preset, by method.
METHODS: dict[str, dict[str, Any]] = {
    "preset": {},
    "renoised": {**_RENOISED, "fit_noise": 0.0},
    "renoised_fitted": {**_RENOISED, "fit_noise": 0.75},
}
TITLES = {
    "preset": "the preset as it is: noise fitted to the photos, and their restored versions as further clean ones",
    "renoised": "renoised self-distillation",
    "renoised_fitted": "renoised self-distillation, and noise fitted to the photos",
}


@dataclass(frozen=True)
class Choice:
    """The method of an adaptation.

    Attributes:
        method: a key of `METHODS`.
        reasons: three sentences: what was measured of the photos and of the start, and what follows.
        measured: the numbers, JSON-plain.
    """

    method: str
    reasons: tuple[str, str, str]
    measured: dict[str, float]


def with_method(config: TrainingConfig, method: str) -> TrainingConfig:
    """The options of a run with those of a method over them; raises ConfigurationError where they do not fit."""
    options = dict(METHODS[method])
    if "objective" in options:
        options["objective"] = with_defaults(options["objective"])
    return replace(config, **options).check()


def method_of(options: Mapping[str, Any]) -> str:
    """The method that a run's options are of."""
    if options["objective"]["type"] != "renoised":
        return "preset"
    return "renoised_fitted" if options["fit_noise"] else "renoised"


def choose(config: TrainingConfig) -> Choice:
    """Chooses the method of a run from its start and photos, a function of the run's seed.

    Renoising pays where the start removes white noise, leaves correlated noise, and what it makes of its own result,
    noised so that the remainder is hidden, is better by Stein's estimate (`label_free.estimated_gain`).

    Args:
        config: of the run, with its preset's method.
    """
    restorer = setup.build_model(config).restorer
    channels = RestorerContract.of(restorer).channels
    sources = setup.open_all_sources(config, channels)
    dataset = setup.build_dataset(config, channels, length=1, sources=sources)
    (clean,) = pairs_apart(dataset, "objective", MEASURED_PATCHES, MEASURED_PATCHES)
    photos = list(measured_photos(sources["real"]))
    try:
        measured = measure(restorer, photos, clean["clean"], generator_for(config.seed, "choice"))
    except ConfigurationError as error:
        return _preset("their noise cannot be measured", str(error), {})
    return choice(measured)


@torch.no_grad()
def measure(
    restorer: nn.Module, photos: Sequence[torch.Tensor], clean: torch.Tensor, generator: torch.Generator
) -> dict[str, float]:
    """What the choice rests on.

    Args:
        restorer: the start.
        photos: some real photos (C, H, W) in [0, 1].
        clean: clean patches (B, C, H, W) in [0, 1].
        generator: everything random is drawn from it.

    Returns:
        "white_noise_gain" and what `remainder` gives; and, where both can be estimated, "gain" and
        "renoised_gain": the estimated gain (dB) over the photos of the start, and of the start applied to its own
        result with white noise of the hiding deviation on it.

    Raises:
        ConfigurationError: no photo has 32 pixels a side.
    """
    contract, like = RestorerContract.of(restorer), next(restorer.parameters())
    with in_eval_mode(restorer):
        found: dict[str, float] = {"white_noise_gain": white_noise_gain(restorer, clean, generator)}
        found |= remainder(restorer, photos)
        if not found["white_noise_gain"] >= LEAST_GAIN or abs(found["neighbors"]) < WHITE:
            return found
        usable = [photo for photo in photos if signs_of(photo).not_additive is None]
        side = min((min(TRIED_SIDE, *photo.shape[1:]) for photo in usable), default=0)
        side -= side % contract.size_multiple
        if side < 32:
            return found
        cut = torch.stack([_middle(photo, side) for photo in usable])
        noise = torch.stack([Noise.of(p).sample(c, generator) for p, c in zip(usable, cut, strict=True)])[None]
        added = found["hiding"] / 255 * torch.randn(cut.shape, generator=generator)

        def restore(images: torch.Tensor) -> torch.Tensor:  # [0, 1] to [0, 1]
            ranged = contract.to_range(images.to(like.device, like.dtype)).split(4)
            return torch.cat([contract.from_range(restorer(part)).float().cpu() for part in ranged])

        gains = {
            "gain": estimated_gain(restore, cut, noise),
            "renoised_gain": estimated_gain(lambda x: restore(restore(x) + added), cut, noise),
        }
    return {**found, **{name: round(float(gain), 2) for name, gain in gains.items()}}


def choice(measured: Mapping[str, float]) -> Choice:
    """The choice that follows from what `measure` returns."""
    numbers = dict(measured)
    photos = (
        f"photos: noise of {measured['noise']:.1f}/255, correlation of neighboring pixels {measured['neighbors']:.2f}."
    )
    if not measured["white_noise_gain"] >= LEAST_GAIN:
        gain = measured["white_noise_gain"]
        return _preset(f"it takes {gain:.1f} dB of white noise off clean photos", "It is no denoiser.", numbers, photos)
    start = f"start: it leaves noise of {measured['left']:.1f}/255"
    if abs(measured["neighbors"]) < WHITE:
        return _preset(start, "White noise is what it knows.", numbers, photos)
    if "renoised_gain" not in measured:
        return _preset(start, "Whether renoising pays cannot be estimated.", numbers, photos)
    pays = measured["renoised_gain"] - measured["gain"]
    start += f"; restoring its result once more, renoised, gains {pays:+.1f} dB by estimate"
    if pays < PAYS:
        return _preset(start, "Renoising does not pay.", numbers, photos)
    method = "renoised_fitted"
    return Choice(method, (photos, f"{start}.", f"chosen: {TITLES[method]}."), numbers)


def _preset(start: str, why: str, measured: dict[str, float], photos: str = "photos: not measured.") -> Choice:
    start = start if start.startswith("start:") else f"start: {start}"
    return Choice("preset", (photos, f"{start}. {why}", f"chosen: {TITLES['preset']}."), measured)


def _middle(photo: torch.Tensor, side: int) -> torch.Tensor:
    top, left = ((length - side) // 2 for length in photo.shape[1:])
    return photo[:, top : top + side, left : left + side]
