"""PSNR without ground truth from bursts: two or more frames of one static scene, whose noise is independent."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import torch
import torch.nn.functional as F

from ..degradations.filters import gaussian_filter
from ..errors import ConfigurationError
from ..files import one_line
from ..photos.pixels import center_crop, unit_float
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from ..sources.folders import PhotoFolder
from .folders import restore
from .result import IDENTITY, Restorers
from .statistics import bootstrap_interval, markdown_table, paired_bootstrap

logger = logging.getLogger(__name__)

MOST_FRAMES = 4  # of a burst, equally spaced: the number of pairs grows with its square
MOST_SHIFT = 4.0  # pixels, along either side
MOST_GAIN = 1.25  # between the mean brightness of two frames, or its inverse
COARSE = 16  # pixels: side of the blocks in which noise averages out and scenes do not
# Mean square of the means of blocks, over that of single pixels, of the difference of two frames. Of white noise it is
# 1/256; of noise correlated over three pixels, up to 0.1.
MOVED = 0.2
QUIET = 0.4 / 255  # deviation of a difference below which motion is not judged: 8-bit rounding alone makes 0.41/255
ALIKE = 0.5  # least correlation of the means of blocks of two frames of one scene
LEAST_MSE = 1e-8
SMOOTHED, REFINEMENTS = 1.5, 4  # pixels and steps, of the search for a shift


@dataclass(frozen=True)
class BurstScores:
    """Scores of restorers on bursts.

    Attributes:
        bursts: names of those that were scored.
        psnr: row -> one number a burst, in dB; the untouched input, "identity", is the first row.
        noise: deviation (1/255) of the noise of each burst's frames.
        skipped: bursts that were left out, and why.
    """

    bursts: tuple[str, ...]
    psnr: dict[str, list[float]]
    noise: list[float] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def mean(self, row: str) -> float:
        """Mean over bursts, in dB."""
        return sum(self.psnr[row]) / len(self.bursts)

    def report(self, baseline: str = IDENTITY) -> str:
        """Markdown: mean PSNR of each row, with intervals over bursts, and what was left out."""
        lines = []
        for row, values in self.psnr.items():
            line = {"row": row, "PSNR": f"{self.mean(row):.2f}"}
            if len(values) > 1:
                low, high = bootstrap_interval(values)
                line["PSNR"] += f" [{low:.2f}, {high:.2f}]"
                if row != baseline:
                    d = paired_bootstrap(values, self.psnr[baseline])
                    line[f"minus {baseline}"] = f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"
            lines.append(line)
        left_out = [one_line(f"left out: {name}: {reason}") for name, reason in self.skipped.items()]
        return "\n\n".join(
            [
                f"# {len(self.bursts)} bursts, no ground truth",
                "PSNR (dB, RGB, floating point, without 8 pixels of border) of a restored frame against other frames "
                "of its burst, less the variance of their noise. Brackets: 95 % bootstrap intervals over bursts. What "
                "all frames of a burst share, such as fixed patterns of the sensor and errors of color, counts as part "
                "of the scene.",
                markdown_table(lines),
                *left_out,
            ]
        )


def evaluate_bursts(restorers: Restorers, folder: str | os.PathLike[str]) -> BurstScores:
    """Estimates the PSNR of restorers from bursts; unbiased where the noise of frames is independent.

    With frames `x_i = c + n_i`, `E |f(x_1) - x_2|^2 = |f(x_1) - c|^2 + var(n_2)`, since n_2 is independent of f(x_1),
    and `var(n_2) = |x_1 - x_2|^2 / 2`. The mean goes over all ordered pairs of frames. A frame is brought to the
    other's brightness by the ratio of their means, color by color, and to its place by a shift of whole and part
    pixels in the Fourier domain, which does not change the variance of noise.

    Args:
        restorers: as `evaluate_folder` takes them.
        folder: as for `read_bursts`, whose errors are raised.

    Returns:
        The scores; what `read_bursts` leaves out is named with the reason.
    """
    rows: dict[str, DAARestorationPipeline | None] = {IDENTITY: None, **restorers}
    scores = BurstScores((), {row: [] for row in rows})
    scored: list[str] = []
    for burst in read_bursts(folder, skipped=scores.skipped):
        for row, pipeline in rows.items():
            scores.psnr[row].append(burst.psnr(pipeline))
        scores.noise.append(255 * math.sqrt(burst.variance))
        scored.append(burst.name)
    return BurstScores(tuple(scored), scores.psnr, scores.noise, scores.skipped)


def read_bursts(
    folder: str | os.PathLike[str],
    *,
    skipped: dict[str, str] | None = None,
    side: int | None = None,
    argument: str = "bursts",
) -> Iterator["Burst"]:
    """The bursts of a folder, one after the other.

    Args:
        folder: one folder a burst, each with two or more photos of one size.
        skipped: gets the names of the bursts that are left out, and why: those of one frame, of several sizes or
            scenes, shifted or exposed too differently.
        side: of the middle square that is read of larger frames, in pixels; None: all of them.
        argument: what messages call `folder`.

    Raises:
        ConfigurationError: `folder` holds no folder with photos, or all bursts are left out.
    """
    root, skipped = Path(folder), {} if skipped is None else skipped
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not names:
        raise ConfigurationError(
            f"`{argument}` must be a folder of folders, each with the frames of one static scene, got {str(folder)!r}"
        )
    for name in names:
        try:
            source = PhotoFolder(root / name, argument=argument)
            burst = Burst.of(name, source, _frames(source, side))
        except (ConfigurationError, ValueError) as error:
            skipped[name] = str(error)
            logger.warning("`%s`: skipping %s: %s", argument, name, error)
        else:
            yield burst
    if len(skipped) == len(names):
        reasons = "".join("\n" + one_line(f"- {name}: {reason}") for name, reason in list(skipped.items())[:10])
        raise ConfigurationError(f"`{argument}`: none of the {len(names)} bursts can be scored{reasons}")


@dataclass(frozen=True)
class Burst:
    """The frames of a static scene.

    Attributes:
        name: of its folder.
        source: its folder.
        frames: (C, H, W) in [0, 1].
        pairs: all ordered pairs of them, by the indices of their frames.
        variance: of the noise of a frame.
    """

    name: str
    source: PhotoFolder
    frames: list[torch.Tensor]
    pairs: dict[tuple[int, int], "_Pair"]
    variance: float

    @classmethod
    def of(cls, name: str, source: PhotoFolder, frames: list[torch.Tensor]) -> "Burst":
        """Aligns the frames; raises ValueError where they are not of one static scene."""
        pairs = {(i, j): _aligned(frames[i], frames[j]) for i, j in permutations(range(len(frames)), 2)}
        return cls(name, source, frames, pairs, sum(pair.variance for pair in pairs.values()) / len(pairs))

    def psnr(self, pipeline: DAARestorationPipeline | None) -> float:
        """Estimated PSNR of the restored frames in dB; of the frames as they are for None."""
        if pipeline is None:  # a frame's own noise is what it has
            error = self.variance
        else:
            restored = [restore(pipeline, frame) for frame in self.frames]
            errors = [pair.error(restored[i]) for (i, _), pair in self.pairs.items()]
            error = sum(errors) / len(errors)
        return -10 * math.log10(max(error, LEAST_MSE))


@dataclass(frozen=True)
class _Pair:
    """Two frames of a burst.

    Attributes:
        gain: (C, 1, 1), factor of the first.
        shift: (down, right) by which the first is moved.
        second: (C, h, w), without the border that the shift invalidates.
        variance: of the noise of one frame.
    """

    gain: torch.Tensor
    shift: tuple[float, float]
    second: torch.Tensor
    variance: float

    def error(self, restored: torch.Tensor) -> float:
        """Mean squared error of the first frame, restored, against the scene."""
        difference = _inside(_moved(restored * self.gain, self.shift)) - self.second
        return float(difference.double().square().mean()) - self.variance


def _aligned(first: torch.Tensor, second: torch.Tensor) -> _Pair:
    """The pair of two frames (C, H, W); ValueError where they do not show one static scene."""
    gain = second.mean((1, 2), keepdim=True) / first.mean((1, 2), keepdim=True).clamp(min=1e-3)
    blocks = [F.avg_pool2d(frame[None], COARSE)[0] for frame in (first, second)]
    if _correlation(*blocks) < ALIKE:
        raise ValueError("its frames show different scenes")
    worst = float(gain.log().abs().max().exp())
    if worst > MOST_GAIN:
        raise ValueError(f"the brightness of its frames differs by a factor of {worst:.2f}, above {MOST_GAIN}")
    shift = _shift(first * gain, second)
    if max(map(abs, shift)) > MOST_SHIFT:
        raise ValueError(
            f"its frames are shifted by {shift[0]:.1f} and {shift[1]:.1f} pixels, above {MOST_SHIFT:g}: use a tripod"
        )
    inside = _inside(second)
    difference = _inside(_moved(first * gain, shift)) - inside
    power = float(difference.double().square().mean())
    coarse = float(F.avg_pool2d(difference[None], COARSE).double().square().mean())
    if power > QUIET**2 and coarse > MOVED * power:
        raise ValueError("something moves, or the light changes, between its frames")
    return _Pair(gain, shift, inside, power / (1 + float(gain.square().mean())))


def _frames(source: PhotoFolder, side: int | None) -> list[torch.Tensor]:
    if len(source) < 2:
        raise ConfigurationError("a burst has two frames or more, got one")
    frames = [unit_float(source.photo(index)) for index in source.spread(MOST_FRAMES)]
    sizes = {tuple(frame.shape[1:]) for frame in frames}
    if len(sizes) > 1:
        text = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ConfigurationError(f"its frames must have one size, got {text}")
    if min(frames[0].shape[1:]) < 4 * COARSE:
        raise ConfigurationError(f"its frames must have at least {4 * COARSE} pixels a side, got {frames[0].shape}")
    return frames if side is None else [center_crop(frame, side).clone() for frame in frames]


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = (x.double() - x.double().mean() for x in (a, b))
    scale = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / scale if scale > 0 else 1.0  # flat frames are alike


def _inside(photo: torch.Tensor) -> torch.Tensor:
    border = math.ceil(MOST_SHIFT) + 4
    return photo[:, border:-border, border:-border]


def _shift(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """(down, right) in pixels by which the first of two frames (C, H, W) has to be moved to lie on the second.

    Whole pixels by the largest cross-correlation of details, the rest by least squares on gradients (Lucas and Kanade
    1981), repeated: its fixed point has no bias by noise.
    """
    a, b = (gaussian_filter(frame.mean(0)[None, None], SMOOTHED) for frame in (first, second))  # (1, 1, H, W)
    details = [x - gaussian_filter(x, 4 * SMOOTHED) for x in (a, b)]
    if min(float(x.std()) for x in details) < QUIET / 4:  # no detail that shows a shift
        return 0.0, 0.0
    height, width = a.shape[2:]
    spectra = [torch.fft.rfft2(x[0, 0], s=(2 * height, 2 * width)) for x in details]
    peak = int(torch.fft.irfft2(spectra[0].conj() * spectra[1], s=(2 * height, 2 * width)).argmax())
    sides = zip(divmod(peak, 2 * width), (height, width), strict=True)
    down, right = ((at + size) % (2 * size) - size for at, size in sides)
    shift = torch.tensor([float(down), float(right)], dtype=torch.float64)
    for _ in range(REFINEMENTS):
        if float(shift.abs().max()) > MOST_SHIFT:
            break
        moved = _inside(_moved(a[0], shift.tolist())).double()
        gradients = [g.flatten() for g in torch.gradient(moved, dim=(1, 2))]
        matrix = torch.stack(gradients, 1)  # (N, 2)
        difference = (moved - _inside(b[0]).double()).flatten()
        shift = shift + torch.linalg.lstsq(matrix, difference[:, None]).solution[:, 0]
    return float(shift[0]), float(shift[1])


def _moved(photo: torch.Tensor, shift: Sequence[float]) -> torch.Tensor:
    """A photo (C, H, W) moved down and right by a number of pixels, by the Fourier shift theorem, mirrored outside."""
    if shift[0] == shift[1] == 0:
        return photo
    height, width = photo.shape[1:]
    both = torch.cat([photo, photo.flip(1)], 1)
    both = torch.cat([both, both.flip(2)], 2)  # no step where its period ends
    down = torch.fft.fftfreq(2 * height)[:, None] * shift[0]
    right = torch.fft.rfftfreq(2 * width)[None] * shift[1]
    turned = torch.fft.rfft2(both) * torch.exp(-2j * math.pi * (down + right))
    return torch.fft.irfft2(turned, s=both.shape[1:])[:, :height, :width].to(photo)
