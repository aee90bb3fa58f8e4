"""How much the pipeline costs beside the bare network, on one megapixel of 8-bit pixels.

    python benchmarks/pipeline_overhead.py --preset tiny --repeats 7

Both are timed in turn within one run, so that a busy machine disturbs them alike. The bare network gets a float tensor
that is ready for it, in the order of memory that people usually have (contiguous) and in the one that the pipeline
chooses (channels last); the pipeline gets and gives a uint8 array. Ratios are of the medians of the single rounds:
below 1 the pipeline is faster. `overhead` sets only what is added around the very same pass in relation to it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from daa_diffusers import DAARestorationPipeline, RestorationUNet


def measure(run: Callable[[], object], device: torch.device) -> float:
    """Seconds for one call, with everything that it started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=["tiny", "small", "paper"])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    arguments = parser.parse_args()

    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    restorer = RestorationUNet.from_preset(arguments.preset).eval().to(device, dtype)
    with torch.no_grad():
        restorer.conv_out.weight.mul_(0.1)
    pipeline = DAARestorationPipeline(restorer)
    pipeline.set_progress_bar_config(disable=True)
    height, width = arguments.size
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = (-(-side // restorer.size_multiple) * restorer.size_multiple for side in (height, width))
    contiguous = torch.rand(1, 3, rows, columns, device=device, dtype=dtype)
    channels_last = contiguous.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def bare(batch: torch.Tensor) -> torch.Tensor:
        return restorer(batch)

    ways = {
        "bare, contiguous": lambda: bare(contiguous),
        "bare, channels last": lambda: bare(channels_last),
        "pipeline": lambda: pipeline(photo, output_type="np"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(arguments.repeats + 1):
        order = list(ways) if round_number % 2 else list(ways)[::-1]
        for name in order:
            spent = measure(ways[name], device)
            if round_number:  # the first round warms up
                seconds[name].append(spent)

    print(f"{arguments.preset}, {height} x {width}, {device}, {arguments.dtype}, {torch.get_num_threads()} threads")
    for name, values in seconds.items():
        print(f"  {name:20} {statistics.median(values):8.4f} s  (best {min(values):.4f})")
    for name in list(ways)[:2]:
        ratios = [a / b for a, b in zip(seconds["pipeline"], seconds[name], strict=True)]
        best = min(seconds["pipeline"]) / min(seconds[name])
        print(f"  pipeline / {name:20} median {statistics.median(ratios):.3f}, of the best {best:.3f}")
    added = overhead(pipeline, photo, restorer, device, arguments.repeats)
    share = added / min(seconds["bare, channels last"])
    print(f"  overhead: {1000 * added:.1f} ms around the pass, {100 * share:.1f} % of it (target: at most 3 %)")


def overhead(
    pipeline: DAARestorationPipeline, photo: np.ndarray, restorer: RestorationUNet, device: torch.device, repeats: int
) -> float:
    """Seconds that the pipeline spends outside the restorer: its best time with the restorer's forward passed over."""

    class Untouched(torch.nn.Module):
        size_multiple = restorer.size_multiple
        config = restorer.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, device=device, dtype=next(restorer.parameters()).dtype))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch

    around = DAARestorationPipeline(Untouched())
    around.set_progress_bar_config(disable=True)
    return min(measure(lambda: around(photo, output_type="np"), device) for _ in range(repeats + 1))


if __name__ == "__main__":
    main()
