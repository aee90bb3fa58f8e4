"""The options of a training run: dataclass -> preset -> YAML file -> command line."""

import difflib
import json
import os
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..adapters.files import INFO, AdapterConfig
from ..adapters.updates import KINDS
from ..degradations.stored import DEGRADATION_SUFFIXES, read_degradation
from ..errors import ConfigurationError
from ..objectives.noise_space import VARIANTS
from ..objectives.registry import BASELINES, default_weight, option_problems
from ..objectives.schedules import WEIGHT_SCHEDULES
from .selection import SELECTIONS

# Named starting points; anything given in a YAML file or on the command line overrides them. "tiny" and "small" suit a
# CPU and short runs, "adapt" trains a given restorer (`init_from`) further on real photos; the "paper-*" ones are the
# official recipes (METHOD: 8 GPUs with 24 patches each).
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"restorer": "tiny", "noise_predictor": "tiny", "patch": 64, "batch_size": 4, "steps": 1500},
    "small": {"restorer": "small", "noise_predictor": "tiny", "patch": 64, "batch_size": 8, "steps": 4000},
    "adapt": {
        # Chosen by benchmarks/adaptation.py; the paper's own form is in the presets paper-*.
        "fit_noise": 0.75,
        "pseudo_clean": True,
        "blend": 0.5,
        "variant": "hybrid",
        "weight": 0.2,
        "weight_schedule": "balanced",
        "predictor_warmup_steps": 100,
        "noise_predictor": "tiny",
        "noise_predictor_options": {"block_out_channels": [16, 32, 64], "layers_per_block": 1, "dropout": 0.0},
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
    },
    "paper-denoise": {
        "restorer": "paper",
        "noise_predictor": "paper",
        "value_range": [0.0, 1.0],
        "degradation": {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 75.0},
        "patch": 128,
        "batch_size": 24,
        "learning_rate": 1e-4,
        "learning_rate_schedule": "constant",
        "weight": 0.2,
        "weight_schedule": "paper",
        "variant": "paired",
        "steps": 300_000,
        "ema_decay": 0.9999,
    },
}
for _task in ("derain", "deblur"):
    PRESETS[f"paper-{_task}"] = {**PRESETS["paper-denoise"], "value_range": [-1.0, 1.0], "learning_rate": 5e-5}
    # their synthetic pairs (Rain13K, GoPro) are given as folders: --paired_degraded, --paired_clean
    PRESETS[f"paper-{_task}"]["degradation"] = None

# A few trained numbers move a network less than all of them: adapters take larger steps, unless told otherwise.
ADAPTER_LEARNING_RATES = {"bias": 3e-3, "pointwise": 1e-3, "lora": 3e-3}

OBJECTIVES = ("noise_space", *BASELINES)
# What only noise-space adaptation knows.
NOISE_SPACE_OPTIONS = (
    "variant", "channel_shuffle", "residual_swap", "margin", "timestep_range", "noise_predictor_from",
    "save_noise_predictor",
)  # fmt: skip
# Of these as well a preset speaks for noise-space adaptation alone.
ADAPTATION_OPTIONS = ("weight", "weight_schedule", "predictor_warmup_steps", "fit_noise", "pseudo_clean", "blend")

TRANSPLANTS = ("residual", "streaks")
TRACKERS = ("tensorboard", "trackio", "wandb", "none")

# Options that may differ when a run is resumed: they change what is reported or how fast, not what is learnt.
FREE_TO_CHANGE = {
    "config", "dry_run", "output_dir", "workers", "cache_gib", "log_every", "validate_every", "checkpoint_every",
    "keep", "validation_degraded", "validation_clean", "save_noise_predictor", "threads", "report_to", "health",
    "max_skipped_steps", "resume_with_changes", "verify_resume", "adapter_info",
    "trust_remote_code",
}  # fmt: skip


# Folders and files: `~` and environment variables in them are expanded.
PATHS = {
    "output_dir", "clean", "real", "unpaired_clean", "paired_degraded", "paired_clean", "validation_degraded",
    "validation_clean", "init_from", "noise_predictor_from",
}  # fmt: skip


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingConfig:
    """All options of `examples/train_daa.py`; every value is plain JSON / YAML.

    Photos are given as `data.sources.open_source` takes them: folders (searched recursively), tar shards
    ("shards/*.tar"), Hugging Face datasets ("hf:NAME?split=train"). `clean` gives the synthetic pairs through
    `degradation`; `paired_degraded` + `paired_clean` give ready ones. `real` holds the unlabelled photos to adapt to.
    """

    output_dir: str = _option("outputs/run", "Where checkpoints, logs and the final pipeline go.")
    preset: str = _option("small", f"Starting point of all other options: {', '.join(PRESETS)}.")
    config: str | None = _option(None, "YAML file with any of these options.")
    seed: int = _option(0, "Everything random is a function of this and of the sample's number.")
    dry_run: bool = _option(False, "Print the resolved options, parameters and estimated memory, then stop.")

    # data
    clean: list[str] = _option(
        [], "Clean photos: folders, tar shards or hf:NAME datasets, which take turns, whatever their sizes."
    )
    real: list[str] = _option([], "Real degraded photos without ground truth, from the same kinds of sources.")
    unpaired_clean: list[str] = _option(
        [], "Unpaired clean photos for the variants extended and hybrid (default of the latter: the clean ones)."
    )
    paired_degraded: list[str] = _option([], "Degraded photos, paired by name with --paired_clean.")
    paired_clean: list[str] = _option([], "Their clean counterparts.")
    degradation: dict[str, Any] | None = _option(
        {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 60.0},
        "How synthetic photos are degraded: a mapping in YAML, JSON on the command line, or a file (daa fit-noise).",
    )
    fit_noise: float = _option(
        0.0,
        "Share of the synthetic photos whose noise is that of the real ones, estimated before the first step; the rest "
        "is degraded by --degradation.",
    )
    pseudo_clean: bool = _option(
        False, "Take real photos, as the restorer to start from restores them, for a further source of clean ones."
    )
    transplant: float = _option(
        0.0,
        "Share of the synthetic photos that are degraded by what the restorer to start from removes from real ones.",
    )
    transplant_kind: str = _option(
        "residual",
        f"What of it: {', '.join(TRANSPLANTS)}. Streaks are what was brighter than its surroundings, as rain is.",
    )
    validation_degraded: str | None = _option(None, "Degraded photos to watch.")
    validation_clean: str | None = _option(None, "Their clean counterparts (paired by name), if any.")
    patch: int = _option(64, "Side of the square training patches, in pixels.")
    clean_scale: list[float] = _option(
        [1.0, 1.0], "Range of the factor, 1 at most, by which clean patches are scaled down before their degradation."
    )
    batch_size: int = _option(8, "Synthetic (and as many real) patches a step and process.")
    workers: int = _option(0, "Loader processes; 0 loads in the training process.")
    cache_gib: float = _option(1.0, "Memory for decoded photos, in GiB, per source.")

    # networks
    init_from: str | None = _option(None, "Bundled checkpoint, folder or Hub id whose restorer is trained further.")
    adapter: str | None = _option(
        None, f"Train a small change of the restorer of --init_from instead of all of it: {', '.join(KINDS)}."
    )
    adapter_rank: int = _option(12, "Rank of an adapter of kind lora.")
    adapter_info: dict[str, Any] = _option(
        {}, f"What the adapter says of itself (JSON: {', '.join(INFO)}); default: the EXIF of the real photos."
    )
    trust_remote_code: bool = _option(
        False, "Let --init_from import the module that its network's class is in (ForeignRestorer): runs its code."
    )
    restorer: str = _option("small", "Preset of a new restorer (tiny, small, paper), where --init_from is not given.")
    value_range: list[float] = _option([0.0, 1.0], "Value range of a new restorer.")
    noise_predictor: str = _option("tiny", "Preset of the noise predictor (tiny, small, paper).")
    noise_predictor_options: dict[str, Any] = _option({}, "Constructor arguments that override its preset (JSON).")
    noise_predictor_from: str | None = _option(None, "Folder of a trained noise predictor to start from.")

    # method
    objective: str = _option(
        "noise_space",
        f"How real photos are learnt from: {', '.join(OBJECTIVES)}; all but the first are what it is compared with.",
    )
    objective_options: dict[str, Any] = _option(
        {}, "Arguments of another objective than noise_space (JSON): see training/baselines."
    )
    variant: str = _option("paired", f"Form of the joint step: {', '.join(VARIANTS)}.")
    channel_shuffle: bool = _option(True, "Let the conditions change places at random.")
    residual_swap: bool = _option(True, "Contrast with swapped residuals.")
    weight: float = _option(
        0.2,
        "w_max of eq. (6), or the ratio of gradients with the balanced schedule; each objective has its own default.",
    )
    weight_schedule: str = _option("paper", f"How the weight runs: {', '.join(WEIGHT_SCHEDULES)}.")
    ramp_steps: int | None = _option(None, "Steps over which p of eq. (6) goes from 0 to 1; default: all steps.")
    margin: float = _option(0.1, "Margin of the contrastive term.")
    charbonnier_eps: float = _option(1e-3, "Epsilon of the Charbonnier loss.")
    timestep_range: list[int] | None = _option(None, "Inclusive range of t, such as 1 999.")
    predictor_warmup_steps: int = _option(
        0, "First steps, at most a third of all, that only train the noise predictor (or discriminator) on real photos."
    )

    # optimisation
    steps: int = _option(4000, "Optimizer steps.")
    minutes: float | None = _option(None, "Time budget instead of --steps: the speed is measured first.")
    learning_rate: float = _option(1e-4, "Adam's learning rate.")
    predictor_learning_rate: float | None = _option(
        None, "The noise predictor's (or discriminator's), where it differs."
    )
    learning_rate_schedule: str = _option("constant", "As in diffusers: constant, cosine, linear, ...")
    learning_rate_warmup_steps: int = _option(0, "Steps over which the learning rate rises.")
    gradient_clip: float | None = _option(None, "Largest norm of the gradient; default: not clipped.")
    gradient_accumulation_steps: int = _option(1, "Batches a step.")
    total_batch_size: int | None = _option(
        None, "Synthetic patches a step over all processes; sets --gradient_accumulation_steps."
    )
    separate_passes: bool = _option(
        False, "Restore synthetic and real photos in a pass each, to save memory: the same step, slower."
    )
    mixed_precision: str = _option("no", "no, bf16 or fp16; diffusion losses are taken in float32.")
    dtype: str = _option("float32", "Precision of weights and images: float32, or float64 for checks.")
    gradient_checkpointing: bool = _option(False, "Compute activations again in the backward pass, to save memory.")
    compile: bool = _option(False, "Compile the networks by torch.compile: slow to start, then faster on CUDA.")
    max_skipped_steps: int = _option(10, "Steps in a row that may be skipped for NaN or infinite losses.")
    ema_decay: float = _option(0.999, "Decay of the restorer's moving average, reached after a warm-up.")

    # what to keep
    blend: float = _option(
        1.0,
        "How far the weights kept lie from those to start from (0) to the trained ones (1): half-way keeps most of "
        "what was gained and little of what was lost.",
    )
    select_by: str = _option("last", f"Weights that the run ends with: {', '.join(SELECTIONS)}.")
    early_stopping: int | None = _option(None, "Stop after so many validations without a better --select_by score.")

    # the run
    log_every: int = _option(20, "Steps between log lines.")
    validate_every: int = _option(500, "Steps between validations and sample grids; 0: only at the end.")
    checkpoint_every: int = _option(500, "Steps between checkpoints; 0: only at the end.")
    keep: int = _option(2, "Checkpoints kept.")
    health: bool = _option(True, "Look for shortcuts and score the restorer without labels at every validation.")
    threads: int | None = _option(None, "CPU threads; default: torch's choice.")
    report_to: str = _option("tensorboard", f"Tracker: {', '.join(TRACKERS)}.")
    resume_with_changes: bool = _option(False, "Resume a run although options differ; the differences are recorded.")
    verify_resume: int = _option(
        0, "Check in a temporary folder that so many steps end bit-identical when interrupted, then stop."
    )
    save_noise_predictor: bool = _option(False, "Keep the noise predictor in the final pipeline.")

    def check(self) -> "TrainingConfig":
        """Raises ConfigurationError listing everything that is contradictory or out of range; returns self."""
        problems = list(self._problems())
        if problems:
            raise ConfigurationError("these options do not fit:\n- " + "\n- ".join(problems))
        return self

    def _problems(self):
        choices = {"variant": VARIANTS, "weight_schedule": WEIGHT_SCHEDULES, "preset": tuple(PRESETS)}
        choices |= {"mixed_precision": ("no", "bf16", "fp16"), "dtype": ("float32", "float64")}
        choices |= {
            "transplant_kind": TRANSPLANTS,
            "report_to": TRACKERS,
            "select_by": SELECTIONS,
            "objective": OBJECTIVES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                yield f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
        for name in ("patch", "batch_size", "steps", "keep", "log_every", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                yield f"`{name}` must be at least 1, got {getattr(self, name)}"
        for name in ("learning_rate", "charbonnier_eps"):
            if not getattr(self, name) > 0:
                yield f"`{name}` must be positive, got {getattr(self, name)}"
        if self.dtype == "float64" and self.mixed_precision != "no":
            yield f"`dtype` float64 needs `mixed_precision` no, got {self.mixed_precision!r}"
        if self.max_skipped_steps < 0 or self.verify_resume < 0:
            yield "`max_skipped_steps` and `verify_resume` must be at least 0"
        if self.verify_resume == 1:
            yield "`verify_resume` must be at least 2, so that there is a middle to interrupt"
        if self.total_batch_size is not None and (
            self.total_batch_size < self.batch_size or self.total_batch_size % self.batch_size
        ):
            yield (
                f"`total_batch_size` must be a multiple of `batch_size` {self.batch_size}, got {self.total_batch_size}"
            )
        if self.select_by == "label_free" and (not self.health or self.variant == "vanilla"):
            yield "`select_by` label_free needs `health` and a variant that looks at real photos"
        if self.select_by == "psnr" and not self.validation_clean:
            yield "`select_by` psnr needs `validation_degraded` and `validation_clean`"
        if self.early_stopping is not None and (self.early_stopping < 1 or self.select_by == "last"):
            yield (
                "`early_stopping` must be at least 1 and needs `select_by` psnr or label_free, got "
                f"{self.early_stopping} and {self.select_by!r}"
            )
        if not 0 <= self.ema_decay < 1:
            yield f"`ema_decay` must be in [0, 1), got {self.ema_decay}"
        if self.minutes is not None and not self.minutes > 0:
            yield f"`minutes` must be positive, got {self.minutes}"
        if self.clean and self.paired_clean:
            yield "give either `clean` (with `degradation`) or `paired_degraded` + `paired_clean`, not both"
        if not self.clean and not self.paired_clean:
            yield "no clean photos: give `clean`, or `paired_degraded` and `paired_clean`"
        if len(self.paired_degraded) != len(self.paired_clean):
            yield (
                "`paired_degraded` and `paired_clean` must list as many sources, got "
                f"{len(self.paired_degraded)} and {len(self.paired_clean)}"
            )
        if self.clean and self.degradation is None:
            yield "`clean` needs a `degradation`; or give ready pairs by `paired_degraded` and `paired_clean`"
        yield from self._preparation_problems()
        yield from self._adapter_problems()
        yield from self._objective_problems()
        if self.objective != "noise_space" and not self.real:
            yield f"`objective` {self.objective!r} learns from real photos: give `real` ones"
        elif self.variant != "vanilla" and not self.real:
            yield f"`variant` {self.variant!r} adapts to real photos: give `real` ones (or `variant` vanilla)"
        if self.variant == "extended" and not self.unpaired_clean:
            yield "`variant` extended needs `unpaired_clean` photos"
        if self.validation_clean and not self.validation_degraded:
            yield "`validation_clean` needs `validation_degraded`"

    def _preparation_problems(self):
        if not 0 <= self.fit_noise <= 1:
            yield f"`fit_noise` must be a share in [0, 1], got {self.fit_noise}"
        if not 0 <= self.transplant <= 1 - self.fit_noise:
            yield f"`transplant` must be a share in [0, 1 - `fit_noise`], got {self.transplant}"
        for name in ("fit_noise", "pseudo_clean", "transplant"):
            if getattr(self, name) and not (self.clean and self.real):
                yield f"`{name}` needs `real` photos, and `clean` ones to be degraded"
        if not 0 < self.blend <= 1:
            yield f"`blend` must be in (0, 1], got {self.blend}"
        elif self.blend < 1 and not self.init_from:
            yield f"`blend` {self.blend} needs a restorer to start from: give `init_from`"
        for name in ("pseudo_clean", "transplant"):
            if getattr(self, name) and not self.init_from:
                yield f"`{name}` needs a restorer to start from: give `init_from`"

    def _adapter_problems(self):
        if self.adapter is None:
            if self.adapter_info:
                yield f"`adapter_info` needs `adapter`, got {self.adapter_info!r} without one"
            return
        if self.adapter not in KINDS:
            yield f"`adapter` must be one of {', '.join(KINDS)}, got {self.adapter!r}"
        if self.adapter_rank < 1:
            yield f"`adapter_rank` must be at least 1, got {self.adapter_rank}"
        if not self.init_from:
            yield "`adapter` needs a restorer to start from: give `init_from`"
        unknown = sorted(set(self.adapter_info) - set(INFO))
        if unknown:
            yield f"`adapter_info` knows {', '.join(INFO)}, got {', '.join(unknown)}"
            return
        try:
            AdapterConfig("bias", "unknown", **self.adapter_info)
        except ConfigurationError as error:
            yield f"`adapter_info`: {error}"

    def _objective_problems(self):
        if self.objective == "noise_space":
            if self.objective_options:
                yield "`objective_options` are for an `objective` other than noise_space, got them with noise_space"
            return
        if self.objective not in BASELINES:
            return
        yield from option_problems(self.objective, self.objective_options)
        defaults = TrainingConfig()
        for name in NOISE_SPACE_OPTIONS:
            value = getattr(self, name)
            if value != getattr(defaults, name):
                yield f"`{name}` {value!r} belongs to `objective` noise_space, got {self.objective!r}"
        if self.weight_schedule == "balanced":
            yield f"`weight_schedule` must be paper or constant with `objective` {self.objective!r}, got 'balanced'"
        if self.objective == "dann" and self.compile:
            yield "`compile` cannot be had with `objective` dann, which listens inside the restorer"

    def identity(self) -> dict[str, Any]:
        """The options that decide what is learnt; a run is only resumed with the same ones."""
        free = FREE_TO_CHANGE - ({"validate_every"} if self.select_by != "last" else set())
        return {name: value for name, value in asdict(self).items() if name not in free}

    def to_yaml(self) -> str:
        """The resolved options; the text can be passed back as `config`."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def _names() -> list[str]:
    return [f.name for f in fields(TrainingConfig)]


def _refuse_unknown(names, where: str) -> None:
    problems = []
    for name in sorted(set(names) - set(_names())):
        near = difflib.get_close_matches(name.replace("-", "_"), _names(), n=1)
        problems.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if problems:
        raise ConfigurationError(f"unknown option in {where}: " + ", ".join(problems))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping of options; ConfigurationError on a missing or broken file or an unknown option."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"`config` must be a readable YAML file, got {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"`config` must be a YAML mapping of options, got {type(values).__name__} in {path}")
    _refuse_unknown(values, str(path))
    return values


def resolve(*layers: dict[str, Any]) -> TrainingConfig:
    """Merges option mappings, later ones winning, over the preset that they name; checks nothing but the names."""
    given: dict[str, Any] = {}
    for layer in layers:
        _refuse_unknown(layer, "the options")
        given.update(layer)
    preset = given.get("preset", TrainingConfig.preset)
    if preset not in PRESETS:
        raise ConfigurationError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}")
    for name in PATHS & set(given):
        value = given[name]
        given[name] = [_expand(v) for v in value] if isinstance(value, list) else _expand(value)
    if isinstance(given.get("degradation"), str):
        given["degradation"] = _degradation(given["degradation"])  # the file may be gone when the run is resumed
    base = PRESETS[preset]
    objective = given.get("objective", TrainingConfig.objective)
    if objective in BASELINES:
        base = {name: value for name, value in base.items() if name not in (*NOISE_SPACE_OPTIONS, *ADAPTATION_OPTIONS)}
        base["weight"] = default_weight(objective)
    if given.get("adapter") in ADAPTER_LEARNING_RATES:
        base = {**base, "learning_rate": ADAPTER_LEARNING_RATES[given["adapter"]]}
    return replace(TrainingConfig(), **{**base, **given})


def _expand(path: str | None) -> str | None:
    return path if path is None else os.path.expanduser(os.path.expandvars(path))


def parse_arguments(arguments: list[str] | None = None) -> TrainingConfig:
    """The command line of `examples/train_daa.py`: `--name value`, over `--config FILE`, over the preset.

    Exits as argparse does on `--help`; raises ConfigurationError, naming the nearest option, on an unknown one.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        TrainingConfig, allow_abbrev=False, description="Train a restorer, or adapt it to real photos."
    )
    for action in parser._actions:
        if action.dest in ("noise_predictor_options", "objective_options", "adapter_info"):
            action.type = _json_mapping
        if action.dest == "degradation":
            action.type = str  # `resolve` reads it: argparse would hide what is wrong with a file
        if action.dest != "help":
            action.default = MISSING  # so that only what was typed overrides the YAML file
    typed, unknown = parser.parse_known_args(arguments)
    _refuse_unknown([u.lstrip("-").split("=")[0] for u in unknown if u.startswith("--")], "the command line")
    if unknown:
        raise ConfigurationError(f"stray arguments on the command line: {' '.join(unknown)}")
    given = {name: value for name, value in vars(typed).items() if value is not MISSING and name in _names()}
    from_file = read_yaml(given["config"]) if given.get("config") else {}
    return resolve(from_file, given).check()


def _degradation(text: str) -> dict[str, Any]:
    """A degradation by its file, its JSON or its bare name."""
    if text.lower().endswith(DEGRADATION_SUFFIXES):
        return read_degradation(os.path.expanduser(os.path.expandvars(text)))
    return _json_mapping(text)


def _json_mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = {"type": text}  # a bare name, such as `camera`
    if not isinstance(value, dict):
        raise ConfigurationError(f'expected a JSON mapping such as \'{{"type": "gaussian"}}\', got {text!r}')
    return value
