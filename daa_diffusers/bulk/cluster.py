"""Bulk restoration with Ray Data, by a pool of actors on all machines of a cluster."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, ConfigurationError
from ..files import concerns_all_files
from .job import BulkJob
from .shards import ShardResult, restore_shard, restorer_fingerprint

NO_ADDRESS = "240.0.0.1"  # a reserved address that no machine has
LOCAL_OBJECT_STORE = 200 * 2**20  # bytes; only shard numbers and counts are transferred


def restore_job(
    job: BulkJob,
    *,
    workers: int | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float | None = None,
    address: str | None = None,
) -> Iterator[ShardResult]:
    """Restores all unfinished shards of a job with Ray; if a worker dies, another one repeats its shard.

    Args:
        job: job whose folder and photos have the same paths on all machines.
        workers: largest number of processes; None: as many as fit into the cluster at the start.
        cpus_per_worker: number of CPU cores, and of threads, of each worker.
        gpus_per_worker: number of GPUs of each worker; None: 1 if the cluster has GPUs, else 0. With a fraction,
            several workers share a GPU, so that one decodes and encodes while another restores.
        address: address of a running cluster; None: `$RAY_ADDRESS` if set, else a new cluster on this machine, which
            ends with the iteration.

    Yields:
        The result of each shard when it ends, in any order. A shard whose result has an `error` is not finished; a
        later call repeats it. A result with `stops` (a full or read-only disk) is the last one.

    Raises:
        ConfigurationError: Ray is not installed, there is no cluster at `address`, or it is too small for a worker.
    """
    left = job.unfinished()
    if not left:
        return
    with cluster(address, cpus_per_worker, gpus_per_worker) as (fitting, gpus):
        count = min(workers or fitting, fitting, len(left))
        for result in _results(import_ray(), job, left, count, cpus_per_worker, gpus):
            yield result
            if result.stops:
                return


@contextmanager
def cluster(
    address: str | None = None, cpus_per_worker: float = 1, gpus_per_worker: float | None = None
) -> Iterator[tuple[int, float]]:
    """Context with a connection to a Ray cluster; an existing connection is used, and kept open.

    Args:
        address, cpus_per_worker, gpus_per_worker: as for `restore_job`.

    Yields:
        The number of workers that fit into the cluster, and the number of GPUs per worker.

    Raises:
        ConfigurationError: as for `restore_job`.
    """
    ray = import_ray()
    started = not ray.is_initialized()
    if started:
        _start(ray, address)
    try:
        resources = ray.cluster_resources()
        gpus = gpus_per_worker if gpus_per_worker is not None else (1 if resources.get("GPU") else 0)
        yield _fitting_workers(resources, cpus_per_worker, gpus), gpus
    finally:
        if started:
            ray.shutdown()


def import_ray() -> Any:
    """Imports and returns Ray.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigurationError("bulk restoration needs Ray: pip install 'daa-diffusers[ray]'") from None
    return ray


def _start(ray: Any, address: str | None) -> None:
    """Connects to the cluster at `address`, or starts one on this machine."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # otherwise Ray logs warnings about Ray Data's own actors
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local_options: dict[str, Any] = {}
    if address == "local":
        # Even without a dashboard, Ray starts the dashboard's process to collect usage data, which queries the metadata
        # services of cloud providers even if usage reports are disabled. With an address at which it cannot listen, the
        # process ends at once; Ray runs without it.
        local_options = {"include_dashboard": False, "dashboard_host": NO_ADDRESS, "dashboard_port": 1}
        local_options["object_store_memory"] = LOCAL_OBJECT_STORE
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if port.isdecimal():  # fails fast: Ray would retry for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local_options)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"`address`: no Ray cluster at {address!r}: {error}") from None


def check_worker(cpus: float, gpus: float | None) -> None:
    """Raises ConfigurationError for impossible resources of a worker; `gpus` None means that the cluster decides."""
    if not (0 <= cpus < math.inf and 0 <= (gpus or 0) < math.inf and (cpus or gpus is None or gpus)):
        got = f"{cpus:g} and {'None' if gpus is None else f'{gpus:g}'}"
        raise ConfigurationError(f"`cpus_per_worker` and `gpus_per_worker`: a worker needs CPUs or GPUs, got {got}")


def _fitting_workers(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """Returns the number of workers, each of `cpus` and `gpus`, that fit into a cluster with these resources."""
    wanted = {"CPU": cpus, "GPU": gpus}
    check_worker(cpus, gpus)
    count = min(int(resources.get(name, 0) / each) for name, each in wanted.items() if each)
    if count < 1:
        has = ", ".join(f"{resources.get(name, 0):g} {name}s" for name in wanted)
        raise ConfigurationError(f"the cluster has {has}, but a worker needs {cpus:g} CPUs and {gpus:g} GPUs")
    return count


def _results(
    ray: Any, job: BulkJob, shards: list[int], workers: int, cpus: float, gpus: float
) -> Iterator[ShardResult]:
    """Yields the results of shards, restored by a pool of `workers` actors, each as soon as it is finished."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # this package's own progress bar counts photos
    results = ray.data.from_items(
        [{"shard": number} for number in shards], override_num_blocks=len(shards)
    ).map_batches(
        ShardWorker,
        fn_constructor_args=(str(job.folder), "cuda" if gpus else "cpu", max(1, int(cpus))),
        batch_size=1,
        num_cpus=cpus,
        num_gpus=gpus,
        # one shard per worker and none queued, so that near the end no shard waits for a busy worker
        compute=ray.data.ActorPoolStrategy(
            min_size=1, initial_size=workers, max_size=workers, max_tasks_in_flight_per_actor=1
        ),
    )
    for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
        columns = {name: values.tolist() for name, values in batch.items()}
        yield from (ShardResult(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))


class ShardWorker:
    """Actor that loads the pipeline once, then restores one shard after another.

    Args:
        folder: folder of the job.
        device: "cpu", or "cuda" for the GPU that Ray assigns to the actor.
        threads: number of CPU threads.

    Raises:
        CheckpointError: this machine's checkpoint of this name has other weights than the job started with.
    """

    def __init__(self, folder: str, device: str, threads: int):
        import torch
        from diffusers.utils.logging import disable_progress_bar

        from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

        disable_progress_bar()
        torch.set_num_threads(threads)
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors that it logs are also raised
        self.job = BulkJob.open(folder)
        os.chdir(self.job.working_folder)
        settings = self.job.settings
        pipeline = DAARestorationPipeline.from_pretrained(settings.checkpoint, dtype=getattr(torch, settings.dtype))
        if self.job.fingerprint and restorer_fingerprint(pipeline) != self.job.fingerprint:
            raise CheckpointError(f"{settings.checkpoint!r} has other weights here than where the job was planned")
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Restores a shard, given as {"shard": [number]}; returns the fields of its result, each in a list of one."""
        import torch

        (number,) = batch["shard"]
        try:
            result = restore_shard(self.job, int(number), self.pipeline)
        except torch.AcceleratorError:
            os._exit(1)  # this process cannot use the device any more: Ray starts another one and repeats the shard
        except Exception as error:
            stops = concerns_all_files(error)
            message = str(error) if stops else f"{type(error).__name__}: {error}"
            result = ShardResult(int(number), error=message, stops=stops)
        return {name: [value] for name, value in dataclasses.asdict(result).items()}
