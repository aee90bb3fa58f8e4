"""`daa bulk`: restoration of large collections of photos on any number of machines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints import DEFAULT
from ..files import one_line
from ..restoring.loading import check_model, load_pipeline
from . import process
from .common import (
    RUN,
    AsJson,
    Bits,
    Checkpoint,
    Dtype,
    Format,
    Guard,
    MaxMegapixels,
    Quality,
    SelfEnsemble,
    Strength,
    StripLocation,
    Tile,
    check_once,
    parse_tile,
)

if TYPE_CHECKING:
    from ..bulk import BulkJob, BulkSettings

app = typer.Typer(add_completion=False)
PhotosPerShard = Annotated[
    int, typer.Option(help="Photos per shard; an interrupted shard is repeated as a whole.", rich_help_panel=RUN)
]
SHOWN = 10  # maximum number of failed photos to print


@app.command()
def bulk(
    sources: Annotated[
        list[str],
        typer.Argument(help='Folders, tar shards ("in/{000..999}.tar"), Hugging Face datasets ("hf:NAME?split=test").'),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the job, accessible from all machines.")],
    checkpoint: Checkpoint = DEFAULT,
    strength: Strength = 1.0,
    guard: Guard = True,
    self_ensemble: SelfEnsemble = False,
    tile: Tile = "auto",
    dtype: Dtype = "float32",
    format: Format = None,
    bits: Bits = None,
    quality: Quality = None,
    strip_location: StripLocation = False,
    max_megapixels: MaxMegapixels = 300.0,
    photos_per_shard: PhotosPerShard = 500,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of processes. Default: as many as the cluster can run.", rich_help_panel=RUN
        ),
    ] = None,
    cpus_per_worker: Annotated[float, typer.Option(help="CPU cores per process.", rich_help_panel=RUN)] = 1,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="GPUs per process; 0.25: four share one. Default: 1 if there are GPUs.", rich_help_panel=RUN),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help='Address of a Ray cluster, or "auto". Default: $RAY_ADDRESS, else this machine.', rich_help_panel=RUN
        ),
    ] = None,
    redo_failed: Annotated[
        bool, typer.Option("--redo-failed", help="Repeat shards with failed photos.", rich_help_panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the photos and the shards.", rich_help_panel=RUN)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore large collections of photos, on any number of machines, into tar shards and a manifest.

    The photos are divided into shards, which processes of a Ray cluster restore one by one (without a cluster: one
    process per GPU or core of this machine). The same command resumes after an interruption, and repeats interrupted
    shards: each photo is in the output exactly once. Photos that cannot be restored are recorded in the manifest; the
    exit status is then 1.
    """
    from ..bulk import BulkSettings
    from ..bulk.cluster import check_worker, import_ray
    from ..restoring.options import Options

    options = Options(
        format=format,
        bits=bits,
        quality=quality,
        strip_location=strip_location,
        max_megapixels=max_megapixels,
        strength=strength,
        guard=guard,
        self_ensemble=self_ensemble,
        tile=parse_tile(tile),
    )
    settings = BulkSettings(tuple(sources), checkpoint, dtype, photos_per_shard, options)
    check_once(sources, "sources")  # rejects duplicates
    check_worker(cpus_per_worker, gpus_per_worker)
    check_model(checkpoint)
    if dry_run:
        _count(output, settings)
        return
    import_ray()  # fails before the photos are listed
    resources = {"address": address, "cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    status = _plan_and_run(output, settings, redo_failed, as_json, workers, resources)
    if status:
        raise typer.Exit(status)


def _plan_and_run(
    output: Path,
    settings: BulkSettings,
    redo_failed: bool,
    as_json: bool,
    workers: int | None,
    resources: dict[str, Any],
) -> int:
    """Plans the job, or opens the existing one, and restores the remaining shards; returns the exit status.

    `resources` are the arguments of `cluster`.
    """
    from ..bulk import job as jobs
    from ..bulk.cluster import cluster
    from ..bulk.shards import restorer_fingerprint

    # `cleanup` runs last, when no worker is alive
    with jobs.sole_writer(output), contextlib.ExitStack() as cleanup, contextlib.ExitStack() as connection:
        # errors of loading are raised here, not in every worker
        fingerprint = restorer_fingerprint(load_pipeline(settings.checkpoint, "cpu", settings.dtype))
        if not (output / "job.json").exists():  # a new job: check photos and cluster before its plan is written
            jobs.check_new(output)
            next(jobs.list_inputs(settings.sources), None)
            with contextlib.redirect_stdout(sys.stderr):  # Ray prints to stdout
                connection.enter_context(cluster(**resources))  # `restore_job` uses this connection
        job = jobs.plan_job(output, settings, fingerprint)
        job.clear_leftovers()
        cleanup.callback(job.clear_leftovers)  # left by workers that were killed
        if redo_failed and (count := job.reopen_failed()):
            typer.echo(f"{count} shards with failed photos are repeated", err=True)
        return _run(job, as_json, workers, resources)


def _count(output: Path, settings: BulkSettings) -> None:
    """Prints the numbers of photos and shards of a new or existing job."""
    from ..bulk import list_inputs, plan_job

    if (output / "job.json").exists():
        job = plan_job(output, settings, fingerprint=None)
        photos, shards, unfinished = job.photos, job.shards, job.unfinished()
        photos_left, shards_left = job.photos_of(unfinished), len(unfinished)
    else:
        photos = photos_left = sum(1 for _ in list_inputs(settings.sources))
        shards = shards_left = math.ceil(photos / settings.photos_per_shard)
    typer.echo(f"{photos} photos in {shards} shards; {photos_left} in {shards_left} shards would be restored")


def _run(job: BulkJob, as_json: bool, workers: int | None, resources: dict[str, Any]) -> int:
    """Restores the remaining shards and prints a report; returns the exit status."""
    from tqdm import tqdm

    from ..bulk import restore_job

    unfinished = job.unfinished()
    if len(unfinished) < job.shards:
        typer.echo(f"{job.shards - len(unfinished)} of {job.shards} shards are done", err=True)
    stopped, output = "", sys.stdout
    bar = tqdm(
        total=job.photos_of(unfinished), unit="photo", file=sys.stderr, disable=not sys.stderr.isatty(), smoothing=0
    )
    try:
        with bar, contextlib.redirect_stdout(sys.stderr):  # Ray prints to stdout
            for result in restore_job(job, workers=workers, **resources):
                bar.update(result.restored + result.failed)
                with bar.external_write_mode():
                    if as_json:
                        typer.echo(json.dumps(dataclasses.asdict(result)), file=output)
                    if result.stops:  # all other shards would fail too, e.g. because the disk is full
                        stopped = result.error
                    elif result.error:
                        typer.echo(one_line(f"shard {result.shard} is not finished: {result.error}"), err=True)
                process.check_interrupted()
    except KeyboardInterrupt:
        done = job.shards - len(job.unfinished())
        typer.echo(f"interrupted; {done} of {job.shards} shards are done; run the same command to resume", err=True)
        raise typer.Exit(process.INTERRUPTED) from None
    incomplete = _report(job, as_json, stopped)
    return 2 if stopped else int(incomplete)


def _report(job: BulkJob, as_json: bool, stopped: str) -> bool:
    """Prints failed photos and the counts; returns whether photos failed or shards are unfinished."""
    from ..bulk import read_manifest

    counts = {"restored": 0, "failed": 0}
    for record in read_manifest(job.folder):
        counts[record["status"]] += 1
        if record["error"] and counts["failed"] <= SHOWN:
            typer.echo(one_line(f"failed: {record['source']}: {record['error']}"), err=True)
    left = len(job.unfinished())
    manifest = None if left else str(job.join_manifest())
    if as_json:
        summary = {**counts, "shards": job.shards, "left": left, "manifest": manifest}
        typer.echo(json.dumps({"summary": summary | ({"stopped": stopped} if stopped else {})}))
    else:
        where = f"{left} of {job.shards} shards are not finished: rerun the command" if left else f"see {manifest}"
        typer.echo(f"{counts['restored']} restored, {counts['failed']} failed; {where}")
    if stopped:
        typer.echo(f"stopped: {stopped}", err=True)
    return bool(left or counts["failed"])
