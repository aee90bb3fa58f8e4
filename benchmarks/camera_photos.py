"""Photos with strong, correlated noise of our own making: domains of which everything is known.

    python benchmarks/camera_photos.py

The content is PolyU's clean photos, which no restorer here has seen. `camera`: the noise of the degradation of that
name, always with a mosaic and always smoothed afterwards, as cameras do. The others are no degradations of the package:
`phone`; `grain`, `enlarged` and `coded`, before the last change of the rule of `daa adapt`; and `sharpened`, `scanned`
and `blotched`, after it. PNG files of 8 bits; what is there already is kept.
"""

from collections.abc import Callable
from pathlib import Path

import common
import torch
import torch.nn.functional as F
from adaptation_plan import OWN_PHOTOS
from PIL import Image

from daa_diffusers.degradations.camera_noise import CameraNoise
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.filters import gaussian_filter
from daa_diffusers.degradations.jpeg_coding import jpeg
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


# Of phones in the dark: standard deviations at black and at white, of brightness and of either color difference.
LUMA, CHROMA = (0.035, 0.075), (0.025, 0.05)
LUMA_SMOOTHING, CHROMA_SMOOTHING = 0.6, 1.1  # pixels: neighbors correlate by 0.5, and 0.8 (0.4 two pixels apart)
LEVELS = (0.8, 1.2)  # of a photo, a factor
# Y, Cb, Cr to red, green, blue (JPEG's)
RGB = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344, -0.714], [1.0, 1.772, 0.0]])


def phone_noise(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] with noise that depends on brightness, coarser in color than in brightness, clipped."""
    white = torch.randn(clean.shape, generator=generator)
    smooth = [(white[:, :1], LUMA_SMOOTHING, LUMA), (white[:, 1:], CHROMA_SMOOTHING, CHROMA)]
    brightness = clean.mean(1, keepdim=True)
    parts = []
    for part, smoothing, (black, at_white) in smooth:
        filtered = gaussian_filter(part, smoothing)
        unit = filtered / filtered.std((2, 3), keepdim=True)
        parts.append(unit * (black**2 + (at_white**2 - black**2) * brightness).sqrt())
    level = LEVELS[0] + (LEVELS[1] - LEVELS[0]) * torch.rand(len(clean), 1, 1, 1, generator=generator)
    noise = torch.einsum("rc,bchw->brhw", RGB, torch.cat(parts, 1))
    return (clean + level * noise).clamp(0, 1)


def grain(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] with the grain of film: gray, correlated over a pixel, strongest in middle tones."""
    filtered = gaussian_filter(torch.randn((len(clean), 1, *clean.shape[2:]), generator=generator), 1.0)
    tones = (4 * clean * (1 - clean)).clamp(min=0.1).sqrt()
    return (clean + 0.07 * tones * filtered / filtered.std((2, 3), keepdim=True)).clamp(0, 1)


def enlarged(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] with white noise that was enlarged 1.5 times, as by a digital zoom."""
    height, width = (round(side / 1.5) for side in clean.shape[2:])
    white = torch.randn((*clean.shape[:2], height, width), generator=generator)
    return (clean + 0.06 * F.interpolate(white, clean.shape[2:], mode="bicubic")).clamp(0, 1)


def coded(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] with the noise of a phone, coded as JPEG of quality 80, colors at half size."""
    return torch.stack([jpeg(noisy, 80, down=0, right=0) for noisy in phone_noise(clean, generator)])


def sharpened(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] with shot noise of a Bayer mosaic, interpolated bilinearly and sharpened."""
    noisy = clean + (8e-3 * clean + 1e-4).sqrt() * torch.randn(clean.shape, generator=generator)
    mosaic = torch.zeros_like(clean)
    for channel, row, column in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
        mosaic[:, channel, row::2, column::2] = noisy[:, channel, row::2, column::2]
    near = torch.tensor([1.0, 2.0, 1.0])
    full = torch.outer(near, near)[None, None] / 4
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]])[None, None] / 4
    kernel = torch.cat([full, cross, full])
    colors = F.conv2d(F.pad(mosaic, (2, 2, 2, 2), mode="reflect")[..., 1:-1, 1:-1], kernel, groups=3)
    return (colors + (colors - gaussian_filter(colors, 1.0))).clamp(0, 1)


def scanned(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] with the noise of a line scanner: vertical stripes, and noise smeared along rows."""
    white = torch.randn(clean.shape, generator=generator)
    smeared = F.conv2d(F.pad(white, (1, 1, 0, 0), mode="circular"), torch.full((3, 1, 1, 3), 3**-0.5), groups=3)
    stripes = torch.randn((*clean.shape[:2], 1, clean.shape[3]), generator=generator)
    return (clean + 0.05 * smeared + 0.02 * stripes).clamp(0, 1)


def blotched(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] with what a camera's own denoising leaves: little fine noise, coarse spots of color."""
    white, coarse = (torch.randn(clean.shape, generator=generator) for _ in range(2))
    spots = gaussian_filter(coarse, 2.0)
    level = 0.04 * (1.5 - clean.mean(1, keepdim=True))  # dark tones have most
    return (clean + level * (spots / spots.std((2, 3), keepdim=True) + 0.3 * white)).clamp(0, 1)


# Name -> noise; photos lie in `outputs/NAME_photos`.
KINDS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "camera": NOISE,
    "phone": phone_noise,
    "grain": grain,
    "enlarged": enlarged,
    "coded": coded,
    "sharpened": sharpened,
    "scanned": scanned,
    "blotched": blotched,
}


def make_photos(kind: str, data: Path) -> None:
    """Writes `train` and `val`, each with `noisy` and `clean`, from the clean photos of PolyU in `data`."""
    _make(data, OWN_PHOTOS / f"{kind}_photos", KINDS[kind], f"{kind} photos")


def _make(data: Path, folder: Path, degrade: Callable[..., torch.Tensor], draws: str) -> None:
    for part in ("train", "val"):
        source = PhotoFolder(data / "real_noise" / "polyu" / part / "clean")
        for kind in ("noisy", "clean"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
        for index in range(len(source)):
            if (folder / part / "noisy" / f"{index:03d}.png").exists():
                continue
            clean = source.photo(index).float()[None] / 255
            noisy = degrade(clean, generator_for(0, draws, part, index))
            for kind, photo in (("clean", clean), ("noisy", noisy)):  # the noisy one last: where it is, both are
                pixels = (photo[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                with replacing(folder / part / kind / f"{index:03d}.png") as temporary:
                    Image.fromarray(pixels).save(temporary, format="PNG")


if __name__ == "__main__":
    given = common.parser(__doc__, data=True).parse_args().data
    for kind in KINDS:
        make_photos(kind, given)
