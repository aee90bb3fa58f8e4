"""`daa adapt`: adaptation of a restorer to a folder of photos within a time budget."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints.tasks import DEFAULT_TASK, TASKS, known_tasks
from ..errors import ConfigurationError
from ..restoring.loading import check_model
from .common import check_once
from .option_names import adapt_option_names, renamed

if TYPE_CHECKING:
    from ..sources.folders import PhotoSource
    from ..training.config import TrainingConfig
    from ..training.setup import Inputs

SHEET_PHOTOS, SHEET_CROP = 4, 256  # largest number of photos in the sheet, and side of their center crops in pixels
SHEET_SECONDS = 3.0  # of the time budget, reserved for loading both restorers and rendering the sheet

AUTO = "auto"  # the method is chosen by measurement
METHODS = (AUTO, "preset", "fitted", "renoised", "renoised_fitted")

app = typer.Typer(add_completion=False)


TaskName = Annotated[
    str | None,
    typer.Option(
        help=f"Degradation to remove: {known_tasks()}. Default: the task recorded in --checkpoint.",
        show_default=False,
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="auto (chosen by measurements on the photos and the initial restorer), preset (as in "
        "examples/train_daa.py), fitted (pairs with noise fitted to the photos, no noise predictor), renoised "
        "(self-distillation) or renoised_fitted (the last two together)."
    ),
]
Bursts = Annotated[
    Path | None,
    typer.Option(
        help="Folder with a subfolder per static scene, each with two or more frames, from the same camera as the "
        "photos: the weights that restore them best are kept. Default: the last weights.",
        show_default=False,
    ),
]


@app.command()
def adapt(
    context: typer.Context,
    photos: Annotated[list[str], typer.Argument(help="Your degraded photos: folders, tar shards or hf:NAME datasets.")],
    clean: Annotated[
        list[str] | None,
        typer.Option(
            help="Clean photos of any kind; may be repeated. Default: photos of scikit-image.", show_default=False
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Restorer to start from: name, folder, weight file (.safetensors, .pth), Hub id. Default: bundled for "
            "the task.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder; the same command resumes the run in it.")
    ] = Path("adapted"),
    minutes: Annotated[
        float, typer.Option(help="Time budget of the whole command, preparation and saving included.")
    ] = 10.0,
    task: TaskName = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    method: Method = AUTO,
    bursts: Bursts = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved options and the plan, then stop.")
    ] = False,
) -> None:
    """Adapt a restorer to your own photos, without ground truth. Nothing leaves your machine.

    Equivalent to examples/train_daa.py with preset adapt (adapt-TASK for another --task) and the options of --method;
    options.yaml in the output folder lists all options. Exit status 2: invalid options or photos. Exit status 3: no
    trained weights restore held-out synthetic photos as well as the initial restorer; its weights are saved unchanged.
    """
    from ..training.choosing import with_method

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if method not in METHODS:
        raise ConfigurationError(f"`--method` must be one of {', '.join(METHODS)}, got {method!r}")
    with adapt_option_names():
        config = plan(
            photos,
            clean,
            checkpoint=checkpoint,
            output=output,
            minutes=minutes,
            task=task,
            seed=seed,
            bursts=bursts,
        )
        if dry_run:
            if method == AUTO:
                typer.echo(
                    "# the method is chosen at the start of the run (see --method); these are the preset's options"
                )
            else:
                config = with_method(config, method)
            typer.echo(_describe(config, write_clean=not clean))
            return
        inputs = _open(config, write_clean=not clean, begun=context.obj)
        reasons: tuple[str, ...] = ()
        if method == AUTO:
            method, reasons = _chosen(config, inputs)
        _train(with_method(config, method), inputs, reasons, begun=context.obj)


def _open(config: TrainingConfig, write_clean: bool, begun: float | None) -> Inputs:
    """Opens the restorer and the photos of a run, and inspects the real photos of a new run.

    Args:
        config: options of the run.
        write_clean: whether to write the clean photos, which are scikit-image's, after the real photos are checked.
        begun: `time.time()` at which the command started, from which --minutes count.

    Raises:
        ConfigurationError: the photos or the output folder are not suitable; nothing has been written.
    """
    from ..models.restorer import RestorerContract
    from ..training import setup
    from ..training.output import check_output
    from ..training.pace import Pace
    from ..training.real_photos import INSPECTION, inspect_all

    check_output(Path(config.output_dir))
    restorer = setup.build_restorer(config)
    channels = RestorerContract.of(restorer).channels
    real = setup.open_sources(config, "real", channels)
    inspections = None
    if config.fit_noise and not (Path(config.output_dir) / "run.json").exists():
        inspections = inspect_all(real, Pace(config, begun=begun).share(INSPECTION))
    if write_clean:
        _write_clean(Path(config.clean[0]))
    return setup.Inputs(restorer, setup.open_all_sources(config, channels, real=real), inspections)


def _chosen(config: TrainingConfig, inputs: Inputs) -> tuple[str, tuple[str, ...]]:
    """Returns the method chosen by measurements, and the reasons; a resumed run keeps its method."""
    import yaml

    from ..training.choosing import choose, method_of

    if not config.fit_noise:  # the preset of a task that removes no noise
        return "preset", ()
    options = Path(config.output_dir) / "options.yaml"
    if options.exists():
        return method_of(yaml.safe_load(options.read_text(encoding="utf-8"))), ()
    choice = choose(config, inputs)
    return choice.method, choice.reasons


def _describe(config: TrainingConfig, write_clean: bool) -> str:
    """Returns the plan as text; with `write_clean`, the clean photos are written to a temporary folder for it."""
    from ..training.planning import describe

    if not write_clean:
        return describe(config)
    with tempfile.TemporaryDirectory() as folder:
        _write_clean(Path(folder))
        return describe(dataclasses.replace(config, clean=[folder]), shown=config)


def _train(config: TrainingConfig, inputs: Inputs, reasons: Sequence[str], begun: float | None) -> None:
    """Trains and prints the result.

    Args:
        config: options of the run, with those of the method.
        inputs: result of `_open`.
        reasons: reasons for the method, printed after the checks of the run.
        begun: as for `_open`.
    """
    from accelerate import PartialState

    from ..training.loop import Trainer
    from ..training.result import START_KEPT
    from ..training.summary import print_summary

    trainer = Trainer(config, begun=begun, after=SHEET_SECONDS, inputs=inputs)
    if PartialState().is_main_process and reasons:
        typer.echo("\n".join(reasons))
    result = trainer.train()
    if not PartialState().is_main_process:
        return
    if result.signal is not None:
        typer.echo(f"interrupted after step {result.steps}, which is saved; run the same command to resume")
        raise typer.Exit(128 + result.signal)
    result.alarms = [renamed(alarm) for alarm in result.alarms]
    print_summary(result)
    if any("`" in alarm for alarm in result.alarms):
        options = Path(config.output_dir) / "options.yaml"
        typer.echo(f"(alarms refer to options of examples/train_daa.py; {options} has their values)")
    assert result.pipeline is not None
    if result.start_kept:
        typer.echo(
            f"no trained weights restore better than {config.init_from}: {result.pipeline} has its weights, "
            "unchanged. More --minutes or other --clean photos may help"
        )
        raise typer.Exit(START_KEPT)
    sheet = compare(config, result.pipeline, inputs.sources["real"][0])
    typer.echo(f"before and after: {sheet}" if sheet else "before and after: no photo could be shown")
    typer.echo(
        f"to restore photos with the adapted checkpoint: daa restore PHOTOS -o restored --checkpoint {result.pipeline}"
    )


def plan(
    photos: list[str],
    clean: list[str] | None,
    *,
    checkpoint: str | None,
    output: Path,
    minutes: float,
    task: str | None,
    seed: int,
    bursts: Path | None = None,
) -> TrainingConfig:
    """Resolves and checks the options of the run; nothing is written.

    Without `clean`, the clean photos are in a folder next to `output`, to which `_open` writes scikit-image's photos.

    Raises:
        ConfigurationError: unknown task, or a checkpoint or source that cannot be opened.
    """
    from ..sources.specs import open_source
    from ..training.config import resolve

    if task is not None and task not in TASKS:
        raise ConfigurationError(f"`--task` must be one of {', '.join(TASKS)}, got {task!r}")
    if checkpoint is not None:
        check_model(checkpoint)
        recorded = _task_of(checkpoint)
        if task is not None and recorded not in (None, task):
            typer.echo(f"warning: {checkpoint} was trained for task {recorded}, but is adapted to {task}", err=True)
        task = task or recorded
        if task is None:
            typer.echo(f"task: {DEFAULT_TASK} (none is recorded for {checkpoint}; set --task)")
    task = task or DEFAULT_TASK
    check_once(photos, "photos")
    for spec in photos:
        if not spec.startswith("hf:"):  # slow to open, so checked by the trainer only
            open_source(spec, argument="photos")
    if not clean:
        named = output if output.name not in ("", "..") else output.resolve()  # "." and ".." have no name of their own
        clean = [str(named.with_name(f"{named.name}_clean_photos"))]
        typer.echo(
            f"clean photos: scikit-image's, in {clean[0]}; a folder of your own clean photos (--clean) is better"
        )
    options = {
        "preset": TASKS[task].preset,
        **({"init_from": checkpoint} if checkpoint else {}),
        **({"validation_bursts": str(bursts), "select_by": "bursts"} if bursts else {}),
        "clean": clean,
        "real": photos,
        "minutes": minutes,
        "seed": seed,
        "output_dir": str(output),
        "validate_every": 0,
        "report_to": "none",
    }
    return resolve(options).check()


def _task_of(checkpoint: str) -> str | None:
    """Returns the task in the config or record of a checkpoint; None if there is none."""
    from ..hub.description import describe, describe_repository
    from ..hub.resolving import resolve

    source = resolve(checkpoint)
    if source.kind == "hub":
        return describe_repository(source.location).task
    folder = Path(source.location) if source.kind == "folder" else Path(source.location).parent
    is_bare_file = source.kind == "file" and not (folder / "config.json").is_file()
    return None if is_bare_file else describe(folder).task


def _write_clean(folder: Path) -> None:
    """Writes scikit-image's photos into a folder that holds nothing else."""
    from ..sources.demo_photos import clean_photos

    try:
        clean_photos(folder)
    except ImportError as error:
        raise ConfigurationError(
            "`--clean` must name clean photos; scikit-image's, the default, need pip install 'daa-diffusers[demo]'"
        ) from error
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{str(folder)!r} must contain only scikit-image's photos: set `--clean`, or another `--output`"
        ) from error


def compare(config: TrainingConfig, adapted: Path, source: PhotoSource) -> Path | None:
    """Writes a comparison sheet of some photos: the input, and the results of the initial and the adapted restorer.

    Returns:
        Path of the sheet, or None if no photo can be read.
    """
    from ..evaluation.folders import restore
    from ..evaluation.sheets import contact_sheet
    from ..photos.pixels import center_crop, unit_float
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

    pipelines = [DAARestorationPipeline.from_pretrained(str(name)) for name in (config.init_from, adapted)]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    rows = []
    for _, photo in source.sample(SHEET_PHOTOS):
        crop = unit_float(center_crop(photo, SHEET_CROP))
        rows.append([crop, *(restore(pipeline, crop) for pipeline in pipelines)])
    if not rows:
        return None
    titles = ("your photo", f"{config.init_from}", "adapted")
    return contact_sheet(rows, titles, (), Path(config.output_dir) / "before_after.png", zoom=2)
