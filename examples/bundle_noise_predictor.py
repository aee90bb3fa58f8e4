"""Noise predictors of a run of objective `noise_predictor`, in half precision, with the record of their training.

python examples/bundle_noise_predictor.py outputs/noise-predictor                 # the last one, into the package
python examples/bundle_noise_predictor.py outputs/noise-predictor --steps 500 1500 6000 --folder outputs/predictors
"""

import argparse
from pathlib import Path

import torch
from bundle_checkpoint import CHECKPOINTS, training_of
from safetensors.torch import load_file

from daa_diffusers import DAAUNet2DConditionModel
from daa_diffusers.hub.record_files import WeightsRecord
from daa_diffusers.hub.records import keep_record
from daa_diffusers.training.run_state import list_checkpoints

AVERAGE = "average."  # of the names in a checkpoint


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run of train_daa.py")
    parser.add_argument("--steps", type=int, nargs="*", help="checkpoints, each into a folder of its number")
    parser.add_argument("--minutes", type=float, help="that the training took")
    parser.add_argument("--folder", type=Path, default=CHECKPOINTS / "noise-predictor", help="where to save")
    arguments = parser.parse_args(argv)
    config = DAAUNet2DConditionModel.load_config(arguments.run / "pipeline" / "unet")
    unet = DAAUNet2DConditionModel.from_config(config)
    made = training_of(arguments.run, minutes=arguments.minutes)
    checkpoints = {int(path.name.split("-")[1]): path for path in list_checkpoints(arguments.run / "checkpoints")}
    for step in arguments.steps or [max(checkpoints)]:
        if step not in checkpoints:
            parser.error(f"--steps: there is no checkpoint of step {step}, there are {sorted(checkpoints)}")
        weights = load_file(checkpoints[step] / "model.safetensors")
        unet.load_state_dict({k.removeprefix(AVERAGE): v for k, v in weights.items() if k.startswith(AVERAGE)})
        keep_record(unet, WeightsRecord({**made, "steps": step}))
        unet.to(torch.float16).save_pretrained(arguments.folder / str(step) if arguments.steps else arguments.folder)
        unet.float()


if __name__ == "__main__":
    main()
