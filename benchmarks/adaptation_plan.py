"""What `adaptation.py` compares: target domains, the restorers to start from, and the rows of its tables."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from daa_diffusers.training.config import PRESETS

BOTH = ("clean/bsds", "clean/highres")
CAMERA = PRESETS["adapt"]["degradation"]  # the strongest synthesis: camera noise of any strength and correlation
ROOT = Path(__file__).resolve().parents[1]
OWN_PHOTOS = ROOT / "outputs"  # `camera_photos.py` writes folders of photos there
NETWORKS = Path(os.environ.get("DAA_NETWORKS", ROOT.parent / "shared" / "networks"))
ALL_THE_WAY = {"blend": 1.0}  # a start without camera noise has nothing worth keeping
LEVIN = {"metrics": ["psnr_shift", "ssim"], "clean_name": [r"(\d+)_\d+", r"im\1"]}  # 4 photos of each of 4 scenes
GAUSSIAN = {"type": "gaussian", "sigma_min": 0.0, "sigma_max": 50.0}


@dataclass(frozen=True)
class Domain:
    """Real photos to adapt to, and how the result is measured. Folders are seen from the photos' folder.

    Attributes:
        real: unlabeled photos of the domain.
        val: degraded and clean photos to measure on.
        start: the restorer to adapt, a key of `STARTS`.
        oracle: degraded and clean photos of the domain for the supervised bound; None where no targets exist.
        clean, degradation: of the synthetic pairs.
        fits: what can be estimated from `real`, "noise" or "shake"; None: neither.
        transplant: what is transplanted from the real photos, a `transplant_kind`.
        options: of the training of all rows, over `COMMON`.
        adapted: options of the row "adapted" that differ from preset `adapt`.
        strongest: a further checkpoint to measure beside the rows, the mark of a weak start.
        evaluation: arguments of `evaluate_folder`.
    """

    real: str
    val: tuple[str, str]
    start: str
    oracle: tuple[str, str] | None = None
    clean: tuple[str, ...] = BOTH
    degradation: dict[str, Any] = field(default_factory=lambda: CAMERA)
    fits: str | None = "noise"
    transplant: str = "residual"
    options: dict[str, Any] = field(default_factory=dict)
    adapted: dict[str, Any] = field(default_factory=dict)
    strongest: str | None = None
    evaluation: dict[str, Any] = field(default_factory=lambda: {"metrics": ["psnr", "ssim"]})


def _noise(name: str, start: str = "daa-denoise", folder: str = "", **fields: Any) -> Domain:
    """A domain of real noise; `folder` has the parts train and val, each with noisy and clean photos."""
    folder = folder or f"real_noise/{name}"
    train, val = ((f"{folder}/{part}/noisy", f"{folder}/{part}/clean") for part in ("train", "val"))
    return Domain(train[0], val, start, train, **fields)


def _weak(name: str, start: str, clean: tuple[str, ...]) -> Domain:
    return _noise(name, start, clean=clean, degradation=GAUSSIAN, strongest="daa-denoise", adapted=ALL_THE_WAY)


def _own(kind: str, start: str = "weak-gaussian", **options: Any) -> Domain:
    """A domain of photos by `camera_photos.py`; `options` are those of the training."""
    known = {"degradation": GAUSSIAN, "strongest": "daa-denoise", "adapted": ALL_THE_WAY}
    return _noise(kind, start, str(OWN_PHOTOS / f"{kind}_photos"), options=options, **known)


# The official size on CUDA: the U-Net of 8.56 M parameters, the noise predictor of 62.6 M, and their patches.
OFFICIAL = {
    "patch": 128,
    "batch_size": 24,
    "noise_predictor": "paper",
    "noise_predictor_options": {},
    "mixed_precision": "bf16",
    "threads": 4,
    "workers": 4,
    "checkpoint_every": 0,
}

# CDnCNN-B (Zhang et al., 2017) was trained on white noise only and has no normalization: small steps.
PUBLISHED: dict[str, Any] = {"learning_rate": 1e-5, "steps": 120, "checkpoint_every": 0, "mixed_precision": "bf16"}

# A small network whose steps are short.
WHITE: dict[str, Any] = {"mixed_precision": "bf16"}

# Of `maturity.py`: nothing but the loss decides, and any step of a run is the end of a shorter one.
MATURITY: dict[str, Any] = {
    "learning_rate": 2e-4,
    "learning_rate_schedule": "constant",
    "hold_to_start": False,
    "checkpoint_every": 250,
}


def _white(domain: Domain) -> Domain:
    """From the network of the demo, which knows white noise only and whose steps take milliseconds."""
    return replace(domain, start="white-noise", strongest="daa-denoise", adapted=ALL_THE_WAY, options=WHITE)


def _shaken(real: str, val: str) -> Domain:
    """A domain of camera shake, measured on `blurry` and `clean` in `val`; options are those of daa-deblur-adapted."""
    config = yaml.safe_load((ROOT / "examples" / "configs" / "daa-deblur-adapted.yaml").read_text())
    of_rows = ("preset", "init_from", "objective", "output_dir", "clean", "real", "fit_shake", "degradation")
    return Domain(
        real,
        (f"{val}/blurry", f"{val}/clean"),
        "daa-deblur",
        clean=("clean/free", str(OWN_PHOTOS / "photos/lomiri"), "clean/free", str(OWN_PHOTOS / "photos/gray")),
        degradation=config["degradation"],
        fits="shake",
        options={name: value for name, value in config.items() if name not in of_rows},
        evaluation=LEVIN,
    )


OWN = ("phone", "grain", "enlarged", "coded", "sharpened", "scanned", "blotched")  # kinds of `camera_photos.py`

# The first three: noise of cameras, from the bundled denoiser. PolyU: Canon cameras are adapted to, a Sony is measured.
# Then the same from one that was trained on research-only photos, which the results are of; a user's one bad checkpoint
# and a folder of photos, the last ones with noise of our own; rain; camera shake, by the length of trajectories and by
# point spread functions, of the measured photos, of Kohler's, and of Levin's other two scenes, which are linked by
#   cd outputs; mkdir -p levin_{12,34}/{blurry,clean}; levin=$DAA_DATA/real_blur/levin/val
#   for s in 12 34; do ln -s $levin/blurry/[$s]_* levin_$s/blurry; ln -s $levin/clean/im[$s].png levin_$s/clean; done
# Then the first three at the official size, from a published denoiser, and from one of our own that knows white noise
# only, as "phone".
DOMAINS = {
    "renoir": _noise("renoir"),
    "sidd_small": _noise("sidd_small"),
    "polyu": _noise("polyu"),
    "renoir_research": _noise("renoir", "daa-denoise-plain"),
    "sidd_small_research": _noise("sidd_small", "daa-denoise-plain"),
    "polyu_research": _noise("polyu", "daa-denoise-plain"),
    "renoir_weak": _weak("renoir", "weak-bsds", ("clean/bsds",)),
    "polyu_weak": _weak("polyu", "weak-highres", ("clean/highres",)),
    "camera_weak": _own("camera"),
    "phone": _white(_own("phone")),
    **{kind: _white(_own(kind)) for kind in OWN if kind != "phone"},
    **{
        f"{kind}_strong": replace(_own(kind, "daa-denoise"), degradation=CAMERA, adapted={}, strongest=None)
        for kind in OWN
    },
    # its pairs hold white noise; a run that is held to what the start makes of them must not learn the photos' noise
    "phone_free": _own("phone", "white-noise", **WHITE, hold_to_start=False),
    "phone_tiny": _own("phone", "weak-tiny", **MATURITY),
    "rain100l": Domain(
        "rain100l/train/rainy",
        ("rain100l/val/rainy", "rain100l/val/clean"),
        "daa-derain-plain",
        degradation={"type": "rain"},
        fits=None,
        transplant="streaks",
        adapted={"transplant": 0.9, "transplant_kind": "streaks", "blend": 1.0},
        evaluation={"metrics": ["psnr", "ssim"], "space": "y"},
    ),
    "levin": Domain(
        "real_blur/kohler/photos",
        ("real_blur/levin/val/blurry", "real_blur/levin/val/clean"),
        "daa-deblur-plain",
        degradation={"type": "motion_blur", "length": [2.0, 24.0]},  # slight shake, as the start
        fits=None,
        evaluation=LEVIN,
    ),
    "levin_shake": _shaken("real_blur/levin/val/blurry", "real_blur/levin/val"),
    "kohler_shake": _shaken("real_blur/kohler/photos", "real_blur/levin/val"),
    "levin_12": _shaken(str(OWN_PHOTOS / "levin_34/blurry"), str(OWN_PHOTOS / "levin_12")),
    "levin_34": _shaken(str(OWN_PHOTOS / "levin_12/blurry"), str(OWN_PHOTOS / "levin_34")),
    "renoir_official": _noise("renoir", "official-denoise-plain", options=OFFICIAL),
    "sidd_small_official": _noise("sidd_small", "official-denoise-plain", options=OFFICIAL),
    "polyu_official": _noise("polyu", "official-denoise-plain", options=OFFICIAL),
    "phone_official": _own("phone", "official-white", **OFFICIAL),
    "renoir_published": _noise("renoir", "cdncnn-b", options=PUBLISHED, adapted=ALL_THE_WAY),
    "sidd_small_published": _noise("sidd_small", "cdncnn-b", options=PUBLISHED, adapted=ALL_THE_WAY),
    "polyu_published": _noise("polyu", "cdncnn-b", options=PUBLISHED, adapted=ALL_THE_WAY),
    "renoir_white": _white(_noise("renoir")),
    "sidd_small_white": _white(_noise("sidd_small")),
    "polyu_white": _white(_noise("polyu")),
}

# Restorers to start from: bundled, published, or what the config of the same name in examples/configs writes.
STARTS = {
    "daa-denoise": "daa-denoise",
    "daa-deblur": "daa-deblur",
    "daa-denoise-plain": "outputs/daa-denoise-plain-4/pipeline",  # by the configs daa-denoise-plain-1 to -4
    "weak-gaussian": "outputs/weak-gaussian/pipeline",
    "weak-tiny": "outputs/weak-tiny/pipeline",
    "weak-bsds": "outputs/weak-bsds/pipeline",
    "weak-highres": "outputs/weak-highres/pipeline",
    "daa-derain-plain": "outputs/daa-derain-plain/pipeline",
    "daa-deblur-plain": "outputs/daa-deblur-plain/pipeline",
    "official-denoise-plain": "outputs/official-denoise-plain/pipeline",
    "official-white": "outputs/official-white/pipeline",
    "white-noise": "examples/white-noise",
    "cdncnn-b": str(NETWORKS / "cdncnn_b.safetensors"),
}

ONCE_BUNDLED = ("daa-denoise-plain",)

# What all trained rows share: one restorer, one budget.
COMMON: dict[str, Any] = {
    "preset": "adapt",
    "clean_scale": PRESETS["adapt"]["clean_scale"],
    "patch": 48,
    "batch_size": 4,
    "steps": 400,
    "learning_rate": 1e-4,
    "learning_rate_schedule": "cosine",
    "ema_decay": 0.99,
    "threads": 1,
    "report_to": "none",
    "health": False,
    "checkpoint_every": 100,
    "validate_every": 0,
    "keep": 4,  # all: PSNR against steps
    "log_every": 20,
}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        options: of the training, over `COMMON`.
        photos: the row reads the domain's unlabeled photos.
        fits: what the row estimates from them, which must be what a domain's `fits` is; None: nothing.
        oracle: supervised on the domain's pairs.
        chosen: with the options of the method that `daa adapt` chooses for the start and the photos.
    """

    options: dict[str, Any]
    photos: bool = True
    fits: str | None = None
    oracle: bool = False
    chosen: bool = False


PLAIN = {"fit_noise": 0.0, "pseudo_clean": False, "blend": 1.0}  # pairs as the restorer was trained on
SUPERVISED = {**PLAIN, "objective": "supervised"}
WARMUP = COMMON["steps"] // 3  # steps that teach a fresh noise predictor or discriminator first


def _space(**options: Any) -> Row:
    """Noise-space adaptation alone, on the plain pairs, with a fresh noise predictor."""
    return Row({**PLAIN, "predictor_warmup_steps": WARMUP, "weight": 1.0, **options})


def _baseline(objective: str) -> Row:
    warmup = {"predictor_warmup_steps": WARMUP} if objective in ("dann", "pixel_adversarial") else {}
    return Row({**PLAIN, **warmup, "objective": objective})


def _ablation(**options: Any) -> Row:
    return _space(variant="paired", weight_schedule="balanced", **options)


def _renoised_fitted(**options: Any) -> Row:
    return Row({**PLAIN, "objective": "renoised", "fit_noise": 0.75, **options}, fits="noise")


SLOWLY = {"objective": "renoised", "decay": None, "weight": 0.3}  # as in `training.choosing.METHODS`


ROWS = {
    "control": Row(SUPERVISED, photos=False),
    "fitted noise": Row({**SUPERVISED, "fit_noise": 0.75}, fits="noise"),
    "pseudo-clean": Row({**SUPERVISED, "pseudo_clean": True}),
    "fitted noise, pseudo-clean": Row({**SUPERVISED, "fit_noise": 0.75, "pseudo_clean": True}, fits="noise"),
    "fitted shake": Row({**SUPERVISED, "fit_shake": 1.0}, fits="shake"),
    "fitted shake, three quarters": Row({**SUPERVISED, "fit_shake": 0.75}, fits="shake"),
    "fitted shake, half": Row({**SUPERVISED, "fit_shake": 0.5}, fits="shake"),
    "transplant": Row({**SUPERVISED, "transplant": 0.9}),
    "DANN": _baseline("dann"),
    "pixel adversarial": _baseline("pixel_adversarial"),
    "Neighbor2Neighbor": _baseline("neighbor2neighbor"),
    "R2R": _baseline("recorrupted"),
    "mean teacher": _baseline("mean_teacher"),
    "renoised": Row({**PLAIN, "objective": "renoised"}),
    "renoised, fitted noise": _renoised_fitted(),
    "renoised by the start, fitted noise": _renoised_fitted(teacher="start", weight=0.3),
    "renoised slowly": Row({**PLAIN, **SLOWLY}),
    "renoised slowly, free": Row({**PLAIN, **SLOWLY, "hold_to_start": False}),
    "renoised slowly, fitted noise": _renoised_fitted(**SLOWLY),
    "renoised slowly, adapted": Row(SLOWLY, fits="noise"),  # with the other options of the preset
    "paper": _space(variant="paired", weight_schedule="paper", weight=0.2),
    "balanced": _space(variant="paired", weight_schedule="balanced"),
    "extended": _space(variant="extended", weight_schedule="balanced"),
    "hybrid": _space(variant="hybrid", weight_schedule="balanced"),
    "adapted": Row({"predictor_warmup_steps": WARMUP}),  # the preset `adapt`; without fitted noise where it is none
    "score": Row({**PLAIN, "objective": "score"}),
    "chosen": Row({"predictor_warmup_steps": WARMUP}, chosen=True),  # as by `daa adapt`
    "oracle": Row(SUPERVISED, photos=False, oracle=True),
}
# As in the paper's table 4: noise range, channel shuffling, residual swapping.
ABLATION = {
    "t in [1, 100]": _ablation(timestep_range=[1, 100], channel_shuffle=False, residual_swap=False),
    "t in [900, 999]": _ablation(timestep_range=[900, 999], channel_shuffle=False, residual_swap=False),
    "t in [1, 999]": _ablation(channel_shuffle=False, residual_swap=False),
    "+ channel shuffling": _ablation(residual_swap=False),
    "+ residual swapping": _ablation(),
}
SELF_SUPERVISED = ("Neighbor2Neighbor", "R2R", "mean teacher")
RENOISED = ("renoised", "renoised, fitted noise", "renoised slowly, fitted noise")
MAIN = (  # these take every seed
    *("control", "fitted noise, pseudo-clean", "fitted shake", "DANN", "adapted", "chosen", "oracle"),
    *RENOISED,
    *SELF_SUPERVISED,
)
