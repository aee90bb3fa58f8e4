"""`daa convert`: official checkpoints to pipelines, pipelines to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigurationError

app = typer.Typer()


@app.command()
def convert(
    checkpoint: Annotated[
        str, typer.Argument(help="An official file (.pth), or what daa restore takes: a name, folder, file or Hub id.")
    ],
    output: Annotated[Path, typer.Argument(help="A new folder for a pipeline, or a file that ends in .onnx.")],
    task: Annotated[
        str | None, typer.Option(help="Of an official file: denoise, derain or deblur. Decides its value range.")
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="The official noise predictor, where it is in a file of its own.")
    ] = None,
) -> None:
    """Convert official weights into a pipeline's folder, or a restorer into ONNX.

    Official weights keep their licence (non-commercial), and the folder says so.
    """
    from ..hub.resolving import resolve
    from ..official.files import PICKLED, convert_official_file, is_official_file

    source = Path(checkpoint)
    if source.suffix in PICKLED and not source.exists():
        raise ConfigurationError(f"`checkpoint` must be an existing file, got {checkpoint!r}")
    official = is_official_file(source)
    if not official:
        resolve(checkpoint, "checkpoint")  # a slip in a name comes before what would fit it
    if not official and (task is not None or predictor is not None):
        raise ConfigurationError(f"`--task` and `--predictor` are for official files, {checkpoint!r} is none")
    if output.suffix == ".onnx":
        if official:
            raise ConfigurationError(f"convert {checkpoint!r} to a folder first, then the folder to {output.name!r}")
        from ..export import export_onnx
        from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

        export_onnx(DAARestorationPipeline.from_pretrained(checkpoint).restorer, output)
        typer.echo(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB), checked against torch")
        return
    if not official:
        raise ConfigurationError(
            f"`output` must end in .onnx for {checkpoint!r}, got {str(output)!r}: only official files become folders"
        )
    if task is None:
        raise ConfigurationError("`--task` must say what the official file is for: denoise, derain or deblur")
    convert_official_file(source, output, task=task, predictor=predictor)
    typer.echo(f"written: {output}")
    typer.echo("The weights keep the official licence, S-Lab 1.0: non-commercial use only.")
