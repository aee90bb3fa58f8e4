"""Names of options: aliases, names in diffusers' scripts and earlier versions, suggestions for misspelled ones."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ...errors import ConfigurationError, did_you_mean
from .field import facts
from .objective import EARLIER_OPTIONS, OBJECTIVE_OPTIONS
from .options import TrainingConfig

logger = logging.getLogger(__name__)

NAMES = {field.name: field for field in fields(TrainingConfig)}
ALIASES = {alias: field.name for field in NAMES.values() for alias in facts(field).aliases}

# Options of earlier versions -> (value without effect, current behavior).
RETIRED: dict[str, tuple[Any, str]] = {
    "ramp_steps": (None, "the weight rises over all steps"),
    "cache_gib": (1.0, "decoded photos take up to 1 GiB per source"),
}

_LR = "the schedules have diffusers' defaults: see --learning_rate_schedule"
_ADAM = "Adam runs with PyTorch's values (0.9, 0.999, 1e-8, no weight decay), as the paper's"
_EMA = "a moving average is always kept, with diffusers' warm-up: --ema_decay is its decay"
_COLUMN = "give the options of a dataset with its name: --clean or --real hf:NAME?split=train&config=NAME&column=NAME"
_PROMPT = "restoration has no prompts: --validation_degraded names photos to validate on"
_LORA = "use --adapter lora and --adapter_rank"
_DEVICE = "a GPU is used if there is one; CUDA_VISIBLE_DEVICES in the environment selects it (empty: the CPU)"
_EPOCH = "patches are drawn endlessly, so there are no epochs"

# Common options of training scripts without an equivalent here, or with another name -> hint.
ANSWERS: dict[str, str] = {
    "resolution": "use --patch, the side of the training patches; photos are cropped and never resized to it",
    "resume_from_checkpoint": "not needed: the same command resumes from the newest checkpoint in --output_dir",
    "resume": "not needed: the same command resumes from the newest checkpoint in --output_dir",
    "overwrite_output_dir": "an output folder belongs to one run: choose another --output_dir",
    "train_data_dir": "use --clean for photos to be degraded, or --paired_degraded and --paired_clean for ready pairs; "
    "--real for photos to adapt to",
    "instance_data_dir": "use --real for photos to adapt to",
    "dataset_name": "use --clean hf:NAME or --real hf:NAME",
    "dataset_config_name": _COLUMN,
    "image_column": _COLUMN,
    "conditioning_image_column": _COLUMN,
    "cache_dir": "datasets and checkpoints are cached in HF_HOME",
    "max_train_samples": "a dataset is limited by its split: hf:NAME?split=train[:1000]",
    "lr": "use --learning_rate",
    "batch": "use --batch_size",
    "max_steps": "use --steps",
    "save_steps": "use --checkpoint_every",
    "logging_steps": "use --log_every",
    "fp16": "use --mixed_precision fp16",
    "bf16": "use --mixed_precision bf16",
    "epochs": f"use --steps or --minutes; {_EPOCH}",
    "num_train_epochs": f"use --steps or --minutes; {_EPOCH}",
    "num_epochs": f"use --steps or --minutes; {_EPOCH}",
    "validation_epochs": f"use --validate_every, in steps; {_EPOCH}",
    "save_images_epochs": f"use --validate_every, in steps; {_EPOCH}",
    "save_model_epochs": f"use --checkpoint_every, in steps; {_EPOCH}",
    "validation_prompt": _PROMPT,
    "validation_prompts": _PROMPT,
    "instance_prompt": _PROMPT,
    "validation_image": "use --validation_degraded, and --validation_clean for its ground truth",
    "num_validation_images": "PSNR is computed on all --validation_degraded photos, grids show the first four",
    "eval_batch_size": "photos are validated one at a time, without cropping",
    "model_config_name_or_path": "use --restorer for a new restorer, --init_from for a trained one",
    "revision": "give a local folder as --init_from: hf download NAME --revision REVISION --local-dir FOLDER",
    "use_ema": _EMA,
    "ema_inv_gamma": _EMA,
    "ema_power": _EMA,
    "offload_ema": _EMA,
    "foreach_ema": _EMA,
    "allow_tf32": "set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 in the environment, or use --mixed_precision bf16",
    "enable_xformers_memory_efficient_attention": "PyTorch's memory-efficient attention is used anyway; "
    "--gradient_checkpointing saves more",
    "adam_beta1": _ADAM,
    "adam_beta2": _ADAM,
    "adam_epsilon": _ADAM,
    "adam_weight_decay": _ADAM,
    "use_8bit_adam": _ADAM,
    "scale_lr": "--learning_rate is used as given, whatever the batch size",
    "lr_num_cycles": _LR,
    "lr_power": _LR,
    "snr_gamma": "the noise loss is not weighted by signal-to-noise ratio; --timestep_range bounds the noise levels",
    "center_crop": "patches are cropped at random positions",
    "random_flip": "patches are always flipped and rotated at random",
    "local_rank": "start several processes with accelerate launch",
    "logging_dir": "logs are written to --output_dir",
    "tracker_project_name": "a tracker's run has the name of --output_dir, its project is daa-diffusers",
    "hub_token": "log in with `hf auth login`, or set HF_TOKEN; other users of a machine can read its command lines",
    "rank": _LORA,
    "lora_rank": _LORA,
    "lora_alpha": _LORA,
    "device": _DEVICE,
    "no_cuda": _DEVICE,
    "prediction_type": "the noise predictor predicts noise",
}  # fmt: skip


def hint(name: str) -> str:
    """Returns a hint on what to use instead of an unknown option, in parentheses; empty if there is none."""
    name = name.replace("-", "_")
    if name in RETIRED:
        return f" (an option of earlier versions: {RETIRED[name][1]})"
    if name in ANSWERS:
        return f" ({ANSWERS[name]})"
    # a high cutoff, for misspellings only: similar names may have different meanings
    return did_you_mean(name, [*NAMES, *ALIASES, *OBJECTIVE_OPTIONS], cutoff=0.85)


def refuse_unknown(names: Iterable[str], where: str) -> None:
    """Raises ConfigurationError for names that are not options, each with its `hint`."""
    unknown = [
        f"{name!r}{hint(name)}"
        for name in sorted(set(names) - {*NAMES, *ALIASES, *OBJECTIVE_OPTIONS, *EARLIER_OPTIONS})
    ]
    if unknown:
        raise ConfigurationError(f"unknown option in {where}: " + ", ".join(unknown))


def canonical(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns `values` with aliases replaced by the names of the fields.

    Raises:
        ConfigurationError: an unknown name, or an option given under two names.
    """
    refuse_unknown(values, where)
    named: dict[str, Any] = {}
    for name, value in values.items():
        known = ALIASES.get(name, name)
        if known in named:
            raise ConfigurationError(f"{where}: `{known}` is given twice, also as {name!r}")
        named[known] = value
    return named


def without_retired(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns `values` without options that no longer exist; warns if one had an effect."""
    for name, (harmless, now) in RETIRED.items():
        if values.get(name, harmless) != harmless:
            logger.warning("%s: `%s` %r is ignored, an option of earlier versions: %s", where, name, values[name], now)
    return {name: value for name, value in values.items() if name not in RETIRED}
