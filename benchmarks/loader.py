"""Does loading keep up with training? Samples a second of every kind of source, against what a step takes.

    python benchmarks/loader.py [--clean FOLDER --real FOLDER] [--threads 1] [--samples 160]

A sample is a clean patch, its synthetic degradation and a real patch. The step is the joint step of preset `small` on
this machine, measured before and after the loaders; a ratio of 2 leaves half of the loader idle. Without folders, the
photos are scikit-image's (192 x 192 PNG); real collections, with larger photos, decode more slowly. Decoded photos are
kept in the rows that say so, and nowhere else. The result is written to `--report`; it takes a minute.
"""

import io
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import common
import torch
from torch.utils.data import DataLoader

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.objectives.base import Batch
from daa_diffusers.sources.demo_photos import demo_photos
from daa_diffusers.sources.sampling import TrainingPatches
from daa_diffusers.sources.specs import PhotoFolder, open_source
from daa_diffusers.training import setup
from daa_diffusers.training.allocator import keep_freed_memory
from daa_diffusers.training.config import TrainingConfig, resolve

WORKERS = (0, 1, 2)
KINDS = ("folder", "folder, cached", "dataset", "stream", "shards")
AIM = 2.0


def step_seconds(config: TrainingConfig, channels: int, repeats: int) -> list[float]:
    """Of the joint step, forward, backward and optimizer, after one that warms up."""
    model = setup.build_model(config)
    optimizer = setup.build_optimizer(config, model)
    images = [torch.rand(config.batch_size, channels, config.patch, config.patch) for _ in range(3)]
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        model(Batch(*images), generator=torch.Generator().manual_seed(0)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def write_copies(folder: PhotoFolder, out: Path) -> dict[str, str]:
    """The photos of `folder` as every kind of source: how `open_source` names them."""
    import datasets

    files = [{"bytes": path.read_bytes(), "path": path.name} for path in folder.paths]
    images = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": files}, features=images).save_to_disk(str(out / "saved"))
    for start in range(0, len(files), 100):
        with tarfile.open(out / f"{start:06d}.tar", "w") as shard:
            for number, file in enumerate(files[start : start + 100], start):
                info = tarfile.TarInfo(f"{number:06d}{Path(file['path']).suffix}")
                info.size = len(file["bytes"])
                shard.addfile(info, io.BytesIO(file["bytes"]))
    names = {"dataset": str(out / "saved"), "stream": f"hf:{out}/saved?streaming=1", "shards": f"{out}/*.tar"}
    return {"folder": str(folder.folder), "folder, cached": str(folder.folder), **names}


def samples_per_second(kind: str, specs: dict[str, dict[str, str]], config: TrainingConfig, samples: int, workers: int):
    """After the first batch of each worker, which pays for the start."""
    cache_bytes = 2**30 if kind == "folder, cached" else 0
    sources = {role: open_source(names[kind], cache_bytes=cache_bytes) for role, names in specs.items()}
    if cache_bytes:
        for source in sources.values():
            for index in range(source.count):
                source.try_photo(index)
    first = config.batch_size * max(1, workers)
    dataset = TrainingPatches(
        [sources["clean"]],
        degradation_from_config(config.degradation),
        real=[sources["real"]],
        patch=config.patch,
        length=first + samples,
        seed=config.seed,
    )
    batches = iter(DataLoader(dataset, batch_size=config.batch_size, num_workers=workers))
    for _ in range(first // config.batch_size):
        next(batches)
    clock = time.perf_counter if workers else time.process_time  # other programs do not count without workers
    start = clock()
    loaded = sum(len(batch["index"]) for batch in batches)
    return loaded / (clock() - start)


def main() -> None:
    parser = common.parser(__doc__, "loader.md")
    parser.add_argument("--clean", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--samples", type=int, default=160, help="a measurement")
    parser.add_argument("--repeats", type=int, default=3, help="steps measured before, and again after the loaders")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the trainer does
    config = resolve({"preset": arguments.preset, "variant": "paired"})
    with tempfile.TemporaryDirectory() as temporary:
        made = demo_photos(Path(temporary, "photos")) if None in (arguments.clean, arguments.real) else None
        folders = {
            "clean": PhotoFolder(arguments.clean or made.clean),
            "real": PhotoFolder(arguments.real or made.real_train_noisy),
        }
        specs = {}
        for role, folder in folders.items():
            out = Path(temporary, role)
            out.mkdir()
            specs[role] = write_copies(folder, out)
        photos = " and ".join(
            f"{len(folder)} {role} (the first {' x '.join(map(str, folder.size(0)))}, {folder.paths[0].suffix})"
            for role, folder in folders.items()
        )
        busy, wall = sum(os.times()[:4]), time.perf_counter()
        seconds = step_seconds(config, 3, arguments.repeats)
        rates = {
            (kind, workers): samples_per_second(kind, specs, config, arguments.samples, workers)
            for kind in KINDS
            for workers in WORKERS
        }
        seconds += step_seconds(config, 3, arguments.repeats)
        share = (sum(os.times()[:4]) - busy) / (time.perf_counter() - wall)
    needed = config.batch_size / statistics.median(seconds)  # samples/s
    rows = [
        {
            "source": kind,
            "workers": workers,
            "samples/s": f"{rate:.0f}",
            "photos/s": f"{2 * rate:.0f}",
            "times the step's need": f"{rate / needed:.1f}",
        }
        for (kind, workers), rate in rates.items()
    ]
    common.publish(
        arguments.report,
        "# Loading against training",
        f"`{common.command(__file__)}`: preset `{arguments.preset}`, variant paired, batch {config.batch_size}, patch "
        f"{config.patch}, {os.cpu_count()} cores, {arguments.threads} for the step. Photos: {photos}; dataset and "
        "shards hold the same files.",
        f"The step takes {statistics.median(seconds):.2f} s (median; {min(seconds):.2f} to {max(seconds):.2f}), "
        f"{needed:.1f} samples/s, each of two photos. The program had {share:.2f} cores at work on average.",
        markdown_table(rows),
        f"Smallest ratio: {min(rates.values()) / needed:.1f} (aim: {AIM:g}).",
    )


if __name__ == "__main__":
    main()
