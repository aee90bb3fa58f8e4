"""Presets of a training run; a YAML file and the command line override them.

"tiny", "small" and "fast" suit a CPU and short runs. "adapt" and "adapt-*", one for each task of `checkpoints.tasks`,
adapt a trained restorer to real photos (docs/adaptation.md: how their numbers were chosen). The "paper-*"
presets are the official recipes (8 GPUs, 24 patches each).
"""

from typing import Any

from ...checkpoints.tasks import TASKS, Task

_ADAPT: dict[str, Any] = {
    "fit_noise": 0.75,
    "pseudo_clean": True,
    "blend": 0.5,
    "objective": {
        "type": "noise_space",
        "variant": "hybrid",
        "weight": 0.2,
        "weight_schedule": "balanced",
        "noise_predictor_options": {"block_out_channels": [16, 32, 64], "layers_per_block": 1, "dropout": 0.0},
    },
    "predictor_warmup_steps": 100,
    "degradation": {
        "type": "mixture",
        "parts": [
            {"weight": 1.0, "degradation": {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 50.0}},
            {"weight": 4.0, "degradation": {"type": "camera"}},
        ],
    },
    "clean_scale": [0.25, 1.0],
    "patch": 48,
    "batch_size": 6,
    "steps": 480,
    "learning_rate": 2e-4,
    "learning_rate_schedule": "cosine",
    "predictor_learning_rate": 5e-4,
    "ema_decay": 0.99,
}
# For tasks that remove no noise: pairs with degradation fitted to the photos, as in examples/configs/daa-*-adapted.yaml
_FITTED_PAIRS: dict[str, Any] = {
    "fit_noise": 0.0,
    "pseudo_clean": False,
    "blend": 1.0,
    "objective": {"type": "supervised"},
    "predictor_warmup_steps": 0,
    "clean_scale": [0.25, 0.9],
}
# Task name -> additional options.
_ADAPT_TO: dict[str, dict[str, Any]] = {
    "derain": {
        "fit_rain": 0.43,
        "transplant": 0.43,
        "transplant_kind": "streaks",
        "quarter_turns": False,
        "degradation": {
            "type": "mixture",
            "parts": [
                {"weight": 3.0, "degradation": {"type": "filtered_rain"}},
                {"weight": 1.0, "degradation": {"type": "rain"}},
            ],
        },
        "patch": 112,
        "batch_size": 4,
        "steps": 600,
        "learning_rate_warmup_steps": 50,
        "gradient_clip": 1.0,
    },
    "deblur": {
        "fit_shake": 0.5,
        "degradation": {
            "type": "motion_blur",
            "length": [2.0, 30.0],
            "tone_probability": 1.0,
            "shot": [1e-6, 3e-4],
            "read": [1e-4, 2e-3],
        },
        "patch": 96,
        "batch_size": 8,
        "steps": 2000,
        "optimizer": "muon",
        "learning_rate": 1.5e-3,
        "learning_rate_warmup_steps": 100,
        "gradient_clip": 0.5,
    },
}


def adaptation_preset(task: Task) -> dict[str, Any]:
    """Returns the preset that adapts to a task; noise is fitted only for tasks that remove noise."""
    without_noise = {} if task.removes_noise else {**_FITTED_PAIRS, "degradation": {"type": task.degradations[0]}}
    return {**_ADAPT, **without_noise, "init_from": task.start, **_ADAPT_TO.get(task.name, {})}


_PAPER: dict[str, Any] = {
    "restorer": "paper",
    "objective": {"type": "noise_space", "noise_predictor": "paper"},
    "value_range": [0.0, 1.0],
    "degradation": {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 75.0},
    "patch": 128,
    "batch_size": 24,
    "learning_rate": 1e-4,
    "learning_rate_schedule": "constant",
    "steps": 300_000,
    "ema_decay": 0.9999,
}
# The synthetic pairs (Rain13K, GoPro) are given as folders: `paired_degraded`, `paired_clean`.
_PAPER_PAIRED = {**_PAPER, "value_range": [-1.0, 1.0], "learning_rate": 5e-5, "degradation": None}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"restorer": "tiny", "patch": 64, "batch_size": 4, "steps": 1500},
    "small": {"restorer": "small", "patch": 64, "batch_size": 8, "steps": 4000},
    "fast": {
        "restorer": "fast",
        "patch": 64,
        "batch_size": 8,
        "steps": 12000,
        "learning_rate": 1e-3,
        "learning_rate_warmup_steps": 100,
        "gradient_clip": 1.0,
    },
    **{task.preset: adaptation_preset(task) for task in TASKS.values()},
    "paper-denoise": _PAPER,
    "paper-derain": _PAPER_PAIRED,
    "paper-deblur": _PAPER_PAIRED,
}

# Default learning rates of adapters; higher, because adapters have few trained parameters.
ADAPTER_LEARNING_RATES = {"bias": 3e-3, "pointwise": 1e-3, "lora": 3e-3}
