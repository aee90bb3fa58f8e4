"""A small adaptation problem without downloads: scikit-image's photos with synthetic camera noise."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..checkpoints.tasks import TASKS, Task
from ..degradations import Degradation, degradation_from_config
from ..degradations.draws import generator_for
from ..errors import ConfigurationError
from ..files import replacing

# Role -> names in skimage.data, of photos inside its package. Each photo has one role.
SOURCES = {
    "clean": ("stereo_motorcycle", "rocket", "brick", "grass", "gravel"),
    "train": ("chelsea", "immunohistochemistry", "camera"),
    "val": ("astronaut", "coffee"),
}
CROP = 192  # side of the written photos in pixels
# Camera noise instead of white Gaussian noise, so that the "real" photos differ from the synthetic ones.
CAMERA = degradation_from_config(TASKS["denoise"].example)
EXAMPLES = ("astronaut", "coffee", "chelsea")  # names in skimage.data of the photos of `example_photos`


@dataclass(frozen=True)
class DemoPhotos:
    """Folders written by `demo_photos`.

    Attributes:
        clean: clean photos, the source of synthetic pairs.
        real_train_noisy: noisy photos without ground truth, to adapt to.
        real_val_noisy, real_val_clean: held-out noisy photos and their clean counterparts, with equal names.
    """

    clean: Path
    real_train_noisy: Path
    real_val_noisy: Path
    real_val_clean: Path


def demo_photos(folder: str | os.PathLike[str], *, seed: int = 0) -> DemoPhotos:
    """Writes a folder of demonstration photos: RGB PNG, 8 bit, 192 x 192; deterministic for a given `seed`.

    `clean/`, `real/train/noisy/` and `real/val/{noisy,clean}/` are cropped from different photos of scikit-image, all
    free of copyright restrictions or included by permission. The noise is `CAMERA`. Since it is synthetic, results on
    these photos show that the program works, not how well it restores photos of a camera.

    Args:
        folder: folder to write to; created if missing. Photos of an earlier call are replaced, each atomically.
        seed: seed of the noise.

    Returns:
        The folders, as `DemoPhotos`.

    Raises:
        ConfigurationError: `folder` is a file, or one of the folders holds files not written by this function.
        ImportError: scikit-image is not installed.
    """
    folder = Path(folder)
    photos = DemoPhotos(
        clean=folder / "clean",
        real_train_noisy=folder / "real" / "train" / "noisy",
        real_val_noisy=folder / "real" / "val" / "noisy",
        real_val_clean=folder / "real" / "val" / "clean",
    )
    folders = {"clean": photos.clean, "train": photos.real_train_noisy, "val": photos.real_val_noisy}
    files: dict[Path, np.ndarray] = {}
    for role, names in SOURCES.items():
        for name in names:
            for index, crop in enumerate(_crops(_load(name))):
                file = f"{name}_{index}.png"
                if role != "train":
                    files[(photos.clean if role == "clean" else photos.real_val_clean) / file] = crop
                if role != "clean":
                    noise = generator_for(seed, "demo_photos", name, index)
                    files[folders[role] / file] = _degraded(crop, CAMERA, noise)
    _write(folder, files)
    return photos


def clean_photos(folder: str | os.PathLike[str]) -> Path:
    """Writes clean crops of all photos that `demo_photos` uses (RGB PNG, 8 bit, 192 x 192), and returns `folder`.

    For users without clean photos of their own. Errors are those of `demo_photos`.
    """
    folder = Path(folder)
    names = [name for group in SOURCES.values() for name in group]
    crops = {folder / f"{name}_{index}.png": crop for name in names for index, crop in enumerate(_crops(_load(name)))}
    _write(folder, crops)
    return folder


def example_photos(folder: str | os.PathLike[str], task: Task) -> list[Path]:
    """Writes whole photos degraded by `task.example` (RGB PNG, 8 bit), and returns their paths.

    Errors are those of `demo_photos`.
    """
    degradation = degradation_from_config(task.example or {"type": task.degradations[0]})
    photos = {
        Path(folder) / f"{name}.png": _degraded(_load(name), degradation, generator_for(0, "example_photos", name, 0))
        for name in EXAMPLES
    }
    _write(Path(folder), photos)
    return list(photos)


def _load(name: str) -> np.ndarray:
    """Loads a photo of scikit-image as (H, W, 3) uint8."""
    try:
        import skimage.data
    except ImportError as error:
        raise ImportError("`demo_photos` needs scikit-image: pip install scikit-image") from error
    photo = getattr(skimage.data, name)()
    photo = photo[0] if isinstance(photo, tuple) else photo  # the left one of a stereo pair
    return np.repeat(photo[..., None], 3, axis=-1) if photo.ndim == 2 else photo


def _crops(photo: np.ndarray) -> list[np.ndarray]:
    """Returns as many crops (CROP, CROP, 3) as fit side by side, spread evenly."""
    height, width = photo.shape[:2]
    tops, lefts = (np.linspace(0, side - CROP, side // CROP).astype(int) for side in (height, width))
    return [photo[top : top + CROP, left : left + CROP] for top in tops for left in lefts]


def _degraded(clean: np.ndarray, degradation: Degradation, generator: torch.Generator) -> np.ndarray:
    """Degrades a photo (H, W, 3) uint8."""
    degraded = degradation(torch.from_numpy(clean.copy()).permute(2, 0, 1)[None] / 255, generator)[0]  # (3, H, W)
    return (degraded.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _write(folder: Path, photos: Mapping[Path, np.ndarray]) -> None:
    """Writes photos (H, W, 3) below `folder`; raises ConfigurationError if their folders hold other files."""
    parents = {path.parent for path in photos}
    for ancestor in {ancestor for parent in parents for ancestor in (parent, *parent.parents)}:
        if ancestor.exists() and not ancestor.is_dir():
            raise ConfigurationError(
                f"`folder` must be a folder or not exist yet, got {str(folder)!r}, where {str(ancestor)!r} is a file"
            )
    others = sorted(str(path) for parent in parents for path in parent.glob("[!.]*") if path not in photos)
    if others:
        raise ConfigurationError(
            f"`folder` must hold only demonstration photos, got {len(others)} other files: "
            f"{others[:5]}; choose another folder"
        )
    for path, photo in photos.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(photo).save(temporary, format="PNG")
