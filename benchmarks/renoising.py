"""How strong the noise of renoised self-distillation should be: what a start leaves, and how good the targets are.

    python benchmarks/renoising.py --networks FOLDER     # about 2 minutes of one core

For each start and set of photos (`train`, the middle of 8 photos; their clean ones are for measuring alone): what
`Renoised.measure` finds without labels, and the PSNR of the start and of the target f(f(x) + sigma eps) of eq. (7).
A target is one draw: its errors differ from draw to draw, so that a restorer that learns their mean ends above it.
"""

import os
import time
from pathlib import Path

import common
import torch

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.fitting.photo_noise import WHITE
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.objectives.renoised import Renoised
from daa_diffusers.photos.pixels import center_crop, unit_float
from daa_diffusers.sources.folders import PhotoFolder

SETS = ("renoir", "polyu", "sidd_small")
SIGMAS = (5, 10, 20, 40)
PHOTOS = 8
MEASURED_SIDE = 256  # of the middle that is measured without labels
CLEAN_PATCHES = 16


def starts(networks: str | None) -> dict[str, str]:
    """Restorers by name; CDnCNN-B where its file is at hand."""
    published = {"CDnCNN-B": str(Path(networks) / "cdncnn_b.safetensors")} if networks else {}
    return {**published, "daa-denoise": "daa-denoise"}


@torch.no_grad()
def row(name: str, checkpoint: str, data: Path, photos: str, side: int) -> dict[str, str]:
    """One line of the table."""
    restorer = DAARestorationPipeline.from_pretrained(checkpoint).restorer.float().eval()
    noisy, clean = (PhotoFolder(data / "real_noise" / photos / "train" / kind) for kind in ("noisy", "clean"))
    indices = noisy.spread(PHOTOS)
    whole = [unit_float(center_crop(noisy.photo(i), MEASURED_SIDE)) for i in indices]
    x, y = (torch.stack([unit_float(center_crop(s.photo(i), side)) for i in indices]) for s in (noisy, clean))
    bsds = PhotoFolder(data / "clean" / "bsds")
    patches = torch.stack([unit_float(center_crop(bsds.photo(i), 48)) for i in bsds.spread(CLEAN_PATCHES)])
    measured = Renoised(restorer).measure(iter(whole), patches, generator_for(0, "renoising", "measure"))

    def restored(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([restorer(image[None]) for image in images])

    def quality(images: torch.Tensor) -> str:
        return f"{float(psnr(images, y, as_uint8=True).mean()):.2f}"

    first, generator = restored(x), generator_for(0, "renoising", "noise")
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
        **{f"target, {s}": quality(restored(target)) for s, target in targets.items()},
    }


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
    )


if __name__ == "__main__":
    main()
