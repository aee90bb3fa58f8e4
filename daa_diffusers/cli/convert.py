"""`daa convert`: conversion of weight files to pipelines, and of restorers to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints.tasks import known_tasks
from ..errors import ConfigurationError
from ..files import check_writable

app = typer.Typer(add_completion=False)


@app.command()
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A weight file (.pth or .safetensors, official or of an architecture that spandrel recognizes), or a "
            "bundled name, folder or Hub id."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="A new folder for a pipeline, or a file that ends in .onnx.")],
    task: Annotated[
        str | None,
        typer.Option(help=f"Task of the weight file: {known_tasks()}. Required for official weights."),
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="File of the official noise predictor, if it is a separate file.")
    ] = None,
) -> None:
    """Convert a weight file into a pipeline folder, or a restorer into ONNX.

    The license of the weights is recorded in the folder. Official weights have a non-commercial license; the license of
    other files is read from the record next to the file, if there is one.
    """
    from ..foreign.weights import PICKLED, SAFETENSORS
    from ..hub.resolving import resolve
    from ..official.folders import convert_official_file, is_official_file

    source = Path(checkpoint)
    if source.suffix in (*PICKLED, SAFETENSORS) and not source.exists():
        raise ConfigurationError(f"`checkpoint` must be an existing file, got {checkpoint!r}")
    is_official = is_official_file(source)
    is_weight_file = is_official or resolve(checkpoint, "checkpoint").kind == "file"
    to_onnx = output.suffix == ".onnx"
    if predictor is not None and not is_official:
        raise ConfigurationError(f"`--predictor` is only for official files, got {checkpoint!r}")
    if task is not None and not is_weight_file:
        raise ConfigurationError(f"`--task` is only for weight files, got {checkpoint!r}")
    if to_onnx and not output.parent.is_dir():
        raise ConfigurationError(f"`output` must be in an existing folder, got {str(output)!r}")
    check_writable(output.parent if to_onnx or output.is_file() else output)
    if to_onnx and is_official:
        raise ConfigurationError(f"convert {checkpoint!r} to a folder first, then the folder to {output.name!r}")
    if not to_onnx and not is_weight_file:
        raise ConfigurationError(
            f"`output` must end in .onnx for {checkpoint!r}, got {str(output)!r}: only weight files become folders"
        )
    if is_official and task is None:
        raise ConfigurationError("`--task` must name the task of the official file: denoise, derain or deblur")

    if to_onnx:
        from ..export import export_onnx
        from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

        export_onnx(DAARestorationPipeline.from_pretrained(checkpoint).restorer, output)
        typer.echo(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB), checked against torch")
    elif is_official:
        assert task is not None
        convert_official_file(source, output, task=task, predictor=predictor)
        typer.echo(f"written: {output}")
        typer.echo("The weights keep the official license, S-Lab 1.0: non-commercial use only.")
    else:
        from ..hub.description import describe
        from ..restoring.loading import convert_weights

        license = describe(convert_weights(checkpoint, output, task)).license
        typer.echo(f"written: {output}")
        unknown = "The license of the weights is unknown; ask their publisher before you use them."
        typer.echo(unknown if license.key is None else f"The weights keep their license, {license.key}: {license.text}")
