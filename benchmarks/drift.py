"""Drift of renoised self-distillation: PSNR along runs of four times the usual length, beside what labels do not tell.

    python benchmarks/drift.py --networks FOLDER --sets renoir polyu     # 5 minutes of one core a set

CDnCNN-B, adapted by `objective` renoised alone (400 % of the steps of the domains `*_published` of `adaptation.py`, its
learning rate, bfloat16). At each look the averaged weights restore the middle 192 px of up to 8 photos of `val`, whose
clean ones measure, and the label-free values of `training.health` are taken on photos of `train`. The report says which
look each score would keep, and what that misses of the best one. Looks that were taken are kept in JSON lines: the
report holds all that are there. `--only-report` takes none. One seed; the usual length is the first quarter of the
longer run, whose learning rate falls more slowly.
"""

import argparse
import copy
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common
import torch
from adaptation_plan import BOTH, PUBLISHED
from PIL import Image

from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.photos.pixels import center_crop
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.sampling import PairedFolders
from daa_diffusers.training.config import resolve
from daa_diffusers.training.health import Health
from daa_diffusers.training.loop import Trainer
from daa_diffusers.training.validation import Validation

SETS = ("renoir", "polyu", "sidd_small")
LONGER = 4
LOOKS = (0, 40, 80, 120, 160, 240, 320, 400, 480)
SIDE, PHOTOS = 192, 8
SHOWN = ("score", "estimated_gain", "signal_correlation", "residual_whiteness", "colour_drift", "clean_fidelity")


def middles(data: Path, name: str, folder: Path) -> PairedFolders:
    """The middle of some photos of `val`, written into `folder`."""
    pair = []
    for kind in ("noisy", "clean"):
        source = PhotoFolder(data / "real_noise" / name / "val" / kind)
        (folder / kind).mkdir()
        for index in source.spread(PHOTOS):
            pixels = center_crop(source.photo(index), SIDE).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / kind / f"{index:03d}.png")
        pair.append(PhotoFolder(folder / kind))
    return PairedFolders(*pair)


def run(arguments: argparse.Namespace, name: str, kept: Path) -> None:
    """One run with its looks, each a line of `kept`; a run that was interrupted begins anew."""
    kept.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = {
            **PUBLISHED,
            "preset": "adapt",
            "objective": {"type": "renoised"},
            "init_from": str(arguments.networks / "cdncnn_b.safetensors"),
            "real": [str(arguments.data / "real_noise" / name / "train" / "noisy")],
            "clean": [str(arguments.data / clean) for clean in BOTH],
            "blend": 1.0,
            "batch_size": 4,
            "steps": LONGER * PUBLISHED["steps"],
            "health": False,  # it is looked at here
            "hold_to_start": False,
            "report_to": "none",
            "threads": 1,
            "validate_every": 0,
            "output_dir": str(folder / "run"),
        }
        trainer = Trainer(resolve(options).check(), progress_bar=False)
        (folder / "val").mkdir()
        validation = Validation(middles(arguments.data, name, folder / "val"))
        health = Health.from_config(trainer.config)
        assert health is not None

        def look(step: int, restorer: torch.nn.Module) -> None:
            looked = copy.deepcopy(restorer).float().eval()
            values = {"step": step, **validation.run(looked)[0], **health.run(looked).values}
            with open(kept, "a") as file:
                file.write(json.dumps({key: round(value, 4) for key, value in values.items()}) + "\n")
            print(name, values, flush=True)

        look(0, trainer.bare.restorer)
        take = trainer.steps.take

        def take_and_look(step: int, *rest: Any) -> Any:
            scalars = take(step, *rest)
            if step + 1 in LOOKS:
                with trainer.kept.applied() as restorer:
                    look(step + 1, restorer)
            return scalars

        trainer.steps.take = take_and_look  # type: ignore[method-assign]
        trainer.train()


def missed(looks: list[dict[str, float]], score: str) -> tuple[int, float]:
    """The step that a score keeps, and how far its PSNR is below that of the best look."""
    chosen = max(looks, key=lambda look: look[score])
    return int(chosen["step"]), max(look["psnr"] for look in looks) - chosen["psnr"]


def report(sets: Iterable[tuple[str, list[dict[str, float]]]]) -> str:
    """Markdown of the looks of each set, and of what scores would keep."""
    lines = ["# Drift of renoised self-distillation", "", "`python benchmarks/drift.py --networks FOLDER`", ""]
    lines += [" ".join((__doc__ or "").split("\n\n")[2].split()), ""]
    for name, looks in sets:
        lines += [f"## {name}", ""]
        numbers = [{name: f"{look[name]:.2f}" for name in ("psnr", *SHOWN)} for look in looks]
        lines += [markdown_table([{"step": look["step"], **n} for look, n in zip(looks, numbers, strict=True)])]
        rows: list[dict[str, Any]] = []
        usual = [look for look in looks if look["step"] <= PUBLISHED["steps"]]
        for run_looks in (usual, looks) if len(usual) < len(looks) else (looks,):
            kept = {score: missed(run_looks, score) for score in ("score", "estimated_gain")}
            last = int(run_looks[-1]["step"])
            kept["none, the last"] = last, max(look["psnr"] for look in run_looks) - run_looks[-1]["psnr"]
            rows += [
                {"steps": last, "kept by": score, "step kept": step, "missed (dB)": f"{miss:.2f}"}
                for score, (step, miss) in kept.items()
            ]
        if looks[-1]["step"] < LOOKS[-1]:
            lines += ["", f"The run was interrupted after this; it was to have {LOOKS[-1]} steps."]
        lines += ["", markdown_table(rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = common.parser(__doc__, "drift.md", data=True)
    parser.add_argument("--networks", type=Path, default=os.environ.get("DAA_NETWORKS"), help="folder of cdncnn_b")
    parser.add_argument("--sets", nargs="+", default=["renoir", "polyu"], choices=SETS)
    parser.add_argument("--kept", type=Path, default=common.RESULTS / "drift", help="of the looks")
    parser.add_argument("--only-report", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.kept.mkdir(parents=True, exist_ok=True)
    for name in [] if arguments.only_report else arguments.sets:
        run(arguments, name, arguments.kept / f"{name}.jsonl")
    read = {}
    for path in (arguments.kept / f"{name}.jsonl" for name in SETS):
        if path.exists():
            read[path.stem] = [json.loads(line) for line in path.read_text().splitlines()]
    common.publish(arguments.report, report(read.items()))


if __name__ == "__main__":
    main()
