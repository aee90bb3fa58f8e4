"""`daa adapt`: the training script for people with a folder of photos and ten minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..training.config import TrainingConfig

SHEET_PHOTOS = 4
# What to start from, and what differs by task from preset `adapt`. Noise is fitted to the photos; rain and shake cannot
# be, and what a restorer leaves of them must not be taught as clean.
TASKS: dict[str, dict[str, Any]] = {
    "denoise": {"init_from": "daa-denoise-plain"},
    "derain": {
        "init_from": "daa-derain",
        "degradation": {"type": "rain"},
        "fit_noise": 0.0,
        "pseudo_clean": False,
        "transplant": 0.9,
        "transplant_kind": "streaks",
        "blend": 1.0,
    },
    "deblur": {
        "init_from": "daa-denoise-plain",
        "degradation": {"type": "motion_blur"},
        "fit_noise": 0.0,
        "pseudo_clean": False,
    },
}

app = typer.Typer()


@app.command()
def adapt(
    photos: Annotated[list[str], typer.Argument(help="Your degraded photos: folders, tar shards or hf:NAME datasets.")],
    clean: Annotated[
        list[str] | None,
        typer.Option(
            help="Good photos of any kind; may be repeated. Default: a few of scikit-image's.", show_default=False
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Restorer to start from. Default: a bundled one for the task.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the run; the same command resumes it.")] = Path("adapted"),
    minutes: Annotated[float, typer.Option(help="Time to train.")] = 10.0,
    task: Annotated[str, typer.Option(help="What is wrong with the photos: denoise, derain or deblur.")] = "denoise",
    seed: Annotated[int, typer.Option(help="Everything random is a function of this.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, then stop.")] = False,
) -> None:
    """Adapt a restorer to your own photos, without ground truth. Nothing leaves your machine.

    This is examples/train_daa.py with preset `adapt`; options.yaml in the output folder holds every option.
    """
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = plan(photos, clean, checkpoint=checkpoint, output=output, minutes=minutes, task=task, seed=seed)
    if dry_run:
        from ..training.planning import describe

        typer.echo(describe(config))
        return
    from accelerate import PartialState

    from ..training.loop import train
    from ..training.summary import print_summary

    result = train(config)
    if not PartialState().is_main_process:
        return
    if result.signal is not None:
        typer.echo(f"interrupted after step {result.steps}, which is saved; the same command goes on from there")
        raise typer.Exit(128 + result.signal)
    print_summary(result)
    assert result.pipeline is not None
    sheet = compare(config, result.pipeline)
    typer.echo(f"before and after: {sheet}" if sheet else "before and after: no photo could be shown")
    typer.echo(f"to restore photos with it: daa restore PHOTOS -o restored --checkpoint {result.pipeline}")


def plan(
    photos: list[str],
    clean: list[str] | None,
    *,
    checkpoint: str | None,
    output: Path,
    minutes: float,
    task: str,
    seed: int,
) -> TrainingConfig:
    """The options of the run; without `clean`, photos that come with scikit-image are written beside `output`."""
    from ..training.config import resolve

    if task not in TASKS:
        raise ConfigurationError(f"`--task` must be one of {', '.join(TASKS)}, got {task!r}")
    if not clean:
        from ..data.demo_photos import clean_photos

        try:
            clean = [str(clean_photos(output.with_name(f"{output.name}_clean_photos")))]
        except ImportError as error:
            raise ConfigurationError(
                "`--clean` must name good photos, or install those that come with scikit-image: "
                "pip install 'daa-diffusers[demo]'"
            ) from error
        typer.echo(
            f"clean photos: scikit-image's, in {clean[0]}; a folder of your own good ones (--clean) serves better"
        )
    given = {
        "preset": "adapt",
        **TASKS[task],
        **({"init_from": checkpoint} if checkpoint else {}),
        "clean": clean,
        "real": photos,
        "minutes": minutes,
        "seed": seed,
        "output_dir": str(output),
        "validate_every": 0,
        "report_to": "none",
    }
    return resolve(given).check()


def compare(config: TrainingConfig, adapted: Path) -> Path | None:
    """Writes a sheet of some of the real photos: as they are, restored by the start, and by the adapted restorer."""
    from ..data.photo_noise import middle
    from ..data.sampling import unit_float
    from ..evaluation.folders import restore
    from ..evaluation.sheets import contact_sheet
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
    from ..training.setup import open_sources

    pipelines = [DAARestorationPipeline.from_pretrained(str(name)) for name in (config.init_from, adapted)]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    source = open_sources(config, "real", pipelines[0].channels)[0]
    rows = []
    for _, photo in source.sample(SHEET_PHOTOS):
        cut = unit_float(middle(photo, 256))
        rows.append([cut, *(restore(pipeline, cut) for pipeline in pipelines)])
    if not rows:
        return None
    titles = ("your photo", f"{config.init_from}", "adapted")
    return contact_sheet(rows, titles, (), Path(config.output_dir) / "before_after.png", zoom=2)
