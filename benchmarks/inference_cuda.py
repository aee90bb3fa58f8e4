"""Restoration on a CUDA device: pipeline and folder against the bare network, by precision and by size.

    python benchmarks/inference_cuda.py --output_dir outputs/inference_cuda
    python benchmarks/inference_cuda.py --device cpu --megapixels 0.01 --photos 2 --repeats 1 --output_dir outputs/try

One process of less than a minute on an H100. Every way takes its turn in each round, with the device synchronized
before and after; a row is of medians. Photos are of 8 bits, in and out as arrays, the network's batch and weights in
channels-last order. "around" is the pipeline with a network that does nothing. A folder of JPEGs is restored by what
`daa restore` calls, without its start. Rows are written as they are finished, and none is begun after `--seconds`.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from inference import Untouched, bare, photo_of  # beside this file
from PIL import Image

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text
from daa_diffusers.photos import open_photo, save_photo
from daa_diffusers.pipelines.transfers import download, upload
from daa_diffusers.restoring.options import Options
from daa_diffusers.restoring.outputs import find_jobs
from daa_diffusers.restoring.work import restore_all

BEGUN = psutil.Process().create_time()  # imports count
MIXED = "mixed "  # before a dtype: weights in float32, operations in the other
Row = dict[str, str | float]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(ways: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """The median of each way's turns after two to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 2):
        for name, way in ways.items():
            wait(device)
            start = time.perf_counter()
            way()
            wait(device)
            if number > 1:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in taken.items()}


def loaded(arguments: argparse.Namespace, dtype: str) -> DAARestorationPipeline:
    mixed, name = dtype.startswith(MIXED), dtype.removeprefix(MIXED)
    weights = torch.float32 if mixed else getattr(torch, name)
    pipeline = DAARestorationPipeline.from_pretrained(arguments.checkpoint, dtype=weights)
    pipeline.to(torch.device(arguments.device))
    if mixed:
        pipeline.enable_mixed_precision(getattr(torch, name))
    pipeline.restorer.eval()
    return pipeline


@torch.no_grad()
def ways_of(pipeline: DAARestorationPipeline, around: DAARestorationPipeline, photo: np.ndarray):
    return {
        "bare": bare(pipeline, *photo.shape[:2]),
        "pipeline": lambda: pipeline(photo, output_type="np"),
        "around": lambda: around(photo, output_type="np"),
        "guarded": lambda: pipeline(photo, output_type="np", guard=True),
    }


def pipeline_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """A photo at a time, in the memory of the host before and after."""
    exact: dict[float, np.ndarray] = {}  # by the first dtype
    for dtype in arguments.dtypes:
        pipeline = loaded(arguments, dtype)
        around = DAARestorationPipeline(Untouched(pipeline.restorer))
        for megapixels in arguments.megapixels:
            photo = photo_of(megapixels)
            ways = ways_of(pipeline, around, photo)
            restored = pipeline(photo, output_type="np", as_float=True).images[0]
            difference = restored - exact.setdefault(megapixels, restored)
            each = milliseconds(ways, arguments.repeats, pipeline.device)
            yield {
                "dtype": dtype,
                "MP": megapixels,
                **{f"{name}, ms": round(value, 2) for name, value in each.items()},
                "pipeline / bare": round(each["pipeline"] / each["bare"], 3),
                "around / bare": round(each["around"] / each["bare"], 3),
                "guarded / pipeline": round(each["guarded"] / each["pipeline"], 3),
                f"rms to {arguments.dtypes[0]}, 1/255": round(255 * float(np.sqrt(np.mean(difference**2))), 4),
            }


def transfer_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """The copies of a photo alone, and a call of the pipeline on a photo of 16 pixels: what Python takes."""
    device = torch.device(arguments.device)
    pinned = device.type == "cuda"
    pipeline = loaded(arguments, arguments.dtypes[-1])
    around = DAARestorationPipeline(Untouched(pipeline.restorer))
    small = np.zeros((16, 16, 3), np.uint8)
    for megapixels in arguments.megapixels:
        pixels = torch.from_numpy(photo_of(megapixels)).permute(2, 0, 1)
        there = upload(pixels, device, pinned)
        ways = {
            "up": lambda pixels=pixels: upload(pixels, device, pinned),
            "down": lambda there=there: download(there, pinned),
            "down, pageable": lambda there=there: there.cpu(),
            "up, pageable": lambda pixels=pixels: pixels.to(device),
            "around 16 pixels": lambda: around(small, output_type="np"),
        }
        each = milliseconds(ways, arguments.repeats, device)
        yield {"MP": megapixels, **{f"{name}, ms": round(value, 3) for name, value in each.items()}}


def folder_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """JPEGs of one size, from folder to folder; each step alone, one photo at a time, beside it."""
    pipeline = loaded(arguments, arguments.folder_dtype)
    pipeline.set_progress_bar_config(disable=True)
    for megapixels, count in zip(arguments.megapixels, arguments.photos, strict=False):
        folder = Path(arguments.output_dir, f"photos of {megapixels:g} MP")
        folder.mkdir(parents=True, exist_ok=True)
        photo = photo_of(megapixels)
        Image.fromarray(photo).save(folder / "0000.jpg", quality=92)
        for number in range(1, count):
            (folder / f"{number:04d}.jpg").write_bytes((folder / "0000.jpg").read_bytes())
        stored = open_photo(folder / "0000.jpg")
        target = folder.with_name("one.jpg")
        steps = {
            "bare": bare(pipeline, *photo.shape[:2]),
            "decode": lambda folder=folder: open_photo(folder / "0000.jpg"),
            "restore": lambda stored=stored: pipeline(stored.pixels, output_type="np"),
            "write": lambda stored=stored, target=target: save_photo(target, stored, overwrite=True),
        }
        each = milliseconds(steps, 2, pipeline.device)
        target.unlink(missing_ok=True)
        for guard in (False, True):
            options = Options(guard=guard, overwrite=True)
            jobs = find_jobs([str(folder)], f"{folder}, restored", overwrite=True).jobs
            list(restore_all(jobs[:1], options, lambda: pipeline))
            wait(pipeline.device)
            start = time.perf_counter()
            records = list(restore_all(jobs, options, lambda: pipeline))
            seconds = time.perf_counter() - start
            assert {record["status"] for record in records} == {"restored"}, records[0]
            yield {
                "dtype": arguments.folder_dtype,
                "MP": megapixels,
                "photos": count,
                "guard": "yes" if guard else "no",
                "photos/s": round(count / seconds, 2),
                "bare network, photos/s": round(1000 / each["bare"], 2),
                "folder / bare": round(1000 * seconds / count / each["bare"], 2),
                **{f"{name}, ms": round(each[name], 1) for name in ("decode", "restore", "write")},
            }
        for made in (folder, f"{folder}, restored"):
            shutil.rmtree(made)


def profile(arguments: argparse.Namespace) -> str:
    """The operations of a call on the largest photo, by their own time on the device, or on the host without one."""
    pipeline, photo = loaded(arguments, arguments.folder_dtype), photo_of(max(arguments.megapixels))
    pipeline(photo, output_type="np")
    with torch.profiler.profile() as watched:
        pipeline(photo, output_type="np")
    device = "cuda" if arguments.device.startswith("cuda") else "cpu"
    return watched.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=25)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="daa-denoise")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16", "bfloat16", "mixed float16"])
    parser.add_argument("--folder_dtype", default="float16")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 24])
    parser.add_argument("--photos", type=int, nargs="+", default=[96, 48, 24], help="of each size, in the folder")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=50, help="no row is begun after so many")
    parser.add_argument("--output_dir", default="outputs/inference_cuda", help="for report.md, rows.json, profile.txt")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    title = f"`{arguments.checkpoint}`, {card}, torch {torch.__version__}, {torch.get_num_threads()} threads of "
    title += f"{os.cpu_count()} cores; medians of {arguments.repeats} rounds."
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Row]] = {}
    for name, made in {"pipeline": pipeline_rows, "transfers": transfer_rows, "folder": folder_rows}.items():
        if time.time() - BEGUN > arguments.seconds:
            break
        for row in made(arguments):
            rows.setdefault(name, []).append(row)
            print(f"{time.time() - BEGUN:6.1f} s  {name}: {json.dumps(row)}", flush=True)
            text = "\n\n".join([title, *(f"## {key}\n\n{markdown_table(each)}" for key, each in rows.items())])
            write_text(Path(arguments.output_dir, "report.md"), text + "\n")
            write_text(Path(arguments.output_dir, "rows.json"), json.dumps({"title": title, **rows}, indent=1))
            if time.time() - BEGUN > arguments.seconds:
                break
    if time.time() - BEGUN < arguments.seconds:
        write_text(Path(arguments.output_dir, "profile.txt"), profile(arguments))
    print(f"{time.time() - BEGUN:.1f} s")


if __name__ == "__main__":
    main()
