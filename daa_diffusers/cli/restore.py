"""`daa restore`: restoration of photo files, keeping their metadata."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints import DEFAULT
from ..errors import ConfigurationError
from ..files import one_line
from ..restoring.loading import check_dtype, check_model, load_pipeline
from . import process
from .common import (
    MODEL,
    PHOTO,
    RUN,
    AsJson,
    AutoDtype,
    Bits,
    Checkpoint,
    Format,
    Guard,
    MaxMegapixels,
    Quality,
    SelfEnsemble,
    Strength,
    StripLocation,
    Tile,
    parse_tile,
    with_option_names,
)

if TYPE_CHECKING:
    from ..restoring.options import Options
    from ..restoring.outputs import Plan
    from ..restoring.work import Summary

app = typer.Typer(add_completion=False)

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...", rich_help_panel=MODEL)]
Backend = Annotated[
    str, typer.Option(help="torch, or onnx (ONNX Runtime, CPU only, faster there).", rich_help_panel=MODEL)
]
Suffix = Annotated[str, typer.Option(help='Suffix of the new file names, e.g. "_restored".', rich_help_panel=PHOTO)]
Compare = Annotated[Path | None, typer.Option(help="Folder for before/after sheets.", rich_help_panel=PHOTO)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing files. Default: skip them.", rich_help_panel=RUN)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the photos that would be restored.", rich_help_panel=RUN)]


@app.command()
def restore(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help='Photos, folders (recursive), patterns ("raw/**/*.jpg"), or "-" for a list on standard input.'
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, created if missing; for one photo also a file.")
    ],
    checkpoint: Checkpoint = DEFAULT,
    strength: Strength = 1.0,
    guard: Guard = True,
    self_ensemble: SelfEnsemble = False,
    tile: Tile = "auto",
    device: Device = None,
    dtype: AutoDtype = "auto",
    backend: Backend = "torch",
    format: Format = None,
    bits: Bits = None,
    quality: Quality = None,
    strip_location: StripLocation = False,
    suffix: Suffix = "",
    compare: Compare = None,
    overwrite: Overwrite = False,
    max_megapixels: MaxMegapixels = 300.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Restore photos. Format, bit depth, color profile, EXIF, transparency, permissions and time are kept.

    Photos whose output exists are skipped, so that the same command resumes after an interruption. Photos that cannot
    be restored are reported; the exit status is then 1. A full or read-only disk stops the run (exit status 2). With
    `accelerate launch -m daa_diffusers.cli restore ...`, the photos are divided among the processes.
    """
    from ..files import check_writable
    from ..photos.registry import checked_format
    from ..restoring.options import Options
    from ..restoring.outputs import find_jobs, format_of_output

    # a format if the output is a file, None if it is a folder
    file_format = format_of_output(inputs, os.fspath(output), checked_format(format), suffix)
    options = Options(
        format=file_format or format,
        bits=bits,
        quality=quality,
        strip_location=strip_location,
        overwrite=overwrite,
        max_megapixels=max_megapixels,
        strength=strength,
        guard=guard,
        self_ensemble=self_ensemble,
        tile=parse_tile(tile),
        compare=None if compare is None else str(compare),
        dry_run=dry_run,
    )
    _check_backend(backend, checkpoint, device, dtype)
    if compare is not None and compare.exists() and not compare.is_dir():
        raise ConfigurationError(f"`--compare` must be a folder, got the file {str(compare)!r}")
    for folder in (output.parent if file_format else output, compare):
        if folder is not None and not dry_run:
            check_writable(folder)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # tifffile also raises the errors that it logs
    team = _Team()

    def plan() -> Plan:
        choices: Any = {"format": options.format, "suffix": suffix, "overwrite": overwrite, "compare": options.compare}
        return find_jobs(inputs, str(output), listed=_lines() if "-" in inputs else (), **choices)

    def load() -> Any:
        if backend == "onnx" or checkpoint.endswith(".onnx"):
            return _load_onnx(checkpoint)
        return load_pipeline(checkpoint, device or team.device, dtype)

    status = _run(team.broadcast(plan), options, load, team, as_json)
    if status:
        raise typer.Exit(status)


def _check_backend(backend: str, checkpoint: str, device: str | None, dtype: str) -> None:
    """Checks backend, checkpoint, device and dtype, even if no photo remains to be restored."""
    if dtype != "auto":
        check_dtype(dtype)
    if backend not in ("torch", "onnx"):
        raise ConfigurationError(f"`--backend` must be torch or onnx, got {backend!r}")
    if backend == "onnx" and (device not in (None, "cpu") or dtype not in ("auto", "float32")):
        raise ConfigurationError(f"`--backend` onnx runs on the cpu in float32, got {device or 'cpu'} and {dtype}")
    if not checkpoint.endswith(".onnx"):
        check_model(checkpoint, device)
    elif not Path(checkpoint).is_file() or device not in (None, "cpu"):
        raise ConfigurationError(
            f"`--checkpoint` must be an existing .onnx file, `--device` cpu; got {checkpoint!r} and {device or 'cpu'}"
        )


def _lines() -> Iterable[str]:
    """Returns the paths on standard input, one per line or terminated by NUL (`find -print0`).

    Only newlines end lines, because other characters may be part of a name. A byte order mark and carriage returns, as
    Windows editors add, are removed unless a file with such a name exists.
    """
    content = os.fsdecode(sys.stdin.buffer.read())
    if "\0" in content:
        return content.split("\0")
    lines = []
    for line in content.split("\n"):
        path = line.removeprefix("\ufeff").removesuffix("\r")
        lines.append(line if path == line or os.path.lexists(line) else path)
    return lines


def _run(plan: Plan, options: Options, load: Any, team: _Team, as_json: bool) -> int:
    """Restores the photos of this process, and prints the results; returns the exit status."""
    from tqdm import tqdm

    from ..files import concerns_all_files
    from ..restoring.work import FAILED, PLANNED, Summary, restore_all

    summary = Summary()
    jobs = plan.jobs
    own = team.part(len(jobs))  # numbers of the jobs of this process
    # on a terminal, one photo has a progress bar over its tiles, several have one over the photos of the first process
    has_bar, of_tiles = sys.stderr.isatty(), len(jobs) == 1

    def load_quietly() -> Any:
        pipeline = load()
        if not (has_bar and of_tiles):
            pipeline.set_progress_bar_config(disable=True)
        return pipeline

    is_shown = has_bar and not of_tiles and team.index == 0
    bar = tqdm(total=len(own), unit="photo", file=sys.stderr, disable=not is_shown, dynamic_ncols=True)
    try:
        with bar:
            for record in restore_all(map(jobs.__getitem__, own), options, load_quietly):
                summary.add(record)
                bar.update()
                if as_json:
                    _print_above(bar, json.dumps(record), sys.stdout)
                elif record["status"] == FAILED:
                    reason = with_option_names(record["reason"], app)
                    _print_above(bar, f"failed: {record['input']}: {reason}", sys.stderr)
                elif record["status"] == PLANNED:
                    _print_above(bar, f"{record['input']} -> {record['output']}", sys.stdout)
                process.check_interrupted()
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {summary.describe()}; the same command resumes", err=True)
        raise typer.Exit(process.INTERRUPTED) from None
    except OSError as error:
        if not concerns_all_files(error):
            raise
        summary.stopped = str(error)
    for other in team.gather(summary):
        summary.merge(other)
    if team.index == 0:
        _report(plan, summary, as_json)
    return 2 if summary.stopped else int(summary.counts[FAILED] > 0)


def _report(plan: Plan, summary: Summary, as_json: bool) -> None:
    """Prints the counts of all photos, the skipped files, and the error that stopped the run."""
    from ..restoring.work import RESTORED, SKIPPED

    left = len(plan.jobs) - summary.counts.total()
    if as_json:
        stopped = {"stopped": summary.stopped, "left": left} if summary.stopped else {}
        typer.echo(json.dumps({"summary": summary.as_dict() | {"left_out": dict(plan.left_out)} | stopped}))
        return
    if plan.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in plan.left_out.most_common())
        typer.echo(one_line(f"skipped in folders: {reasons}"), err=True)
    typer.echo(summary.describe())
    if summary.counts[SKIPPED] and not summary.counts[RESTORED]:
        typer.echo("skipped: the outputs exist; --overwrite replaces them", err=True)
    if summary.stopped:
        typer.echo(f"stopped: {summary.stopped}; {left} photos remain, the same command resumes", err=True)


def _print_above(bar: Any, text: str, stream: Any) -> None:
    """Prints a line in one piece to a stream, above the progress bar."""
    with bar.external_write_mode(stream):
        stream.write(one_line(text) + "\n")
        stream.flush()


def _load_onnx(checkpoint: str) -> Any:
    """Loads a pipeline that runs on ONNX Runtime, from an .onnx file or from a checkpoint exported for this run."""
    import tempfile

    from ..export import OnnxRestorer, export_onnx
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

    if checkpoint.endswith(".onnx"):
        return DAARestorationPipeline(OnnxRestorer(checkpoint))
    with tempfile.TemporaryDirectory() as folder:  # ONNX Runtime reads the whole file when it opens it
        restorer = DAARestorationPipeline.from_pretrained(checkpoint).restorer
        return DAARestorationPipeline(OnnxRestorer(export_onnx(restorer, Path(folder, "restorer.onnx"))))


class _Team:
    """The processes started by `accelerate launch`, or a single process."""

    def __init__(self) -> None:
        self.index, self.state = 0, None  # number of this process; accelerate's state, None for a single process
        self.device: str | None = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch
            from accelerate import PartialState

            self.state = PartialState(cpu=not torch.cuda.is_available())
            self.index, self.device = self.state.process_index, str(self.state.device)

    def broadcast(self, plan: Callable[[], Plan]) -> Plan:
        """Returns the result of `plan()` in the first process, the only one that can read standard input."""
        if self.state is None:
            return plan()
        from accelerate.utils import broadcast_object_list

        result: Any = None
        if self.index == 0:
            try:
                result = plan()
            except ConfigurationError as error:
                result = error
        (result,) = broadcast_object_list([result])
        if isinstance(result, ConfigurationError):
            raise result
        return result

    def part(self, count: int) -> range:
        """Returns the numbers of the jobs of this process, of `count` jobs."""
        processes = 1 if self.state is None else self.state.num_processes
        return range(count * self.index // processes, count * (self.index + 1) // processes)

    def gather(self, summary: Any) -> list[Any]:
        """Returns the summaries of the other processes in the first process, and an empty list in the others."""
        if self.state is None:
            return []
        from accelerate.utils import gather_object

        summaries = gather_object([summary])
        return summaries[1:] if self.index == 0 else []
