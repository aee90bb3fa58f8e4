"""Float32 and bfloat16 within (`enable_mixed_precision`): decibels and processor seconds, photo by photo in one run.

    python benchmarks/precision.py --checkpoints daa-denoise my.safetensors --report benchmarks/results/precision.md

Reads val of RENOIR and PolyU in $DAA_DATA. "error" is what "auto" decides by, in levels of 255 on its probe; it takes
bfloat16 up to `TOLERATED`. Use one thread.
"""

import time
from pathlib import Path
from statistics import fmean

import common
import torch

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.photos.pixels import unit_float
from daa_diffusers.pipelines.precision import TOLERATED, bfloat16_error, is_fast_in_bfloat16
from daa_diffusers.sources.folders import PhotoFolder

SETS = ("renoir", "polyu")
PHOTOS = 5


def row(name: str, checkpoint: str, data: Path, photos: str) -> dict[str, str]:
    """One line of the table."""
    pipe = DAARestorationPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    noisy, clean = (PhotoFolder(data / "real_noise" / photos / "val" / kind) for kind in ("noisy", "clean"))
    decibels: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    seconds = dict.fromkeys(decibels, 0.0)
    megapixels = 0.0
    for index in noisy.spread(PHOTOS):
        x, y = unit_float(noisy.photo(index)), unit_float(clean.photo(index))
        megapixels += x[0].numel() / 1e6
        for dtype, scores in decibels.items():
            pipe.mixed_precision = None if dtype == torch.float32 else dtype
            began = time.process_time()
            restored = pipe(x, output_type="pt").images[0]
            seconds[dtype] += time.process_time() - began
            scores.append(float(psnr(restored, y, as_uint8=True)))
    exact, mixed = (fmean(scores) for scores in decibels.values())
    return {
        "restorer": name,
        "photos": photos,
        "float32 (dB)": f"{exact:.2f}",
        "bfloat16 (dB)": f"{mixed - exact:+.3f}",
        "error": f"{bfloat16_error(pipe.restorer) * 255:.2f}",
        "auto": str(pipe.enable_mixed_precision() or torch.float32).removeprefix("torch."),
        "s / MP float32": f"{seconds[torch.float32] / megapixels:.2f}",
        "bfloat16 / float32": f"{seconds[torch.bfloat16] / seconds[torch.float32]:.2f}",
    }


def main() -> None:
    parser = common.parser(__doc__, data=True)
    parser.add_argument("--checkpoints", nargs="+", default=["daa-denoise"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(Path(one).stem, one, Path(arguments.data), photos) for one in arguments.checkpoints for photos in SETS]
    fast = "has" if is_fast_in_bfloat16(torch.device("cpu")) else "does not have"
    common.publish(
        arguments.report,
        "# bfloat16 within, against float32",
        f"`{common.command(__file__)}`",
        f"This processor {fast} instructions for bfloat16; one thread, {PHOTOS} photos of val each, PSNR of 8 bit. "
        f"The pipeline as a whole. `auto` takes bfloat16 up to an error of {TOLERATED * 255:.2f} on its probe.",
        markdown_table(rows, list(rows[0])),
    )


if __name__ == "__main__":
    main()
