"""Converts a finished run to a bundled checkpoint: the pipeline in half precision, with its training record.

python examples/bundle_checkpoint.py outputs/daa-derain daa-derain --minutes 5
daa evaluate val/rainy --clean val/clean --space y --metrics psnr,ssim --label-free \\
    --checkpoint daa_diffusers/checkpoints/daa-derain --record "Rain100L (val)"
python examples/model_cards.py                      # renders its card from these files

For a run of objective `noise_predictor`, saves only the noise predictor, after the last step or after given steps:

python examples/bundle_checkpoint.py outputs/noise-predictor noise-predictor --noise_predictor
python examples/bundle_checkpoint.py outputs/noise-predictor plain --noise_predictor 500 --folder outputs/predictors
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel
from daa_diffusers.checkpoints import bundled_path, is_bundled
from daa_diffusers.hub.record_files import WeightsRecord, training_record
from daa_diffusers.hub.records import keep_record
from daa_diffusers.training.run_state import list_checkpoints

CHECKPOINTS = Path(__file__).resolve().parents[1] / "daa_diffusers" / "checkpoints"
# Photo sets with free licenses, by the last parts of their folders -> description for the record.
FREE_SOURCES = {
    "clean/free": "budgie-backgrounds (CC0) and Unsplash before June 2017 (public domain), reduced.",
    "photos/lomiri": (
        "lomiri-wallpapers, reduced: Trevor Freespace, Jakub Mede, Aitzol Berasategi, Abhishek Mudgal (CC-BY-4.0), "
        "Clemens Engelhardt (CC0)."
    ),
    "photos/gray": "Gray copies of clean/free.",
    "photos/textures": "Pictures of textures, made by `examples/make_textures.py`; free of any rights.",
}
SOURCES = FREE_SOURCES | {
    "bsds": "BSDS500, the backgrounds of the rain sets taken out; research use only.",
    "highres": "Debian's lomiri-wallpapers (CC-BY, CC-BY-SA, CC0) and mate-backgrounds (GPL-2+), reduced.",
    "renoir/train/noisy": "RENOIR: low light, three cameras.",
    "sidd_small/train/noisy": "SIDD: phones, frames reduced to 256 px.",
    "polyu/train/noisy": "PolyU: Canon cameras; non-commercial.",
    "rain100l/train/rainy": "Rain100L: synthetic streaks of another kind than ours; research use only.",
    "real_blur/kohler/photos": "Koehler et al. 2012: camera shake; research use only.",
}
NOTE = (
    "Weights trained on research-only photos: for non-commercial research use only. The code that made them is under "
    "Apache-2.0."
)
AVERAGE = "average."  # prefix of the averaged weights in checkpoints of a noise predictor's training
FREE_NOTE = "cc-by-4.0"  # license of weights that were trained on `FREE_SOURCES` only


def stages(run: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a run and of the runs from which it started, the latest first."""
    record = json.loads((run / "run.json").read_text())
    yield record
    start = Path(str(record["options"].get("init_from")))
    if start.name == "pipeline" and (start.parent / "run.json").is_file():
        yield from stages(start.parent)


def photo_folders(record: dict[str, Any]) -> set[str]:
    """Returns all folders from which a run read photos."""
    roles = ("clean", "real", "unpaired_clean", "paired_degraded", "paired_clean")
    return {str(Path(folder)) for role in roles for folder in record["options"].get(role) or ()}


def is_free(records: list[dict[str, Any]]) -> bool:
    """Whether all stages read only photos with free licenses, and the first started from new or free weights."""
    folders = set().union(*map(photo_folders, records))
    start = records[-1]["options"].get("init_from")
    started_free = start is None or (is_bundled(start) and training_record(bundled_path(start))["license"] == FREE_NOTE)
    return started_free and all(any(folder.endswith(end) for end in FREE_SOURCES) for folder in folders)


def training_of(run: Path, **further: Any) -> dict[str, Any]:
    """Returns the training record of a run's weights: license, options, photos and their sources."""
    record = json.loads((run / "run.json").read_text())
    # folders are recorded by their last three parts, without local paths
    options = {
        name: ["/".join(Path(folder).parts[-3:]) for folder in value] if name in ("clean", "real") else value
        for name, value in record["options"].items()
    }
    start = Path(str(options.get("init_from")))
    if start.name == "pipeline":  # use the name of the run
        options["init_from"] = start.parent.name
    if options.get("minutes") is not None:  # the number of steps depends on the machine
        options |= {"steps": record["steps"], "minutes": None}
    records = list(stages(run))
    made = {
        "license": FREE_NOTE if is_free(records) else NOTE,
        "steps": record["steps"],
        "options": options,
        "photos": record["photos"],
    }
    made["versions"] = record["versions"]
    folders = set().union(*map(photo_folders, records))
    found = {k: text for k, text in SOURCES.items() if any(folder.endswith(k) for folder in folders)}
    # keys of two parts are recorded by the last part
    made["sources"] = {k if k.count("/") != 1 else k.split("/")[1]: text for k, text in found.items()}
    return made | {name: value for name, value in further.items() if value is not None}


def bundle_noise_predictors(run: Path, folder: Path, steps: list[int]) -> None:
    """Saves the moving average of the noise predictor at each given step to a subfolder, or the last to `folder`."""
    unet = DAAUNet2DConditionModel.from_config(DAAUNet2DConditionModel.load_config(run / "pipeline" / "unet"))
    checkpoints = {int(path.name.split("-")[1]): path for path in list_checkpoints(run / "checkpoints")}
    for step in steps or [max(checkpoints)]:
        if step not in checkpoints:
            raise SystemExit(f"--noise_predictor must be steps with a checkpoint, {sorted(checkpoints)}, got {step}")
        weights = load_file(checkpoints[step] / "model.safetensors")
        unet.load_state_dict({k.removeprefix(AVERAGE): v for k, v in weights.items() if k.startswith(AVERAGE)})
        keep_record(unet, WeightsRecord({**training_of(run), "steps": step}))
        unet.to(torch.float16).save_pretrained(folder / str(step) if steps else folder)
        unet.float()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run of train_daa.py")
    parser.add_argument("name", help="name of the bundled checkpoint")
    parser.add_argument("--minutes", type=float, help="duration of the training")
    parser.add_argument("--history", help="description of the training before this run")
    parser.add_argument("--folder", type=Path, default=CHECKPOINTS, help="folder of bundled checkpoints")
    parser.add_argument(
        "--noise_predictor",
        type=int,
        nargs="*",
        help="save only the noise predictor, each of these steps in a folder of that number; default: the last step",
    )
    arguments = parser.parse_args(argv)
    if arguments.noise_predictor is not None:
        bundle_noise_predictors(arguments.run, arguments.folder / arguments.name, arguments.noise_predictor)
        return
    pipeline = DAARestorationPipeline.from_pretrained(arguments.run / "pipeline").to(torch.float16)
    made = training_of(arguments.run, minutes=arguments.minutes, history=arguments.history)
    keep_record(pipeline.restorer, WeightsRecord(made))
    pipeline.save_pretrained(arguments.folder / arguments.name)
    (arguments.folder / arguments.name / "pipeline.py").unlink()  # needed only on the Hub


if __name__ == "__main__":
    main()
