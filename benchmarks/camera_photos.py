"""Photos with strong, correlated camera noise of our own making: a domain of which everything is known.

    python benchmarks/camera_photos.py

The content is PolyU's clean photos, which no restorer here has seen; the noise is that of `data.camera`, always with a
mosaic and always smoothed afterwards, as cameras do. PNG files of 8 bits; what is there already is kept.
"""

import argparse
import os
from pathlib import Path

import torch
from adaptation_plan import CAMERA_PHOTOS
from PIL import Image

from daa_diffusers.degradations.camera_noise import CameraNoise
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.files import replacing
from daa_diffusers.sources.folders import PhotoFolder

NOISE = CameraNoise(
    shot=(3e-3, 2e-2),
    read=(2e-3, 8e-3),
    demosaic_probability=1.0,
    smoothing_probability=1.0,
    smoothing=(0.6, 1.0),
    jpeg_probability=0.0,
)
ROOT = Path(__file__).resolve().parents[1]


def make_camera_photos(data: Path, folder: Path = CAMERA_PHOTOS) -> None:
    """Writes `train` and `val`, each with `noisy` and `clean`, from the clean photos of PolyU in `data`."""
    for part in ("train", "val"):
        source = PhotoFolder(data / "real_noise" / "polyu" / part / "clean")
        for kind in ("noisy", "clean"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
        for index in range(len(source)):
            if (folder / part / "noisy" / f"{index:03d}.png").exists():
                continue
            clean = source.photo(index).float()[None] / 255
            noisy = NOISE(clean, generator_for(0, "camera photos", part, index))
            for kind, photo in (("clean", clean), ("noisy", noisy)):  # the noisy one last: it says that both are there
                pixels = (photo[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                with replacing(folder / part / kind / f"{index:03d}.png") as temporary:
                    Image.fromarray(pixels).save(temporary, format="PNG")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("DAA_DATA", str(ROOT / ".." / "shared" / "data")))
    make_camera_photos(parser.parse_args().data)
