"""The bundled restorers beside others: published networks and classic denoisers, on the same photos, with their time.

    pip install bm3d                                              # for non-commercial research; without it, no row BM3D
    python benchmarks/maxim.py ...                                # for each set of `SETS`; without it, no row MAXIM
    python benchmarks/peers.py --report benchmarks/results/peers.md

Peers that PyTorch or NumPy computes are wrapped as restorers; the results of others are read from the folders
`outputs/peers/ROW/SET`. All are rounded to 8 bit and scored by the same code. Classic denoisers are given the noise
level of the photo, estimated from it. Seconds are processor time on one thread: of a photo of 512 x 512 pixels, the
median of three; of results in folders, the median of their `seconds.json`.
"""

import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch
from adaptation_plan import DOMAINS
from adaptation_report import main_metric
from scipy.ndimage import convolve
from skimage.restoration import denoise_nl_means
from torch import nn

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.folders import evaluate_folder
from daa_diffusers.evaluation.statistics import markdown_table

LAPLACIANS = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])  # the difference of two
SIDE, REPEATS = 512, 3  # of the photo that is timed


# task -> domain of `adaptation_plan`, whose `val` is restored -> heading of its column
SETS = {
    "denoise": {"renoir": "RENOIR", "sidd_small": "SIDD small", "polyu": "PolyU"},
    "derain": {"rain100l": "Rain100L (Y)"},
    "deblur": {"levin": "Levin (best shift)"},
}
OURS = {"denoise": ("daa-denoise", "daa-denoise-research"), "derain": ("daa-derain",), "deblur": ("daa-deblur",)}


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


def pipelines(task: str, networks: Path) -> dict[str, DAARestorationPipeline]:
    """Name of the row -> its pipeline, for the peers that run in this process."""
    rows = {name: DAARestorationPipeline.from_pretrained(name) for name in OURS[task]}
    if task == "denoise":
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
    """Processor seconds per megapixel."""
    photo = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        pipeline(photo, output_type="pt")
        spent.append(time.process_time() - began)
    return statistics.median(spent) / (SIDE**2 / 1e6)


def table(task: str, data: Path, networks: Path, results: Path) -> str:
    """The table of `task`; `results` holds the folders ROW/SET of peers that ran elsewhere."""
    rows = pipelines(task, networks)
    scores: dict[str, dict[str, np.ndarray]] = {}  # row -> set -> one score per photo
    spent: dict[str, list[float]] = {row: [seconds(pipeline)] for row, pipeline in rows.items()}
    for name in SETS[task]:
        metric, domain = main_metric(name), DOMAINS[name]
        degraded, clean = (data / folder for folder in domain.val)
        arguments = {**domain.evaluation, "metrics": [metric]}
        found = evaluate_folder(rows, degraded, clean, progress=True, **arguments)
        for row in found.rows:
            scores.setdefault(row, {})[name] = found.values(row, metric)
        for folder in sorted(results.glob(f"*/{name}")):
            found = evaluate_folder({}, folder, clean, **arguments)
            scores.setdefault(folder.parent.name, {})[name] = found.values("identity", metric)
            spent.setdefault(folder.parent.name, []).extend(json.loads((folder / "seconds.json").read_text()).values())
    lines = []
    for row, values in scores.items():
        line = {"row": row}
        for name, own in values.items():
            gain = (own - scores["identity"][name]).min()
            line[f"{SETS[task][name]}, worst gain"] = f"{own.mean():.2f}, {gain:+.2f}"
        if row in spent:
            line["s/MP"] = f"{statistics.median(spent[row]):.2f}"
        lines.append(line)
    return markdown_table(lines, ["row", *(f"{title}, worst gain" for title in SETS[task].values()), "s/MP"])


def main() -> None:
    parser = common.parser(__doc__, data=True)
    parser.add_argument("--networks", type=Path, default=common.ROOT.parent / "shared" / "networks")
    parser.add_argument("--results", type=Path, default=common.ROOT / "outputs" / "peers")
    parser.add_argument("--tasks", nargs="+", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paragraphs = [
        "# The bundled restorers beside others",
        f"`{common.command(__file__)}`",
        "Mean PSNR (dB) of the photos of `val`, RGB rounded to 8 bit, without the guard, and the smallest gain of any\n"
        "photo over the untouched one. BM3D and NLM are given a noise level estimated from the photo. Processor\n"
        "seconds per megapixel, one thread, float32.",
    ]
    for task in arguments.tasks:
        paragraphs += [f"## {task}", table(task, arguments.data, arguments.networks, arguments.results)]
    common.publish(arguments.report, *paragraphs)


if __name__ == "__main__":
    main()
