"""Synthetic textures as additional clean training photos: cells, stripes, lattices, spots, text, lines, disks.

    python examples/make_textures.py outputs/photos/textures [--count 60] [--side 512]

Few photos contain nets of bright lines, stripes, lattices or text, and a derainer trained without such patterns removes
them like rain: one trained on 39 landscape photos removed the bright pattern of a leopard print. An image is a function
of its number. Takes about half a second per image. The images are free of any rights.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from daa_diffusers.files import replacing

Pattern = Callable[[np.random.Generator, int], np.ndarray]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def smooth_noise(draws: np.random.Generator, side: int, cell: float) -> np.ndarray:
    """Returns noise (side, side) of about unit variance, interpolated from a grid with `cell` pixels between points."""
    count = max(3, round(side / cell) + 3)
    coarse = torch.from_numpy(draws.normal(size=(1, 1, count, count)))
    return F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)[0, 0].numpy() * 1.3


def warped(draws: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns coordinates (y, x) in pixels, each (side, side), rotated and distorted at random."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    angle, distortion = draws.uniform(0, np.pi), draws.choice([0.0, 10.0, 30.0])
    down = np.cos(angle) * y - np.sin(angle) * x + distortion * smooth_noise(draws, side, side / 4)
    return down, np.sin(angle) * y + np.cos(angle) * x + distortion * smooth_noise(draws, side, side / 4)


def cells(draws: np.random.Generator, side: int) -> np.ndarray:
    """Lines around irregular cells, as in giraffe or leopard skin and cobblestones."""
    count = int(draws.integers(40, 500))
    y, x = np.mgrid[:side, :side] + 0.03 * side * np.stack([smooth_noise(draws, side, side / 6) for _ in range(2)])
    nearest, second = np.full((side, side), np.inf), np.full((side, side), np.inf)
    for top, left in draws.uniform(0, side, (count, 2)):
        distance = np.hypot(y - top, (x - left) * 1.2)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    width = draws.uniform(3, 14)
    return np.maximum(second - nearest < width, 0.4 * (nearest < draws.uniform(0, 8)))


def stripes(draws: np.random.Generator, side: int) -> np.ndarray:
    """Stripes of equal width, straight or wavy."""
    period, share = draws.uniform(8, 60), draws.uniform(0.15, 0.6)
    return (warped(draws, side)[0] / period % 1) < share


def lattice(draws: np.random.Generator, side: int) -> np.ndarray:
    """Crossed bars, or bricks."""
    (down, right), shift = warped(draws, side), draws.choice([0.0, 0.5])
    (high, wide), bar = draws.uniform(14, 70, 2), draws.uniform(3, 9)
    row = np.floor(down / high)
    return (down % high < bar) | ((right + shift * row * wide) % wide < bar)


def spots(draws: np.random.Generator, side: int) -> np.ndarray:
    """Irregular spots."""
    return smooth_noise(draws, side, draws.uniform(6, 40)) > draws.uniform(-0.3, 1.0)


def text(draws: np.random.Generator, side: int) -> np.ndarray:
    """Lines of letters of one size."""
    picture = Image.new("L", (side, side))
    size = int(draws.integers(14, 70))
    font, pen = ImageFont.load_default(size), ImageDraw.Draw(picture)
    for top in range(0, side, round(1.3 * size)):
        pen.text((draws.integers(-20, 20), top), "".join(draws.choice(list(LETTERS + "    "), 90)), fill=255, font=font)
    return np.asarray(picture) / 255.0


def lines(draws: np.random.Generator, side: int) -> np.ndarray:
    """Long lines, straight or curved, like wires, branches and blades of grass."""
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    main, spread = draws.uniform(0, np.pi), draws.choice([0.5, 3.0])
    for _ in range(int(draws.integers(10, 150))):
        angle, step = main + spread * draws.normal(), draws.uniform(10, 60)
        points = [draws.uniform(0, side, 2)]
        for _ in range(int(draws.integers(3, 12))):
            angle += 0.15 * draws.normal()
            points.append(points[-1] + step * np.array([np.cos(angle), np.sin(angle)]))
        pen.line([tuple(point) for point in points], fill=int(draws.integers(90, 256)), width=int(draws.integers(1, 9)))
    return np.asarray(picture) / 255.0


def disks(draws: np.random.Generator, side: int) -> np.ndarray:
    """Overlapping disks of all sizes (dead leaves)."""
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    for _ in range(600):
        radius = min(side / 3, 6 / (1 - draws.random()))
        top, left = draws.uniform(0, side, 2)
        pen.ellipse((left - radius, top - radius, left + radius, top + radius), fill=int(draws.integers(0, 256)))
    return np.asarray(picture) / 255.0


PATTERNS: tuple[Pattern, ...] = (cells, stripes, lattice, spots, text, lines, disks)


def render(number: int, side: int) -> np.ndarray:
    """Renders image `number`, (side, side, 3) uint8: a shaded pattern in two colors, supersampled 2 x 2."""
    draws = np.random.default_rng(number)
    large = 2 * side
    mask = PATTERNS[number % len(PATTERNS)](draws, large).astype(np.float64)[..., None]
    background, foreground = draws.uniform(0, 0.6, 3), draws.uniform(0, 1, 3)
    background += draws.random() * (background.mean() - background)  # random saturation
    if draws.random() < 0.5:  # bright and gray, like rain
        foreground = draws.uniform(0.7, 1.0) + draws.normal(0, 0.04, 3)
    shade = 1 + 0.2 * smooth_noise(draws, large, large / 3)[..., None]
    grain = 0.03 * smooth_noise(draws, large, 4)[..., None]
    picture = (background * shade + grain) * (1 - mask) + foreground * np.minimum(shade, 1.1) * mask
    pixels = torch.from_numpy(picture.clip(0, 1)).permute(2, 0, 1)[None]
    return (F.avg_pool2d(pixels, 2)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Output folder for PNG files.")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--side", type=int, default=512)
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.count):
        with replacing(arguments.folder / f"{number:04d}.png") as temporary:
            Image.fromarray(render(number, arguments.side)).save(temporary, format="PNG")


if __name__ == "__main__":
    main()
