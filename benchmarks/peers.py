"""The bundled restorers beside others: published networks and classic denoisers, on the same photos, with their time.

    pip install bm3d                                              # for non-commercial research; without it, no row BM3D
    python benchmarks/peers.py --report benchmarks/results/peers.md

Every peer is wrapped as a restorer, so that all of them read the same photos, are rounded alike and are measured by
one code. Classic denoisers are told the noise level of the photo, estimated from it. Seconds are of the processor, one
thread, on a photo of 512 x 512 pixels, the median of three.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch
from scipy.ndimage import convolve
from skimage.restoration import denoise_nl_means
from torch import nn

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.folders import evaluate_folder

NOISE = ("renoir", "sidd_small", "polyu")
NAMES = {"renoir": "RENOIR", "sidd_small": "SIDD small", "polyu": "PolyU"}
OURS = ("daa-denoise", "daa-denoise-research")
LAPLACIANS = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])  # the difference of two
SIDE, REPEATS = 512, 3  # of the photo that is timed


class Classic(nn.Module):
    """A denoiser of arrays, (H, W, 3) in [0, 1] and the standard deviation of the noise -> the same, as a restorer."""

    is_global = True  # never in tiles: what it estimates is of the whole photo

    def __init__(self, denoise: Callable[[np.ndarray, float], np.ndarray]):
        super().__init__()
        self.denoise = denoise
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)  # whose device and dtype photos are given in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> the same, denoised."""
        done = []
        for photo in x.permute(0, 2, 3, 1).double().cpu().numpy():
            done.append(torch.from_numpy(np.ascontiguousarray(self.denoise(photo, noise_level(photo)))))
        return torch.stack(done).permute(0, 3, 1, 2).to(x)


def noise_level(photo: np.ndarray) -> float:
    """Standard deviation of the noise of (H, W, 3), by what edges hardly answer to (Immerkaer 1996)."""
    answer = convolve(photo, LAPLACIANS[..., None], mode="reflect")
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(answer).mean())


def nl_means(photo: np.ndarray, sigma: float) -> np.ndarray:
    """Non-local means (Buades et al. 2005) with the settings that scikit-image recommends for a known noise level."""
    return denoise_nl_means(photo, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, channel_axis=-1)


def bm3d_rgb(photo: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D (Dabov et al. 2007) by its authors' package."""
    import bm3d

    return bm3d.bm3d_rgb(photo, max(sigma, 1e-3))


def peers(networks: Path) -> dict[str, DAARestorationPipeline]:
    """Name of the row -> its pipeline."""
    rows = {name: DAARestorationPipeline.from_pretrained(name) for name in OURS}
    published = networks / "cdncnn_b.safetensors"
    if published.is_file():
        rows["CDnCNN-B"] = DAARestorationPipeline.from_pretrained(str(published))
    if importlib.util.find_spec("bm3d"):
        rows["BM3D"] = DAARestorationPipeline(Classic(bm3d_rgb))
    rows["NLM"] = DAARestorationPipeline(Classic(nl_means))
    for pipeline in rows.values():
        pipeline.set_progress_bar_config(disable=True)
    return rows


def seconds(pipeline: DAARestorationPipeline) -> float:
    """Of the processor, a megapixel."""
    photo = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        pipeline(photo, output_type="pt")
        spent.append(time.process_time() - began)
    return statistics.median(spent) / (SIDE**2 / 1e6)


def main() -> None:
    parser = common.parser(__doc__, data=True)
    parser.add_argument("--networks", type=Path, default=common.ROOT.parent / "shared" / "networks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = peers(arguments.networks)
    found = {}
    for name in NOISE:
        folder = arguments.data / "real_noise" / name / "val"
        found[name] = evaluate_folder(rows, folder / "noisy", folder / "clean", metrics=["psnr", "ssim"], progress=True)
    lines = [
        "# The bundled denoisers beside others",
        "",
        "`python benchmarks/peers.py`: mean PSNR (dB) and SSIM per photo of `val`, RGB rounded to 8 bit, without the",
        "guard. `worst` is the worst photo's gain over the untouched one, on any of the sets. BM3D and NLM are told a",
        "noise level that is estimated from the photo. Seconds of the processor a megapixel, one thread, float32.",
        "",
        "| row | " + " | ".join(NAMES.values()) + " | worst | s/MP |",
        "| --- |" + " ---: |" * (len(NOISE) + 2),
    ]
    for row in ("identity", *rows):
        gains = [(found[n].values(row, "psnr") - found[n].values("identity", "psnr")).min() for n in NOISE]
        scores = [
            f"{found[n].values(row, 'psnr').mean():.2f}, {found[n].values(row, 'ssim').mean():.4f}" for n in NOISE
        ]
        spent = f"{seconds(rows[row]):.2f}" if row in rows else ""
        lines.append(f"| {row} | {' | '.join(scores)} | {min(gains):+.2f} | {spent} |")
    text = "\n".join(lines) + "\n"
    common.publish(arguments.report, text)


if __name__ == "__main__":
    main()
