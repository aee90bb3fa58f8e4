"""How fast an exported restorer is on the CPU beside torch, and how much its numbers differ.

    python benchmarks/onnx_ratio.py --threads 1 --repeats 5 --output benchmarks/results/onnx.md

Both restore the same photo through the same pipeline; within one run they take turns. Times are of the processor,
summed over threads, which other programs on the machine disturb less than the clock's; ratios are of single rounds,
median and range: above 1 ONNX Runtime is faster. (A file named onnx.py would hide the package of that name.)
"""

import os
import platform
import statistics
import tempfile
from pathlib import Path

import common
import numpy as np
import torch

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.export import OnnxRestorer, export_onnx

SIZES = ((256, 256), (512, 512), (1024, 1024))


def measure(name: str, size: tuple[int, int], repeats: int, threads: int, folder: Path) -> dict[str, str]:
    """One row of the table."""
    plain = DAARestorationPipeline.from_pretrained(name)
    path = folder / f"{name.replace('/', '-')}.onnx"
    if not path.exists():
        export_onnx(plain.restorer, path)
    exported = DAARestorationPipeline(OnnxRestorer(path, threads=threads))
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    ways = {"torch": plain, "onnx": exported}
    for pipeline in ways.values():
        pipeline.set_progress_bar_config(disable=True)
    restored = {way: pipeline(photo, output_type="np").images.astype(int) for way, pipeline in ways.items()}  # warms up
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats):
        for way in list(ways) if turn % 2 else list(ways)[::-1]:
            spent[way].append(common.timed(lambda way=way: ways[way](photo, output_type="np"))[1])  # type: ignore[misc]
    ratios = [one / other for one, other in zip(spent["torch"], spent["onnx"], strict=True)]
    return {
        "checkpoint": name,
        "photo": f"{size[0]} x {size[1]}",
        "torch (CPU s)": f"{statistics.median(spent['torch']):.3f}",
        "onnx (CPU s)": f"{statistics.median(spent['onnx']):.3f}",
        "torch / onnx": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        "largest difference (of 255)": str(np.abs(restored["torch"] - restored["onnx"]).max()),
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--checkpoints", nargs="+", default=["daa-denoise"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[side for side, _ in SIZES], help="sides of square photos"
    )
    arguments = parser.parse_args()

    import onnxruntime

    torch.set_num_threads(arguments.threads)
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(name, (side, side), arguments.repeats, arguments.threads, Path(folder))
            for name in arguments.checkpoints
            for side in arguments.sizes
        ]
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    cores = os.cpu_count()
    load = f"load {busy:.1f} on {cores} cores when it started, so {'quiet' if busy < 0.3 else 'beside other programs'}"
    common.publish(
        arguments.report,
        "# ONNX Runtime against torch, on the CPU",
        f"`{common.command(__file__)}`: {versions}, {platform.machine()}, {arguments.threads} threads, {load}. The "
        "same 8-bit photo through the same pipeline, in turns; processor time, medians, and the ratio of single rounds "
        f"(above 1: ONNX Runtime is faster).",
        markdown_table(rows),
    )


if __name__ == "__main__":
    main()
