"""Options of a training run, with their defaults and facts."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import yaml

from ...adapters.files import INFO
from ...adapters.updates import KINDS
from ...errors import ConfigurationError
from ...hub.record_files import PAIRS_FROM_REAL
from ...models.registry import PRESETS as RESTORER_PRESETS
from ...models.registry import presets_in_words
from ...objectives.registry import OBJECTIVES, objective_class, with_defaults
from ..optimizers import OPTIMIZERS
from ..selection import SELECTIONS
from .checks import problems
from .field import facts, option
from .objective import DEFAULT_OBJECTIVE
from .presets import PRESETS

TRACKERS = ("tensorboard", "trackio", "wandb", "none")
TRANSPLANTS = ("residual", "streaks")
PRECISIONS = ("no", "bf16", "fp16")
DTYPES = ("float32", "float64")


@dataclass
class TrainingConfig:
    """All options of `examples/train_daa.py`; every value is plain JSON / YAML.

    Photo sources are specified as in `sources.specs.open_source`: folders (searched recursively), tar shards
    ("shards/*.tar"), Hugging Face datasets ("hf:NAME?split=train"). Synthetic pairs are `clean` photos degraded by
    `degradation`, or ready pairs `paired_degraded` + `paired_clean`. `real` are the unlabeled photos to adapt to.
    """

    output_dir: str = option("outputs/run", "Folder of checkpoints, logs and the final pipeline.", path=True, free=True)
    preset: str = option("small", "Preset that sets the defaults of other options.", choices=tuple(PRESETS), free=True)
    config: str | None = option(None, "YAML file with any of these options.", free=True)
    seed: int = option(0, "Seed of all random draws, which depend only on the seed and the sample's number.")
    dry_run: bool = option(
        False, "Print the resolved options, parameters, and estimated memory and time, then stop.", free=True
    )

    # data
    clean: list[str] = option(
        [],
        "Clean photos: folders, tar shards or hf:NAME datasets. Sources are used in turn, whatever their sizes.",
        path=True,
        photos=True,
    )
    real: list[str] = option(
        [], "Real degraded photos without ground truth, from the same kinds of sources.", path=True, photos=True
    )
    unpaired_clean: list[str] = option(
        [],
        "Unpaired clean photos for noise_space's variants extended and hybrid (default for hybrid: --clean).",
        path=True,
        photos=True,
    )
    paired_degraded: list[str] = option(
        [], "Degraded photos, paired by name with --paired_clean.", path=True, photos=True
    )
    paired_clean: list[str] = option([], "Clean counterparts of --paired_degraded.", path=True, photos=True)
    degradation: dict[str, Any] | None = option(
        {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 60.0},
        "Degradation of the synthetic photos: a mapping in YAML, JSON on the command line, or a file (daa fit).",
    )
    fit_noise: float = option(
        0.0,
        "Share of the synthetic photos with the noise of the real ones, estimated before the first step; the others "
        "are degraded by --degradation.",
        at_least=0,
        at_most=1,
        preparation=True,
    )
    fit_rain: float = option(
        0.0,
        "Share of the synthetic photos with the rain of the real ones, as far as the initial restorer removes it.",
        at_least=0,
        at_most=1,
        preparation=True,
    )
    fit_shake: float = option(
        0.0,
        "Share of the synthetic photos with the camera shake of the real ones: the point spread function of each; at "
        "most 0.5 if not all are measured. Tone curve, highlights and noise are those of motion_blur in --degradation.",
        at_least=0,
        at_most=1,
        preparation=True,
    )
    pseudo_clean: bool = option(
        False,
        "Use real photos, restored by the initial restorer, as an additional source of clean ones.",
        preparation=True,
    )
    transplant: float = option(
        0.0,
        "Share of the synthetic photos degraded by residuals that the initial restorer removes from real photos.",
        at_least=0,
        at_most=1,
    )
    transplant_kind: str = option(
        "residual",
        "Part of the residual to transplant: all of it, or only streaks brighter than their surroundings (rain).",
        choices=TRANSPLANTS,
    )
    validation_degraded: str | None = option(
        None, "Degraded photos to validate on.", path=True, photos=True, selects=True
    )
    validation_clean: str | None = option(
        None,
        "Clean counterparts of --validation_degraded (paired by name), if any.",
        path=True,
        photos=True,
        selects=True,
    )
    validation_bursts: str | None = option(
        None,
        "Folder of folders, each with frames of one static scene, to validate on without ground truth.",
        path=True,
        selects=True,
    )
    patch: int = option(64, "Side of the square training patches, in pixels.", at_least=1)
    clean_scale: list[float] = option(
        [1.0, 1.0], "Range of the factor (at most 1) by which clean patches are scaled down before their degradation."
    )
    clean_color: float = option(
        0.0,
        "Share of the clean patches with a random exposure, white balance, saturation and order of colors.",
        at_least=0,
        at_most=1,
    )
    quarter_turns: bool = option(
        True, "Rotate patches by 90 degrees as well; false keeps the direction of rain in real photos and residuals."
    )
    batch_size: int = option(
        8,
        "Batch size per process: number of synthetic patches; there are as many real ones.",
        at_least=1,
        aliases=("train_batch_size", "per_device_train_batch_size"),
    )
    workers: int = option(
        0,
        "Loader processes; 0 loads in the training process.",
        at_least=0,
        free=True,
        aliases=("dataloader_num_workers",),
    )

    degrade_on_device: bool = option(
        False,
        "Degrade many patches at once on the accelerator, not in the loader: for GPUs that would wait for the loader.",
    )

    # networks
    init_from: str | None = option(
        None,
        "Bundled checkpoint, folder or Hub id of the initial restorer.",
        path=True,
        aliases=("pretrained_model_name_or_path",),
    )
    adapter: str | None = option(
        None,
        "Kind of adapter to train on the restorer of --init_from, instead of all its weights.",
        choices=tuple(KINDS),
    )
    adapter_rank: int = option(12, "Rank of an adapter of kind lora.", at_least=1)
    adapter_info: dict[str, Any] = option(
        {},
        f"Description of the adapter (JSON: {', '.join(INFO)}); default: the EXIF data of the real photos.",
        free=True,
    )
    trust_remote_code: bool = option(
        False,
        "Let --init_from import the module of its network's class (ForeignRestorer), which runs its code.",
        free=True,
    )
    restorer: str = option(
        "small",
        f"Preset of a new restorer ({presets_in_words()}), without --init_from.",
        choices=tuple(RESTORER_PRESETS),
    )
    value_range: list[float] = option([0.0, 1.0], "Value range of a new restorer.")
    # method
    objective: dict[str, Any] = option(
        with_defaults({"type": DEFAULT_OBJECTIVE}),
        f"Training objective: one of {', '.join(OBJECTIVES)}, as a name or as a mapping with its options, which may "
        "also be given by their own names (--weight 0.1).",
    )
    predictor_warmup_steps: int = option(
        0,
        "Number of first steps, at most a third of all, that train the noise predictor (or discriminator) only.",
        at_least=0,
        preparation=True,
    )

    # optimization
    steps: int = option(4000, "Optimizer steps.", at_least=1, aliases=("max_train_steps",))
    minutes: float | None = option(
        None,
        "Time budget of the whole run in minutes, including preparation and saving, instead of --steps.",
        above=0,
    )
    optimizer: str = option(
        "adam", "Optimizer: adam, or muon, which needs fewer steps to train from scratch.", choices=tuple(OPTIMIZERS)
    )
    learning_rate: float = option(1e-4, "Learning rate of the optimizer.", above=0)
    probe_learning_rate: bool = option(
        True,
        "With --init_from: try a few supervised steps first, and lower the learning rate of the restorer until they "
        "raise its held-out loss by at most 1 dB. Off if --learning_rate is given.",
    )
    predictor_learning_rate: float | None = option(
        None, "Learning rate of the noise predictor (or discriminator); default: --learning_rate.", above=0
    )
    learning_rate_schedule: str = option(
        "constant", "Learning rate schedule, as in diffusers: constant, cosine, linear, ...", aliases=("lr_scheduler",)
    )
    learning_rate_warmup_steps: int = option(
        0, "Steps over which the learning rate rises.", at_least=0, aliases=("lr_warmup_steps",)
    )
    gradient_clip: float | None = option(
        None, "Maximum norm of the gradient; default: not clipped.", above=0, aliases=("max_grad_norm",)
    )
    gradient_accumulation_steps: int = option(1, "Batches per optimizer step.", at_least=1)
    total_batch_size: int | None = option(
        None, "Synthetic patches per step over all processes; replaces --gradient_accumulation_steps.", at_least=1
    )
    mixed_precision: str = option("no", "Precision of the networks; losses are in float32.", choices=PRECISIONS)
    dtype: str = option("float32", "Precision of weights and images; float64 is for checks.", choices=DTYPES)
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass, to save memory.")
    compile: bool = option(False, "Compile the networks with torch.compile: slower start, faster steps on CUDA.")
    max_skipped_steps: int = option(
        10, "Maximum number of consecutive skipped steps (NaN, infinite or exploding losses).", at_least=0, free=True
    )
    ema_decay: float = option(
        0.999,
        "Decay of the restorer's moving average, reached after a warm-up.",
        at_least=0,
        below=1,
        aliases=("ema_max_decay",),
    )

    # what to keep
    blend: float = option(
        1.0,
        "Position of the final weights between the initial (0) and the trained ones (1): 0.5 keeps most of the gain "
        "on real photos and most of the initial quality on others.",
        above=0,
        at_most=1,
        preparation=True,
    )
    hold_to_start: bool = option(
        True,
        "With --init_from: revert steps that explode, and end with weights that restore held-out synthetic photos no "
        "worse than the initial ones.",
    )
    select_by: str = option(
        "last", "Selection of the final weights: the last ones, or the best by a score.", choices=SELECTIONS
    )
    early_stopping: int | None = option(
        None, "Stop after this many validations without a better --select_by score.", at_least=1
    )

    # the run
    log_every: int = option(20, "Steps between log lines.", at_least=1, free=True)
    validate_every: int = option(
        500,
        "Steps between validations and sample grids; 0: only at the end, or a dozen times with --select_by.",
        at_least=0,
        selects=True,
        aliases=("validation_steps",),
    )
    checkpoint_every: int = option(
        500,
        "Steps between checkpoints; 0: only at the end.",
        at_least=0,
        free=True,
        aliases=("checkpointing_steps",),
    )
    keep: int = option(2, "Number of checkpoints to keep.", at_least=1, free=True, aliases=("checkpoints_total_limit",))
    health: bool = option(
        True, "At every validation, check for shortcuts and score the restorer without labels.", free=True
    )
    threads: int | None = option(None, "CPU threads; default: torch's choice.", at_least=1, free=True)
    check_memory: bool = option(
        True, "Stop before the first step if the estimated memory is not free; --dry_run shows the estimate.", free=True
    )
    report_to: str = option("tensorboard", "Experiment tracker.", choices=TRACKERS, free=True, aliases=("logger",))
    push_to_hub: bool = option(
        False, "Push the final pipeline, with its card; token and name are checked before the first step.", free=True
    )
    hub_model_id: str | None = option(
        None, "Repository to push to, owner/name; default: your account's, with the name of --output_dir.", free=True
    )
    hub_private: bool | None = option(
        None,
        "Whether a new repository is private; default: your account's setting.",
        free=True,
        aliases=("hub_private_repo",),
    )
    hub_license: str | None = option(None, "License of the weights, an identifier of the Hub (apache-2.0).", free=True)
    resume_with_changes: bool = option(
        False, "Resume a run although its options or photos differ; the differences are recorded.", free=True
    )
    verify_resume: int = option(
        0,
        "Check in a temporary folder that this many steps give identical bits if interrupted, then stop.",
        at_least=0,
        free=True,
    )
    save_noise_predictor: bool = option(False, "Keep the noise predictor in the final pipeline.", free=True)

    def check(self) -> "TrainingConfig":
        """Raises ConfigurationError with all invalid options and combinations; returns self."""
        errors = list(problems(self))
        if errors:
            raise ConfigurationError("invalid options:\n- " + "\n- ".join(errors))
        return self

    @property
    def prepares(self) -> bool:
        """Whether synthetic pairs are prepared from real photos, even for an objective that reads none."""
        return any(getattr(self, name) for name in PAIRS_FROM_REAL)

    def reads(self, role: str) -> bool:
        """Whether the objective reads photos of a role ("real" or "unpaired_clean")."""
        return role in objective_class(self.objective["type"]).photo_roles(self.objective)

    @property
    def uses_real(self) -> bool:
        """Whether real photos are given, and read by the objective or to prepare synthetic pairs."""
        return bool(self.real) and (self.reads("real") or self.prepares)

    def identity(self) -> dict[str, Any]:
        """Returns the options that determine the weights; a run is only resumed with the same ones."""
        free = {f.name for f in fields(self) if facts(f).free or (facts(f).selects and self.select_by == "last")}
        return {name: value for name, value in asdict(self).items() if name not in free}

    def to_yaml(self) -> str:
        """Returns the resolved options as YAML, which can be passed back as `config`."""
        return yaml.safe_dump(asdict(self), sort_keys=False)
