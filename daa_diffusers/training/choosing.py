"""Choice of the adaptation method from measurements on the photos and the initial restorer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..degradations.draws import generator_for
from ..degradations.fitting.photo_noise import WHITE, Noise
from ..degradations.fitting.suitability import signs_of
from ..errors import ConfigurationError
from ..evaluation.label_free import estimated_gain
from ..models.restorer import RestorerContract, in_eval_mode, restore_photos
from ..objectives.registry import with_defaults
from ..objectives.renoised import LEAST_GAIN
from ..objectives.renoising import remaining_noise, white_noise_gain
from ..photos.pixels import center_crop
from . import setup
from .config import TrainingConfig
from .held_out import pairs_apart
from .real_photos import MEASURED_PATCHES, measured_photos

logger = logging.getLogger(__name__)

TRIED_SIDE = 128  # largest side in pixels of the center crops on which the gain of renoising is estimated
MIN_TRIED_SIDE = 32  # smaller crops give no estimate
MIN_RENOISING_GAIN = 0.25  # minimum estimated gain in dB for which renoising is chosen
# Fraction of the standard deviation of the noise; if the initial restorer leaves more, renoising is chosen in any case.
MIN_LEFT = 0.25

_NOT_BLENDED: dict[str, Any] = {"blend": 1.0, "predictor_warmup_steps": 0}
_RENOISED: dict[str, Any] = {
    **_NOT_BLENDED,
    "objective": {"type": "renoised", "weight": 0.3, "decay": None},
    "pseudo_clean": False,
}
# Method -> options that override those of the preset.
METHODS: dict[str, dict[str, Any]] = {
    "preset": {},
    "fitted": {**_NOT_BLENDED, "fit_noise": 0.75, "pseudo_clean": True, "objective": {"type": "supervised"}},
    "renoised": {**_RENOISED, "fit_noise": 0.0},
    "renoised_fitted": {**_RENOISED, "fit_noise": 0.75},
}
TITLES = {
    "preset": "the preset: fitted noise, restored photos and noise-space adaptation, averaged with the initial weights",
    "fitted": "noise fitted to the photos, and restored photos as additional clean ones",
    "renoised": "renoised self-distillation",
    "renoised_fitted": "renoised self-distillation with noise fitted to the photos",
}


@dataclass(frozen=True)
class MethodChoice:
    """The method of an adaptation, with the reasons for it.

    Attributes:
        method: a key of `METHODS`.
        reasons: three lines, about the photos, the initial restorer, and the method.
        measured: result of `measure`; empty if the noise cannot be measured.
    """

    method: str
    reasons: tuple[str, str, str]
    measured: dict[str, float]


def with_method(config: TrainingConfig, method: str) -> TrainingConfig:
    """Returns the options of a run, overridden by those of a method; raises ConfigurationError if they are invalid."""
    config = replace(config, **METHODS[method])
    return replace(config, objective=with_defaults(config.objective)).check()


def method_of(options: Mapping[str, Any]) -> str:
    """Returns the key of `METHODS` that the options of a run correspond to."""
    if options["objective"]["type"] == "supervised":
        return "fitted"
    if options["objective"]["type"] != "renoised":
        return "preset"
    return "renoised_fitted" if options["fit_noise"] else "renoised"


def choose(config: TrainingConfig, inputs: setup.Inputs) -> MethodChoice:
    """Chooses the method of a run from its initial restorer and its photos; deterministic for a given seed.

    Renoising is chosen if the initial restorer removes white noise, the noise of the photos is correlated, and one of
    two conditions holds: the initial restorer leaves at least `MIN_LEFT` of that noise, or a second pass over the
    renoised result is better than the first by at least `MIN_RENOISING_GAIN`, by Stein's estimate
    (`label_free.estimated_gain`). Otherwise the choice is "fitted", but "preset" if the noise of the photos is white
    and at least `MIN_LEFT` of it is left, the initial restorer is not a denoiser, or nothing can be measured.

    Args:
        config: options of the run, without those of a method.
        inputs: initial restorer and sources of the run.
    """
    dataset = setup.build_dataset(config, inputs.sources)
    (pairs,) = pairs_apart(dataset, "objective", MEASURED_PATCHES, MEASURED_PATCHES)
    photos = list(measured_photos(inputs.sources["real"]))
    try:
        measured = measure(inputs.restorer, photos, pairs["clean"], generator_for(config.seed, "choice"))
    except ConfigurationError as error:
        return _choice("preset", "their noise cannot be measured.", f"not measured. {error}", {})
    return choice(measured)


@torch.no_grad()
def measure(
    restorer: nn.Module, photos: Sequence[torch.Tensor], clean: torch.Tensor, generator: torch.Generator
) -> dict[str, float]:
    """Measures the initial restorer and the photos for `choice`.

    Args:
        restorer: initial restorer.
        photos: some real photos (C, H, W) in [0, 1].
        clean: clean patches (B, C, H, W) in [0, 1].
        generator: source of all random draws.

    Returns:
        "white_noise_gain" and the entries of `remaining_noise`. If they can be estimated, also "gain", the estimated
        gain (dB) of one pass over the photos, and "renoised_gain", the same for a second pass over the restored photos
        plus white noise of standard deviation "hiding" (see `remaining_noise`).

    Raises:
        ConfigurationError: no photo is at least 32 pixels wide and high.
    """
    with in_eval_mode(restorer):
        measured: dict[str, float] = {"white_noise_gain": white_noise_gain(restorer, clean, generator)}
        measured |= remaining_noise(restorer, photos)
        if measured["white_noise_gain"] < LEAST_GAIN or abs(measured["neighbors"]) < WHITE:
            return measured
        usable = [photo for photo in photos if signs_of(photo).not_additive is None]
        side = min((min(TRIED_SIDE, *photo.shape[1:]) for photo in usable), default=0)
        side -= side % RestorerContract.of(restorer).size_multiple
        if side < MIN_TRIED_SIDE:
            return measured
        crops = torch.stack([center_crop(photo, side) for photo in usable])  # (N, C, side, side)
        draws = [Noise.of(photo).sample(crop, generator) for photo, crop in zip(usable, crops, strict=True)]
        noise = torch.stack(draws)[None]  # (1, N, C, side, side)
        added = measured["hiding"] / 255 * torch.randn(crops.shape, generator=generator)

        restore = partial(restore_photos, restorer, batch_size=4)
        gains = {
            "gain": estimated_gain(restore, crops, noise),
            "renoised_gain": estimated_gain(lambda x: restore(restore(x) + added), crops, noise),
        }
    return {**measured, **{name: round(float(gain), 2) for name, gain in gains.items()}}


def choice(measured: Mapping[str, float]) -> MethodChoice:
    """Returns the choice for the results of `measure`, by the rules of `choose`."""
    photos = f"noise of {measured['noise']:.1f}/255, correlation of neighboring pixels {measured['neighbors']:.2f}."
    if measured["white_noise_gain"] < LEAST_GAIN:
        start = f"it reduces white noise by {measured['white_noise_gain']:.1f} dB. It is not a denoiser."
        return _choice("preset", photos, start, measured)
    start = f"it leaves noise of {measured['left']:.1f}/255"
    leaves_enough = measured["left"] >= MIN_LEFT * measured["noise"]
    if abs(measured["neighbors"]) < WHITE:
        start += ". The photos' noise is white: renoising has nothing to add."
        return _choice("preset" if leaves_enough else "fitted", photos, start, measured)
    if "renoised_gain" in measured:
        gain = measured["renoised_gain"] - measured["gain"]
        start += f"; a second pass over the renoised result gains {gain:+.1f} dB by estimate"
        if gain < MIN_RENOISING_GAIN and not leaves_enough:
            return _choice("fitted", photos, f"{start}. Renoising gains too little.", measured)
    elif not leaves_enough:
        return _choice("fitted", photos, f"{start}. The gain of renoising cannot be estimated.", measured)
    return _choice("renoised_fitted", photos, f"{start}.", measured)


def _choice(method: str, photos: str, start: str, measured: Mapping[str, float]) -> MethodChoice:
    """Returns the choice of a method, with sentences on the photos and on the initial restorer as its reasons."""
    reasons = (f"photos: {photos}", f"start: {start}", f"chosen: {TITLES[method]}.")
    return MethodChoice(method, reasons, dict(measured))
