"""`daa rank`: photos of a folder in the order of their estimated distance from clean photos after restoration."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from ..files import one_line
from ..restoring.loading import check_model
from .common import print_skipped, without_warnings

if TYPE_CHECKING:
    from ..evaluation.ranking import Ranking

app = typer.Typer(add_completion=False)


@app.command()
def rank(
    folder: Annotated[Path, typer.Argument(help="Folder of photos, searched recursively.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            help="Folder or Hub id of a pipeline with a noise predictor, saved by training with --save_noise_predictor."
        ),
    ],
    restored: Annotated[
        bool, typer.Option("--restored", help="The photos are restored already: score them as they are.")
    ] = False,
    against_input: Annotated[
        bool,
        typer.Option(
            "--against-input",
            help="Score relative to the unrestored photo; mostly correlates better with the true error.",
        ),
    ] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Number of photos to print; --output writes all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write all scores to a .csv or .json file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device, such as cuda; default: cpu.", show_default=False)] = None,
) -> None:
    """Order photos by estimated distance from clean photos, the farthest first.

    Photos are restored, and the noise predictor that was trained with the restorer scores the results. Scores are
    deterministic, and comparable only between photos scored with the same checkpoint. Their correlation with the true
    error is in benchmarks/results/ranking.md.
    """
    if restored and against_input:
        raise ConfigurationError("`--against-input` needs unrestored photos: remove `--restored`")
    if output is not None and (output.suffix.lower() not in (".csv", ".json") or not output.parent.is_dir()):
        raise ConfigurationError(f"`--output` must be a .csv or .json file in an existing folder, got {str(output)!r}")
    from ..files import check_writable, write_text
    from ..photos.reading import list_photos

    if output is not None:
        check_writable(output.parent)
    check_model(checkpoint, device)
    list_photos(folder)  # raises before the checkpoint is loaded
    from ..evaluation.ranking import rank_photos
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

    pipeline = DAARestorationPipeline.from_pretrained(checkpoint, load_noise_predictor=True)
    if device:
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    with without_warnings():  # skipped photos are printed below
        ranking = rank_photos(pipeline, folder, restored=restored, against_input=against_input, progress=True)
    if output is not None:
        write_text(output, _csv(ranking) if output.suffix.lower() == ".csv" else _json(ranking))
    if as_json:
        typer.echo(_json(ranking, top), nl=False)
        return
    width = len(str(len(ranking.scores)))
    for record in _records(ranking, top):
        typer.echo(one_line(f"{record['place']:>{width}}  {record['score']:.5f}  {record['photo']}"))
    print_skipped(ranking.skipped)
    if output is not None:
        typer.echo(f"written: {output}", err=True)


def _records(ranking: Ranking, top: int | None = None) -> list[dict]:
    """Returns place, name and score of the first `top` photos, or of all."""
    scores = list(ranking.scores.items())[:top]
    return [{"place": place, "photo": name, "score": score} for place, (name, score) in enumerate(scores, start=1)]


def _json(ranking: Ranking, top: int | None = None) -> str:
    return json.dumps({"photos": _records(ranking, top), "skipped": ranking.skipped}, indent=2) + "\n"


def _csv(ranking: Ranking) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["place", "photo", "score"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_records(ranking))
    return text.getvalue()
