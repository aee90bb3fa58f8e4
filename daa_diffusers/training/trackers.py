"""Experiment trackers of a run: tensorboard, trackio or wandb."""

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator

from .config import TrainingConfig

PROJECT = "daa-diffusers"
TENSORBOARD_FOLDER = "logs"  # in the output folder


def start_trackers(accelerator: Accelerator, config: TrainingConfig, steps: int) -> None:
    """Starts the tracker of `report_to`, with the name of the output folder and the options of the run.

    Args:
        accelerator: accelerator of the run, which starts the tracker.
        config: options of the run.
        steps: planned number of steps of the run.
    """
    if config.report_to == "none":
        return
    options = {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in {**asdict(config), "steps": steps}.items()
    }
    run = {"name": Path(config.output_dir).resolve().name}
    accelerator.init_trackers(
        TENSORBOARD_FOLDER if config.report_to == "tensorboard" else PROJECT,
        config=options,
        init_kwargs={"trackio": run, "wandb": run},
    )
