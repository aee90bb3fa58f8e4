"""`daa fit`: a degradation file fitted to the noise, rain or camera shake of a folder of photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints.tasks import DEFAULT_TASK, TASKS, known_tasks
from ..errors import ConfigurationError
from ..restoring.loading import check_model
from .common import check_once, print_skipped, without_warnings
from .fit_noise import SHOWN
from .fit_noise import fit_noise as fit_noise_command

if TYPE_CHECKING:
    from ..degradations.fitting.rain import RainProfile
    from ..degradations.fitting.shake import ShakeProfile

FILES = {"denoise": "noise.yaml", "derain": "rain.yaml", "deblur": "shake.yaml"}  # task -> default output file

app = typer.Typer(add_completion=False)


@app.command()
def fit(
    photos: Annotated[
        list[str], typer.Argument(help="Folders of at least 3 photos with the same kind of degradation.")
    ],
    task: Annotated[str, typer.Option(help=f"Task whose degradation is fitted: {known_tasks()}.")] = DEFAULT_TASK,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The degradation file, .yaml or .json. Default: noise.yaml, rain.yaml or shake.yaml."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Restorer that detects the streaks, for --task derain. Default: bundled.")
    ] = None,
) -> None:
    """Estimate the degradation of photos without ground truth, and write it as a file for training.

    Use the file as `degradation: rain.yaml` in a training config, or `--degradation rain.yaml`. If the photos do not
    have the degradation, this is reported and nothing is written. `daa fit-noise` has more options for noise.
    """
    if task not in FILES:
        raise ConfigurationError(f"`--task` must be {known_tasks()}, got {task!r}")
    if checkpoint is not None and task != "derain":
        raise ConfigurationError(f"`--checkpoint` is only for `--task derain`, got task {task!r}")
    check_once(photos, "photos")
    output = output or Path(FILES[task])
    if task == "denoise":
        fit_noise_command(photos, output)
        return
    from ..degradations.config_files import check_degradation_path

    check_degradation_path(output)  # checked before the fit
    from ..degradations.fitting.shake import fit_shake

    profile: RainProfile | ShakeProfile
    with without_warnings():  # skipped photos are printed below
        profile = _rain(photos, checkpoint) if task == "derain" else fit_shake(photos)
    typer.echo(profile.describe())
    print_skipped(profile.skipped, SHOWN, err=False)
    typer.echo(f"written: {profile.save(output)}")


def _rain(photos: list[str], checkpoint: str | None) -> RainProfile:
    """Fits rain, detected by a derainer."""
    from ..degradations.fitting.rain import fit_rain
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
    from ..training.preparation import as_function

    checkpoint = checkpoint or str(TASKS["derain"].checkpoint)
    check_model(checkpoint)
    pipeline = DAARestorationPipeline.from_pretrained(checkpoint)
    return fit_rain(photos, as_function(pipeline.restorer))
