"""What bulk restoration costs beside the bare loop: open, restore, save, one photo after another.

    python benchmarks/bulk.py --megapixels 0.07 --photos 4 --repeats 5 --ray --report benchmarks/results/bulk.md
    python benchmarks/bulk.py --plan 20000    # only the listing and cutting of so many (empty) files of a folder

Both do the same photos in turn, shard by shard, in one process and one run, so that a busy machine disturbs them alike;
the ratio is of the medians. CPU seconds are those of the process. With `--ray`, a job of as many shards then goes
through one worker of a local Ray cluster, and what passes between its shards is set against what it spends in them (the
start of the cluster and the loading of the pipeline, once a job, are separated). Photos are noisy crops of
`skimage.data`, JPEG of quality 95, restored by a bundled checkpoint with the guard, as `daa bulk` does by default.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image
from skimage import data

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.bulk import BulkJob, BulkSettings, plan_job, restore_job, restore_shard
from daa_diffusers.photos import open_photo, save_photo


def write_photos(folder: Path, count: int, megapixels: float) -> None:
    folder.mkdir()
    side = round((megapixels * 1e6) ** 0.5)
    for number in range(count):
        generator = np.random.default_rng(number)
        image = np.asarray(Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.LANCZOS), np.float32)
        noisy = image + generator.normal(0, 15, image.shape)
        Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=95)


def bare_loop(photos: list[Path], pipeline: DAARestorationPipeline, output: Path) -> None:
    for path in photos:
        photo = open_photo(path)
        restored = pipeline(photo.pixels, output_type="np", tile="auto", guard=True).images[0]
        save_photo(output / path.name, photo, restored)


def alternate(job: BulkJob, pipeline: DAARestorationPipeline, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each way, for each shard; the first shard warms up."""
    seconds: dict[str, list[tuple[float, float]]] = {"bare loop": [], "bulk": []}
    for number in range(job.shards):
        output = folder / f"bare {number}"
        output.mkdir()
        photos = [Path(photo.path) for photo in job.inputs(number)]
        ways = {
            "bare loop": lambda photos=photos, output=output: bare_loop(photos, pipeline, output),
            "bulk": lambda number=number: restore_shard(job, number, pipeline),
        }
        for name in list(ways)[:: 1 if number % 2 else -1]:
            spent = common.timed(ways[name])
            if number:
                seconds[name].append(spent)
    return seconds


def through_ray(job: BulkJob) -> tuple[float, float, float]:
    """Seconds before the first shard; of the others, the seconds that passed and those spent inside of them."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the bare loop
    start = time.perf_counter()
    ends, inside = [], []
    for result in restore_job(job, workers=1):
        ends.append(time.perf_counter())
        inside.append(result.seconds)
    return ends[0] - start - inside[0], ends[-1] - ends[0], sum(inside[1:])


def planning(count: int) -> tuple[float, float]:
    """Wall and CPU seconds a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            path = folder / "photos" / f"{number // 1000:03d}" / f"{number:08d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        spent = common.timed(lambda: plan_job(folder / "out", BulkSettings((str(folder / "photos"),))))
    return spent[0] / count, spent[1] / count


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--checkpoint", default="daa-denoise")
    parser.add_argument("--megapixels", type=float, default=0.07)
    parser.add_argument("--photos", type=int, default=4, help="in a shard")
    parser.add_argument("--repeats", type=int, default=5, help="shards that are timed")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--plan", type=int, metavar="FILES")
    arguments = parser.parse_args()

    if arguments.plan:
        wall, cpu = planning(arguments.plan)
        print(f"planning {arguments.plan} files: {1e6 * wall:.0f} microseconds a file, {1e6 * cpu:.0f} of them CPU")
        return
    torch.set_num_threads(1)
    pipeline = DAARestorationPipeline.from_pretrained(arguments.checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = arguments.photos * (arguments.repeats + 1)
        write_photos(folder / "photos", count, arguments.megapixels)
        settings = BulkSettings((str(folder / "photos"),), arguments.checkpoint, photos_per_shard=arguments.photos)
        seconds = alternate(plan_job(folder / "bulk", settings), pipeline, folder)
        rays = through_ray(plan_job(folder / "ray", settings)) if arguments.ray else None
        size = sum(path.stat().st_size for path in (folder / "photos").iterdir()) / count
    rows = [
        f"{arguments.checkpoint}, {arguments.repeats} shards of {arguments.photos} JPEGs of {arguments.megapixels:g} "
        f"megapixels ({size / 1e6:.2f} MB), CPU, 1 thread",
        "",
        "| way | seconds a photo, median | CPU seconds a photo, median |",
        "|---|---|---|",
    ]
    medians = {}  # wall and CPU seconds a photo
    for name, spent in seconds.items():
        medians[name] = [statistics.median(each) / arguments.photos for each in zip(*spent, strict=True)]
        rows.append("| {} | {:.4f} | {:.4f} |".format(name, *medians[name]))
    wall, cpu = (bulk / loop for loop, bulk in zip(medians["bare loop"], medians["bulk"], strict=True))
    rows += [f"| bulk / bare loop | {wall:.3f} | {cpu:.3f} |", ""]
    if rays:
        start, passed, inside = rays
        rows += [
            f"Through Ray, one worker: {passed / inside:.3f} of the time in its shards (all of it, between them too), "
            f"after {start:.1f} s for the cluster and the pipeline."
        ]
    title = ["# Bulk restoration beside the bare loop", "", f"`{common.command(__file__)}`", ""]
    common.publish(arguments.report, "\n".join([*title, *rows]))


if __name__ == "__main__":
    main()
