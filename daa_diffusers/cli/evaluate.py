"""`daa evaluate`: scores of restorers on photos or bursts, compared with the untouched input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints import DEFAULT
from ..errors import ConfigurationError
from ..files import check_writable
from ..restoring.loading import load_pipeline
from .common import print_skipped

if TYPE_CHECKING:
    from ..evaluation.result import Evaluation, Restorers

app = typer.Typer(add_completion=False)

Bursts = Annotated[
    Path | None,
    typer.Option(
        help="Instead of photos: a folder with a subfolder per static scene, each with two or more frames.",
        show_default=False,
    ),
]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        help="Bundled name, folder, weight file (.safetensors, .pth) or Hub id; may be repeated.",
        show_default=False,
    ),
]
Record = Annotated[
    str | None,
    typer.Option(
        help="Record the scores in the folder of the last --checkpoint, for its model card, under this test set name.",
        show_default=False,
    ),
]


@app.command()
def evaluate(
    degraded: Annotated[
        Path | None, typer.Argument(help="Folder of photos, searched recursively.", show_default=False)
    ] = None,
    clean: Annotated[
        Path | None, typer.Option(help="Folder of clean photos, paired with the degraded ones by name.")
    ] = None,
    bursts: Bursts = None,
    checkpoint: Checkpoints = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Comma-separated names: psnr, ssim, psnr_shift, lpips, or no-reference metrics."),
    ] = None,
    space: Annotated[str, typer.Option(help="rgb, or y for the Y channel (deraining).")] = "rgb",
    crop_border: Annotated[int, typer.Option(help="Pixels to crop at each border.")] = 0,
    label_free: Annotated[
        bool | None,
        typer.Option(
            help="Statistics of residuals and remaining noise. Default: only without --clean.", show_default=False
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Row with which the other rows are compared.")] = "identity",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for report.md, scores.csv and contact sheets.")
    ] = None,
    sheets: Annotated[bool, typer.Option(help="Write contact sheets of the best, median and worst photos.")] = True,
    record: Record = None,
    device: Annotated[str | None, typer.Option(help="Device, such as cuda; default: cpu.", show_default=False)] = None,
) -> None:
    """Measure restorers on photos, with or without ground truth, or on bursts. One row is the untouched input.

    With --bursts, only --checkpoint, --baseline, --output and --device are used.
    """
    if (degraded is None) == (bursts is None):
        raise ConfigurationError("give either a folder of photos or `--bursts`")
    if space not in ("rgb", "y"):
        raise ConfigurationError(f"`--space` must be rgb or y, got {space!r}")
    if record is not None and not (checkpoint and Path(checkpoint[-1]).is_dir() and clean):
        raise ConfigurationError("`--record` needs `--clean`, and a pipeline's folder as the last `--checkpoint`")
    options: dict[str, Any] = {
        "metrics": [name.strip() for name in metrics.split(",") if name.strip()] if metrics else None,
        "space": space,
        "crop_border": crop_border,
        "label_free": label_free,
    }
    if output is not None:
        check_writable(output)
    checkpoints = checkpoint or [DEFAULT]
    if record is not None:  # checked before the measurement
        _check_record(checkpoints[-1], record, options)
    restorers = {row: load_pipeline(name, device or "cpu") for row, name in row_names(checkpoints).items()}
    if baseline != "identity" and baseline not in restorers:
        raise ConfigurationError(f"`--baseline` must be one of identity, {', '.join(restorers)}, got {baseline!r}")
    if degraded is None:
        assert bursts is not None
        return _evaluate_bursts(restorers, bursts, baseline, output)
    result = _evaluate_photos(restorers, degraded, clean, options, baseline, output, sheets)
    if record is not None:
        from ..evaluation.recording import record_evaluation

        typer.echo(f"written: {record_evaluation(checkpoints[-1], record, result)}")


def _check_record(checkpoint: str, record: str, options: dict[str, Any]) -> None:
    """Raises the errors of recording an evaluation with these options of `evaluate_folder` as `record`."""
    from ..evaluation.folders import plan_evaluation
    from ..evaluation.recording import check_record

    label_free = bool(options["label_free"])  # by default False, since there are clean photos
    metrics, protocol = plan_evaluation(True, **{**options, "label_free": label_free})
    check_record(checkpoint, record, [metric.name for metric in metrics], protocol)


def _evaluate_photos(
    restorers: Restorers,
    degraded: Path,
    clean: Path | None,
    options: dict[str, Any],
    baseline: str,
    output: Path | None,
    sheets: bool,
) -> Evaluation:
    """Scores photos with the given options of `evaluate_folder`; prints and writes the report."""
    from ..evaluation import evaluate_folder
    from ..evaluation.report import markdown_report, write_report

    result = evaluate_folder(restorers, degraded, clean, **options, progress=True)
    typer.echo(markdown_report(result, baseline=baseline))
    print_skipped(result.skipped)
    if output is not None:
        typer.echo(f"written: {write_report(result, output, baseline=baseline, sheets=sheets)}")
    return result


def _evaluate_bursts(restorers: Restorers, bursts: Path, baseline: str, output: Path | None) -> None:
    """Scores bursts; prints and writes the report."""
    from ..evaluation.bursts import evaluate_bursts
    from ..files import write_text

    text = evaluate_bursts(restorers, bursts).report(baseline)
    typer.echo(text)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        typer.echo(f"written: {write_text(output / 'report.md', text)}")


def row_names(checkpoints: list[str]) -> dict[str, str]:
    """Returns row name -> checkpoint; a name is the end of the path, long enough to differ from earlier names."""
    rows: dict[str, str] = {}
    for checkpoint in checkpoints:
        if checkpoint in rows.values():
            raise ConfigurationError(f"`--checkpoint` {checkpoint!r} is given twice")
        parts = Path(checkpoint).parts
        for count in range(1, len(parts) + 1):
            row = "/".join(parts[-count:])
            says_nothing = row == "pipeline" and count < len(parts)  # the name of every training result
            if row not in rows and not says_nothing:
                break
        rows[row] = checkpoint
    return rows
