"""How strong the noise of renoised self-distillation should be: what a start leaves, and how good the targets are.

    python benchmarks/renoising.py --networks FOLDER     # about 2 minutes of one core

For each start and set of photos (`train`, the middle of 8 photos; their clean ones are for measuring alone): what
`Renoised.measure` finds without labels, and the PSNR of the start and of the target f(f(x) + sigma eps) of eq. (7).
A target is one draw: its errors differ from draw to draw, so that a restorer that learns their mean ends above it.

The second table is of rain and shake, where the start is no denoiser: its target is what a denoiser beside it makes
of the noised result, g(f(x) + sigma eps), or of the photo, f(g(x + sigma eps)).
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import torch

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.fitting.photo_noise import WHITE
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.evaluation.shifted import psnr_shift
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.objectives.renoised import Renoised
from daa_diffusers.photos.pixels import center_crop, unit_float
from daa_diffusers.sources.folders import PhotoFolder

SETS = ("renoir", "polyu", "sidd_small")
SIGMAS = (5, 10, 20, 40)
PHOTOS = 8
MEASURED_SIDE = 256  # side in pixels of the middle that is measured without labels
CLEAN_PATCHES, PATCH = 16, 48  # number and side in pixels of the clean patches
SHAKE = {"type": "motion_blur", "length": [4.0, 24.0]}


def starts(networks: str | None) -> dict[str, str]:
    """Restorers by name; CDnCNN-B where its file is at hand."""
    published = {"CDnCNN-B": str(Path(networks) / "cdncnn_b.safetensors")} if networks else {}
    return {**published, "daa-denoise": "daa-denoise"}


def load(checkpoint: str) -> torch.nn.Module:
    """Returns the restorer of a checkpoint, in float32."""
    return DAARestorationPipeline.from_pretrained(checkpoint).restorer.float().eval()


def middles(source: PhotoFolder, side: int, count: int = PHOTOS) -> torch.Tensor:
    """Returns the centers of `count` photos, (N, C, side, side) in [0, 1]."""
    return torch.stack([unit_float(center_crop(source.photo(index), side)) for index in source.spread(count)])


def restored(restorer: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Restores images (N, C, H, W) one at a time."""
    return torch.cat([restorer(image[None]) for image in images])


def mean_text(metric: Callable[..., torch.Tensor], images: torch.Tensor, clean: torch.Tensor) -> str:
    """Returns the mean of a metric over images, as text."""
    return f"{float(metric(images, clean, as_uint8=True).mean()):.2f}"


@torch.no_grad()
def row(name: str, checkpoint: str, data: Path, photos: str, side: int) -> dict[str, str]:
    """Returns one line of the table."""
    restorer = load(checkpoint)
    noisy, clean = (PhotoFolder(data / "real_noise" / photos / "train" / kind) for kind in ("noisy", "clean"))
    x, y = middles(noisy, side), middles(clean, side)
    patches = middles(PhotoFolder(data / "clean" / "bsds"), PATCH, CLEAN_PATCHES)
    generator = generator_for(0, "renoising", "measure")
    measured = Renoised(restorer).measure(middles(noisy, MEASURED_SIDE), patches, generator)

    quality = partial(mean_text, psnr, clean=y)
    first, generator = restored(restorer, x), generator_for(0, "renoising", "noise")
    targets = {s: first + s / 255 * torch.randn(x.shape, generator=generator) for s in SIGMAS}
    is_white = abs(measured["neighbors"]) < WHITE
    return {
        "start": name,
        "photos": photos,
        "noise": f"{measured['noise']:.1f}",
        "neighbors": f"{measured['neighbors']:.2f}",
        "left": f"{measured['left']:.1f}",
        "hiding": f"{measured['hiding']:.1f}",
        "sigma": "left out" if is_white else f"{measured['sigma_min']:.1f} to {measured['sigma_max']:.1f}",
        "untouched": quality(x),
        "first": quality(first),
        **{f"target, {s}": quality(restored(restorer, target)) for s, target in targets.items()},
    }


@torch.no_grad()
def beside(checkpoint: str, data: Path, side: int) -> dict[str, str]:
    """Returns one line of the table of starts that are no denoisers, with `daa-denoise` as the other network."""
    start, denoiser = load(checkpoint), load("daa-denoise")
    generator = generator_for(0, "renoising", checkpoint)
    if checkpoint == "daa-derain":
        x, y = (middles(PhotoFolder(data / "rain100l" / "train" / kind), side) for kind in ("rainy", "clean"))
    else:
        y = middles(PhotoFolder(data / "clean" / "bsds"), side)
        shake = degradation_from_config(SHAKE)
        x = torch.stack([shake(image[None], generator)[0] for image in y])

    quality = partial(mean_text, psnr_shift, clean=y)
    first = restored(start, x)
    line = {"start": checkpoint, "untouched": quality(x), "first": quality(first)}
    for s in (0, *SIGMAS):
        noise = s / 255 * torch.randn(x.shape, generator=generator)
        line[f"g(f(x) + {s})"] = quality(restored(denoiser, first + noise))
        line[f"f(g(x + {s}))"] = quality(restored(start, restored(denoiser, x + noise)))
    return line


def main() -> None:
    parser = common.parser(__doc__, "renoising.md", data=True)
    parser.add_argument("--networks", default=os.environ.get("DAA_NETWORKS"), help="folder of cdncnn_b.safetensors")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument(
        "--side", type=int, default=128, help="of the middle of each photo that is compared with its clean one"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    lines = []
    for name, checkpoint in starts(arguments.networks).items():
        for photos in arguments.sets:
            lines.append(row(name, checkpoint, arguments.data, photos, arguments.side))
            print(lines[-1], flush=True)
    others = [beside(checkpoint, arguments.data, arguments.side) for checkpoint in ("daa-derain", "daa-deblur")]
    common.publish(
        arguments.report,
        "# The strength of renoising",
        f"`{common.command(__file__)}`",
        f"{time.process_time() - began:.0f} seconds of a core. {PHOTOS} photos of `train`: noise measured on the "
        f"middle {MEASURED_SIDE} px, PSNR (dB, RGB uint8, mean per photo) on their middle {arguments.side} px.",
        "noise, left: standard deviation (1/255) in flat parts, before and after the start, medians over photos; "
        "neighbors: correlation of the noise of neighboring pixels; hiding: deviation of white noise that hides "
        "what is left; sigma: the range that follows; first: the start; target, s: f(f(x) + s eps), one draw.",
        markdown_table(lines),
        "## Rain and shake",
        "f: the start; g: `daa-denoise`; + s: noise of s/255. Rain100L's `train`; shaken photos of `clean/bsds`. "
        "PSNR at the best shift.",
        markdown_table(others),
    )


if __name__ == "__main__":
    main()
