"""Checks of a run's options: each against the facts on its field, then in combination."""

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, get_type_hints

from ...adapters.files import INFO, AdapterConfig
from ...errors import ConfigurationError
from ...hub.licenses import check_license
from ...hub.record_files import PAIRS_FROM_REAL, degradations_in
from ...models.daa_unet import PRESETS as UNET_PRESETS
from ...objectives.registry import objective_class
from .field import converted, facts, problem

if TYPE_CHECKING:
    from .options import TrainingConfig

FITS = ("fit_noise", "fit_rain", "fit_shake")  # shares of synthetic photos with degradations fitted to the real ones


def problems(config: "TrainingConfig") -> Iterator[str]:
    """Yields one sentence per invalid option or combination; combinations are checked only if all types are right."""
    hints, wrong_types = get_type_hints(type(config)), []
    for field in fields(config):
        value = getattr(config, field.name)
        try:
            converted(value, hints[field.name])
        except ValueError as error:
            wrong_types.append(f"`{field.name}` {error}")
            continue
        error_text = problem(field.name, value, facts(field))
        if error_text:
            yield error_text
    if wrong_types:
        yield from wrong_types
        return
    for check in (_photos, _preparation, _run, _adapter, _objective):
        yield from check(config)


def _run(config: "TrainingConfig") -> Iterator[str]:
    for name in ("hub_model_id", "hub_private", "hub_license"):
        if getattr(config, name) is not None and not config.push_to_hub:
            yield f"`{name}` needs `push_to_hub`, got {getattr(config, name)!r} without it"
    try:
        check_license(config.hub_license, "hub_license")
    except ConfigurationError as error:
        yield str(error)
    if config.dtype == "float64" and config.mixed_precision != "no":
        yield f"`dtype` float64 needs `mixed_precision` no, got {config.mixed_precision!r}"
    if config.verify_resume == 1:
        yield "`verify_resume` must be at least 2, so that the run can be interrupted half-way"
    if config.total_batch_size is not None and config.batch_size >= 1 and config.total_batch_size % config.batch_size:
        yield (
            f"`total_batch_size` must be a multiple of `batch_size` {config.batch_size}, got {config.total_batch_size}"
        )
    if config.select_by == "label_free" and not (config.health and config.uses_real):
        yield "`select_by` label_free needs `health`, and real photos that the objective or a preparation uses"
    if config.select_by == "psnr" and not config.validation_clean:
        yield "`select_by` psnr needs `validation_degraded` and `validation_clean`"
    if config.select_by == "bursts" and not config.validation_bursts:
        yield "`select_by` bursts needs `validation_bursts`"
    if config.early_stopping is not None and config.select_by == "last":
        yield "`early_stopping` needs `select_by` psnr, label_free or bursts, got 'last'"


def _photos(config: "TrainingConfig") -> Iterator[str]:
    if config.clean and config.paired_clean:
        yield "give either `clean` (with `degradation`) or `paired_degraded` + `paired_clean`, not both"
    if not config.clean and not config.paired_clean:
        yield "no clean photos: give `clean`, or `paired_degraded` and `paired_clean`"
    if len(config.paired_degraded) != len(config.paired_clean):
        yield (
            "`paired_degraded` and `paired_clean` must list the same number of sources, got "
            f"{len(config.paired_degraded)} and {len(config.paired_clean)}"
        )
    if config.clean and config.degradation is None:
        yield "`clean` needs a `degradation`; or give ready pairs by `paired_degraded` and `paired_clean`"
    if config.degrade_on_device and not config.clean:
        yield "`degrade_on_device` needs `clean` photos: paired photos are already degraded"
    if config.validation_clean and not config.validation_degraded:
        yield "`validation_clean` needs `validation_degraded`"


def _preparation(config: "TrainingConfig") -> Iterator[str]:
    fitted = {name: getattr(config, name) for name in FITS if getattr(config, name)}
    if sum(fitted.values()) + config.transplant > 1:
        shares = " - ".join(f"`{name}`" for name in fitted or ("fit_noise",))
        yield f"`transplant` must be a share of at most 1 - {shares}, got {config.transplant}"
    blurs = sum(part["type"] == "motion_blur" for part in degradations_in(config.degradation))
    if config.fit_shake and blurs > 1:
        yield f"`fit_shake` takes tone curve, highlights and noise from one motion_blur of `degradation`, got {blurs}"
    for name in PAIRS_FROM_REAL:
        if getattr(config, name) and not (config.clean and config.real):
            yield f"`{name}` needs `real` photos, and `clean` ones to degrade"
    for name in ("fit_rain", "pseudo_clean", "transplant"):
        if getattr(config, name) and not config.init_from:
            yield f"`{name}` needs a restorer to start from: give `init_from`"
    if config.blend < 1 and not config.init_from:
        yield f"`blend` {config.blend} needs a restorer to start from: give `init_from`"


def _adapter(config: "TrainingConfig") -> Iterator[str]:
    if config.adapter is None:
        if config.adapter_info:
            yield f"`adapter_info` needs `adapter`, got {config.adapter_info!r} without one"
        return
    if not config.init_from:
        yield "`adapter` needs a restorer to start from: give `init_from`"
    unknown = sorted(set(config.adapter_info) - set(INFO))
    if unknown:
        yield f"`adapter_info` takes {', '.join(INFO)}, got {', '.join(unknown)}"
        return
    try:
        AdapterConfig("bias", "unknown", **config.adapter_info)
    except ConfigurationError as error:
        yield f"`adapter_info`: {error}"


def _objective(config: "TrainingConfig") -> Iterator[str]:
    name = config.objective["type"]
    objective = objective_class(name)
    yield from objective.problems(config.objective, config)
    if config.reads("real") and not config.real:
        yield f"`objective` {name} learns from real photos: give `real` (or `objective` supervised)"
    if config.compile and not objective.compiles:
        yield f"`compile` does not work with `objective` {name}, which reads activations inside the restorer"
    if config.save_noise_predictor and "noise_predictor" not in config.objective:
        yield f"`save_noise_predictor` needs an `objective` with a noise predictor, got {name}"
    elif config.save_noise_predictor and config.objective["noise_predictor"] not in UNET_PRESETS:
        given = config.objective["noise_predictor"]
        yield f"`save_noise_predictor` needs a `noise_predictor` of {', '.join(UNET_PRESETS)}, got {given!r}"
