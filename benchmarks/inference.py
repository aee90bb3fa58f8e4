"""What the pipeline costs beside the bare network, what tiles cost beside the whole, memory and time by size.

    python benchmarks/inference.py --megapixels 1 4 25 100 --report benchmarks/results/inference.md

Ratios are of rounds in turn within one process, so that a busy machine disturbs all alike: the median of the rounds'
ratios. Each size is a process of its own, whose peak memory is that of all of it, Python and torch included; the photo
is a mapped file (`np.memmap`), and so is the result. Seconds a megapixel are set in relation to those of one megapixel
restored whole, now and then in between. Without a GPU, seconds are those of the processor (use one
thread). Rows that are finished are kept in `--output_dir` and not measured again.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import numpy as np
import torch

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text
from daa_diffusers.models.restoration_unet import PRESET_WIDTHS
from daa_diffusers.models.restorer import round_up

MIB = 2**20


def load(arguments: argparse.Namespace) -> DAARestorationPipeline:
    """The pipeline under test, quiet."""
    if arguments.checkpoint in PRESET_WIDTHS:
        torch.manual_seed(0)
        pipeline = DAARestorationPipeline(RestorationUNet.from_preset(arguments.checkpoint))
        with torch.no_grad():
            pipeline.restorer.conv_out.weight.mul_(0.1)
    else:
        pipeline = DAARestorationPipeline.from_pretrained(arguments.checkpoint)
    pipeline.to(torch.device(arguments.device), getattr(torch, arguments.dtype.replace("auto", "float32")))
    if arguments.dtype == "auto":
        pipeline.enable_mixed_precision()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(run: Callable[[], object]) -> float:
    """Seconds for one call: of the clock with a GPU, else of this process, whatever else the machine does."""
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    if gpu:
        torch.cuda.synchronize()
    started = clock()
    run()
    if gpu:
        torch.cuda.synchronize()
    return clock() - started


def in_turn(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, round by round, forward and backward by turns; one round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            spent = measure(ways[name])
            if number:
                seconds[name].append(spent)
    return seconds


def ratio(seconds: dict[str, list[float]], way: str, other: str) -> float:
    """The median over the rounds."""
    return statistics.median(a / b for a, b in zip(seconds[way], seconds[other], strict=True))


def bare(
    pipeline: DAARestorationPipeline, height: int, width: int, memory_format: torch.memory_format = torch.channels_last
) -> Callable[[], object]:
    """The network alone, in the pipeline's precision, on a batch that is on its device already."""
    sides = (round_up(side, pipeline.restorer.size_multiple) for side in (height, width))
    batch = torch.rand(1, pipeline.channels, *sides, device=pipeline.device, dtype=pipeline.dtype)
    batch = batch.contiguous(memory_format=memory_format)
    mixed = pipeline.mixed_precision

    @torch.no_grad()
    def run() -> object:
        with torch.autocast(batch.device.type, dtype=mixed, enabled=mixed is not None):
            return pipeline.restorer(batch)

    return run


class Untouched(torch.nn.Module):
    """Gives its input back: what the pipeline takes with it is what it adds around the restorer."""

    def __init__(self, like: torch.nn.Module) -> None:
        super().__init__()
        self.size_multiple, self.config = like.size_multiple, like.config
        first = next(like.parameters())
        self.weight = torch.nn.Parameter(torch.zeros(1, device=first.device, dtype=first.dtype))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Nothing happens."""
        return batch


def ratios(arguments: argparse.Namespace) -> list[dict]:
    """Pipeline / bare network, tiles / whole and the options' prices, on one photo of `--side` pixels."""
    pipeline, side = load(arguments), arguments.side
    photo = texture(side, side)
    around = DAARestorationPipeline(Untouched(pipeline.restorer.eval()))
    around.set_progress_bar_config(disable=True)

    def call(**options) -> Callable[[], object]:
        return lambda: pipeline(photo, output_type="np", **options)

    # Another backend of the restorer (ONNX, say) is one more way here and one more line below.
    ways = {
        "bare, contiguous": bare(pipeline, side, side, torch.contiguous_format),
        "bare": bare(pipeline, side, side),
        "pipeline": call(tile=None),
        "around": lambda: around(photo, output_type="np", tile=None),
        **{f"tiles of {tile}": call(tile=tile) for tile in arguments.tiles},
        "guard": call(tile=None, guard=True),
    }
    seconds = in_turn(ways, arguments.repeats)
    whole = pipeline(photo, output_type="np", tile=None).images
    lines = [
        ("pipeline / bare network, contiguous", ratio(seconds, "pipeline", "bare, contiguous"), ""),
        ("pipeline / bare network, channels last", ratio(seconds, "pipeline", "bare"), ""),
        ("what the pipeline adds / bare network", ratio(seconds, "around", "bare"), "aim: at most 0.03"),
    ]
    for tile in arguments.tiles:
        differ = int((pipeline(photo, output_type="np", tile=tile).images != whole).sum())
        said = "pixels identical" if not differ else f"{differ} of {whole.size} values differ"
        lines.append((f"tiles of {tile} px / whole", ratio(seconds, f"tiles of {tile}", "pipeline"), said))
    lines.append(("with the guard / without", ratio(seconds, "guard", "pipeline"), ""))
    return [{"what": what, "ratio": f"{value:.3f}", "": said} for what, value, said in lines]


def strips(height: int, width: int, dtype: str) -> Iterator[np.ndarray]:
    """A photo (H, W, 3), noise on a slope, some rows at a time."""
    draw, top = np.random.default_rng(0), np.iinfo(dtype).max
    slope = np.linspace(0.2, 0.8, width, dtype=np.float32)[None, :, None]
    for start in range(0, height, 64):
        noise = draw.normal(0, 0.05, (min(64, height - start), width, 3)).astype(np.float32)
        yield (np.clip(slope + noise, 0, 1) * top).astype(dtype)


def texture(height: int, width: int) -> np.ndarray:
    """The same in memory, uint8."""
    return np.concatenate(list(strips(height, width, "uint8")))


def photo_of(megapixels: float) -> np.ndarray:
    """The same of a size, with sides of 3 to 2."""
    height = round(1000 * (megapixels / 1.5) ** 0.5)
    return texture(height, round(1e6 * megapixels / height))


def size_row(arguments: argparse.Namespace) -> dict:
    """In a process of its own: one size, its peak memory, and its seconds a megapixel beside those of one megapixel."""
    pipeline = load(arguments)
    imported = peak()
    side = round(1000 * arguments.child**0.5)
    shape, dtype = (side, side, 3), np.dtype(arguments.depth)
    small = texture(min(side, 1000), min(side, 1000))
    with tempfile.TemporaryDirectory(dir=arguments.output_dir) as folder:
        with open(Path(folder, "in"), "wb") as file:
            for rows in strips(side, side, dtype.name):
                file.write(rows.tobytes())
        photo = np.memmap(Path(folder, "in"), dtype, "r", shape=shape)
        out = np.memmap(Path(folder, "out"), dtype, "w+", shape=shape)
        measure(lambda: pipeline(small, output_type="np", tile=None))  # warms up
        forget_peak()
        peaks = [imported]
        whole: list[float] = []  # seconds of one megapixel, taken while the photo is restored
        every = max(8, round(arguments.child / 8))  # passes: memory is mapped anew after each

        def in_between(pipeline, step, timestep, kwargs) -> None:
            if step % every == 0:
                peaks.append(peak())
                whole.append(measure(lambda: pipeline(small, output_type="np", tile=None)))
                forget_peak()

        options = {"tile": "auto", "callback_on_step_end": in_between}
        seconds = measure(lambda: pipeline(photo, output_type="np", out=out, **options)) - sum(whole)
        peaks.append(peak())
    return {
        "megapixels": arguments.child,
        "depth": dtype.name,
        "seconds": seconds,
        "seconds per megapixel": seconds / (side**2 / 1e6),
        "of one megapixel, whole": seconds / side**2 / (statistics.mean(whole) / small[:, :, 0].size),
        "peak MiB": max(peaks),
        "of which imports and weights MiB": imported,
    }


def peak() -> float:
    """MiB that this process held at most: its own and its mapped files' pages."""
    try:  # `ru_maxrss` of a child starts from that of its parent
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


def forget_peak() -> None:
    """What one megapixel restored whole took does not count: freed memory goes back, the high water mark is reset."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):  # no Linux: it counts
        pass


def run_child(arguments: argparse.Namespace, megapixels: float, depth: str) -> dict:
    command = [sys.executable, __file__, "--child", str(megapixels), "--depth", depth]
    for name in ("checkpoint", "device", "dtype", "threads", "output_dir"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{megapixels} MP, {depth}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(arguments: argparse.Namespace, rows: dict) -> None:
    """Publishes the report."""
    sizes = [row for key, row in rows.items() if key != "ratios"]
    lines = [
        {
            "megapixels": f"{row['megapixels']:g}",
            "depth": row["depth"],
            "s / MP": f"{row['seconds per megapixel']:.2f}",
            "against 1 MP, whole": f"{row['of one megapixel, whole']:.3f}",
            "peak, MiB": f"{row['peak MiB']:.0f}",
            "imports, weights": f"{row['of which imports and weights MiB']:.0f}",
        }
        for row in sizes
    ]
    common.publish(
        arguments.report,
        "# Inference",
        f"`{common.command(__file__)}`",
        common.machine(),
        f"`{arguments.checkpoint}`, {arguments.device}, {arguments.dtype}, {arguments.threads} thread(s), "
        f"{os.cpu_count()} cores. Ratios on one photo of {arguments.side} x {arguments.side} px, 8 bit; medians of "
        f"{arguments.repeats} rounds.",
        markdown_table(rows["ratios"], ["what", "ratio", ""]),
        'By size, `tile="auto"`, from mapped file to mapped file, each in a process of its own (peak: the whole '
        "process, mapped pages included, but not what the whole megapixel takes; aim for 100 megapixels: 2048). "
        "The ratio is to one megapixel restored whole now and then in between.",
        markdown_table(lines, list(lines[0])) if lines else "",
    )


def parse() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument(
        "--checkpoint", default="daa-denoise", help="or a preset, with random weights: tiny, small, paper"
    )
    parser.add_argument("--side", type=int, default=1024, help="of the photo for the ratios")
    parser.add_argument("--tiles", type=int, nargs="*", default=[512, 768], help="for the ratios")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[1, 4, 25, 100])
    parser.add_argument("--depths", nargs="+", default=["uint8", "uint16"], choices=["uint8", "uint16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output_dir", default="outputs/inference")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--depth", default="uint8", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.child is not None:
        print(json.dumps(size_row(arguments)))
        return
    setting = {name: getattr(arguments, name) for name in ("checkpoint", "device", "dtype", "threads", "side")}
    cache = folder / ("-".join(str(value).replace("/", "_") for value in setting.values()) + ".json")
    rows = json.loads(cache.read_text()) if cache.exists() else {}
    wanted = [(megapixels, depth) for depth in arguments.depths for megapixels in arguments.megapixels]
    if "ratios" not in rows:
        rows["ratios"] = ratios(arguments)
        write_text(cache, json.dumps(rows, indent=1))
    for megapixels, depth in wanted:
        key = f"{megapixels:g} {depth}"
        if key not in rows:
            rows[key] = run_child(arguments, megapixels, depth)
            write_text(cache, json.dumps(rows, indent=1))
    keys = ["ratios", *(f"{megapixels:g} {depth}" for megapixels, depth in wanted)]
    report(arguments, {key: rows[key] for key in keys})


if __name__ == "__main__":
    main()
