"""Sample sheets of the degradations for docs/degradations.md, and their strength in PSNR.

    python examples/degradation_sheets.py [--output_dir docs/degradations] [--photos FOLDER] [--draws 200]

Writes a JPEG sheet for each degradation and prints quantiles of PSNR over many draws. Takes about a minute on one core.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from daa_diffusers.degradations.base import Degradation, degradation_from_config
from daa_diffusers.degradations.blur import MotionBlur, shake_trajectories
from daa_diffusers.degradations.draws import generator_for, uniform
from daa_diffusers.degradations.psf import trajectory_psf
from daa_diffusers.evaluation.sheets import contact_sheet
from daa_diffusers.files import replacing
from daa_diffusers.sources.demo_photos import demo_photos
from daa_diffusers.sources.folders import PhotoFolder

DRAWS_SHOWN = 4
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NOISE = {"type": "camera", "shot": [5e-4, 1e-2]}
RAIN = {"type": "rain", "across_probability": 0.0}  # vertical rain only, because the photos are upright
DEGRADATIONS = {
    "gaussian": {"type": "gaussian", "sigma_max": 50.0},
    "camera": {"type": "camera"},
    "rain": RAIN,
    # about 25.5 dB, as in Rain100L: added light, no veil
    "rain_light": {
        **RAIN,
        "cover": [0.06, 0.25],
        "distance": [1.0, 2.0],
        "length": [20.0, 60.0],
        "width": [1.2, 2.5],
        "angle": [-30.0, 30.0],
        "angle_spread": [0.0, 3.0],
        "brightness": [0.1, 0.45],
        "screen_probability": 0.0,
        "veil_probability": 0.0,
    },
    "motion_blur": {"type": "motion_blur"},
    "rain_and_noise": {"type": "sequence", "parts": [RAIN, NOISE]},
}


def load_photos(folder: str | None) -> list[torch.Tensor]:
    """Returns photos (C, H, W) in [0, 1] from `folder`, or center crops of scikit-image's photos."""
    with tempfile.TemporaryDirectory() as temporary:
        made = demo_photos(temporary) if folder is None else None
        source = PhotoFolder(made.real_val_clean if made else folder)
        photos = [source.photo(index) for index in range(source.count)]
    return [photo.float() / torch.iinfo(photo.dtype).max for photo in photos]


def psnr(degraded: torch.Tensor, clean: torch.Tensor) -> float:
    return -10 * torch.log10(((degraded.clamp(0, 1) - clean) ** 2).mean()).item()


def degrade(degradation: Degradation, photo: torch.Tensor, name: str, number: int) -> torch.Tensor:
    return degradation(photo[None], generator_for(0, "sheets", name, number))[0]


def quantiles(degradation: Degradation, photos: list[torch.Tensor], name: str, draws: int) -> np.ndarray:
    """Returns the `QUANTILES` of PSNR (RGB, dB) over `draws` draws, which use the photos in turn."""
    taken = (photos[number % len(photos)] for number in range(draws))
    values = [psnr(degrade(degradation, photo, name, number), photo) for number, photo in enumerate(taken)]
    return np.quantile(values, QUANTILES)


def psf_sheet(psfs: torch.Tensor) -> Image.Image:
    """Renders a grid of PSFs (B, 1, K, K): the square root of each, scaled to full brightness."""
    shown = (psfs / psfs.amax((2, 3), keepdim=True)).sqrt()
    shown = torch.nn.functional.pad(shown, (1, 1, 1, 1), value=0.4)
    grid = torch.cat([torch.cat(list(row), dim=2) for row in shown.split(12)], dim=1)[0]  # (H, W)
    picture = Image.fromarray((grid * 255).round().to(torch.uint8).numpy())
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)


def default_psfs(count: int) -> torch.Tensor:
    """Draws PSFs (count, 1, K, K) of `MotionBlur` with default options."""
    generator, default = generator_for(0, "psfs"), MotionBlur()
    ranges = (default.length, default.shake, default.pull, default.reversals)
    drawn = [uniform((count,), *bounds, torch.zeros(1), generator) for bounds in ranges]
    return trajectory_psf(shake_trajectories(*drawn, generator))


def write_jpeg(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        picture.convert("RGB").save(temporary, format="JPEG", quality=82, optimize=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/degradations"))
    parser.add_argument("--photos", help="Folder of clean photos. Default: scikit-image's photos.")
    parser.add_argument("--draws", type=int, default=200, help="Draws for the quantiles of PSNR.")
    arguments = parser.parse_args(argv)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    photos = load_photos(arguments.photos)
    shown = [photos[0], photos[-1]]
    print("| degradation |" + "".join(f" {quantile:.0%} |" for quantile in QUANTILES))
    print("|---|" + "---|" * len(QUANTILES))
    for name, config in DEGRADATIONS.items():
        degradation = degradation_from_config(json.loads(json.dumps(config)))
        rows, captions = [], []
        for index, clean in enumerate(shown):
            draws = [degrade(degradation, clean, name, index * DRAWS_SHOWN + n) for n in range(DRAWS_SHOWN)]
            rows.append([clean, *draws])
            captions.append(["clean", *(f"{psnr(draw, clean):.1f} dB" for draw in draws)])
        with tempfile.TemporaryDirectory() as folder:
            sheet = contact_sheet(rows, (), (), Path(folder) / "sheet.png", captions, cell=192)
            write_jpeg(Image.open(sheet), arguments.output_dir / f"{name}.jpg")
        values = quantiles(degradation, photos, name, arguments.draws)
        print(f"| `{name}` |" + "".join(f" {value:.1f} |" for value in values), flush=True)
    write_jpeg(psf_sheet(default_psfs(36)), arguments.output_dir / "motion_blur_psfs.jpg")


if __name__ == "__main__":
    main()
