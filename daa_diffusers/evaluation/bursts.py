"""PSNR without ground truth from bursts, which are two or more frames of a static scene with independent noise."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

MOST_FRAMES = 4  # largest number of frames used per burst, equally spaced; all their ordered pairs are scored
MOST_SHIFT = 4.0  # largest shift of two frames along either axis, in pixels
BORDER = math.ceil(MOST_SHIFT) + 4  # pixels at each border that are not scored: shifting makes them invalid
MOST_GAIN = 1.25  # largest ratio of the mean brightness of two frames
COARSE = 16  # side in pixels of blocks, in which noise averages out, but not the scene
# Something moved if, in the difference of two frames, the mean square of the means of blocks exceeds this share of that
# of pixels. White noise has 1/256; noise correlated over three pixels has up to 0.1.
MOVED = 0.2
# Deviation of a difference below which motion is not checked. Rounding both frames to 8 bits gives sqrt(2) 0.29/255 =
# 0.41/255, so that only (nearly) equal frames are exempt.
QUIET = 0.4 / 255
LEAST_DETAIL = 0.1 / 255  # least deviation of the detail of a frame for the estimation of its shift
ALIKE = 0.5  # least correlation of the block means of two frames of the same scene
LEAST_MSE = 1e-8  # lower bound of errors: 80 dB
SMOOTHED = 1.5  # standard deviation in pixels of the filter before the estimation of a shift
REFINEMENTS = 4  # number of refinements of a shift to fractions of a pixel


@dataclass(frozen=True)
class BurstScores:
    """Scores of restorers on bursts.

    Attributes:
        bursts: names of the scored bursts.
        psnr: row -> PSNR of each burst in dB; the first row, "identity", is the untouched input.
        noise: standard deviation (1/255) of the noise of each burst's frames.
        skipped: name of a skipped burst -> reason.
    """

    bursts: tuple[str, ...]
    psnr: dict[str, list[float]]
    noise: list[float]
    skipped: dict[str, str]

    def mean(self, row: str) -> float:
        """Returns the mean over bursts, in dB."""
        return sum(self.psnr[row]) / len(self.bursts)

    def report(self, baseline: str = IDENTITY) -> str:
        """Returns a Markdown report: mean PSNR of each row with intervals over bursts, and the skipped bursts."""
        table = []
        for row, values in self.psnr.items():
            cells = {"row": row, "PSNR": f"{self.mean(row):.2f}"}
            if len(values) > 1:
                low, high = bootstrap_interval(values)
                cells["PSNR"] += f" [{low:.2f}, {high:.2f}]"
                if row != baseline:
                    minus = paired_bootstrap(values, self.psnr[baseline])
                    cells[f"minus {baseline}"] = f"{minus.mean:+.2f} [{minus.low:+.2f}, {minus.high:+.2f}]"
            table.append(cells)
        title = f"# {len(self.bursts)} bursts, no ground truth"
        protocol = (
            f"PSNR (dB, RGB, floating point, without {BORDER} pixels of border) of restored frames, from their mean "
            "squared error against other frames of the burst minus the noise variance. Brackets: 95 % bootstrap "
            "intervals over bursts. Errors shared by all frames of a burst, such as fixed patterns of the sensor and "
            "color errors, count as part of the scene."
        )
        skipped = [one_line(f"skipped: {name}: {reason}") for name, reason in self.skipped.items()]
        return "\n\n".join([title, protocol, markdown_table(table), *skipped])


def evaluate_bursts(restorers: Restorers, folder: str | os.PathLike[str]) -> BurstScores:
    """Estimates the PSNR of restorers from bursts. Squared errors are unbiased if the noise of frames is independent.

    With frames `x_i = c + n_i`, `E |f(x_1) - x_2|^2 = |f(x_1) - c|^2 + var(n_2)`, since n_2 is independent of f(x_1),
    and `var(n_2) = |x_1 - x_2|^2 / 2`. The mean is taken over all ordered pairs of frames. The first frame of a pair is
    matched to the second: in brightness by the ratio of their means for each color, and in position by a subpixel shift
    in the Fourier domain, which preserves the variance of noise.

    Args:
        restorers: as for `evaluate_folder`.
        folder: as for `read_bursts`.

    Raises:
        ConfigurationError: as for `read_bursts`.
    """
    rows: dict[str, DAARestorationPipeline | None] = {IDENTITY: None, **restorers}
    names, noise = [], []
    psnr: dict[str, list[float]] = {row: [] for row in rows}
    skipped: dict[str, str] = {}
    for burst in read_bursts(folder, skipped=skipped):
        for row, pipeline in rows.items():
            psnr[row].append(burst.psnr(pipeline))
        names.append(burst.name)
        noise.append(255 * math.sqrt(burst.variance))
    return BurstScores(tuple(names), psnr, noise, skipped)


def read_bursts(
    folder: str | os.PathLike[str],
    *,
    skipped: dict[str, str] | None = None,
    side: int | None = None,
    argument: str = "bursts",
) -> Iterator["Burst"]:
    """Yields the bursts of a folder.

    A burst is skipped if it has fewer than two frames, or one that cannot be read; if its frames are too small, or
    differ in size or scene, or too much in position or exposure; or if something moves, or the light changes.

    Args:
        folder: folder with one folder per burst, each with two or more photos of the same size.
        skipped: mapping to which skipped bursts are added: name -> reason.
        side: side of the center crop of larger frames in pixels; None: frames are not cropped.
        argument: name of the caller's argument, for messages.

    Raises:
        ConfigurationError: on iteration: `folder` has no folders, or, at the end, all bursts were skipped.
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
    """Frames of a static scene.

    Attributes:
        name: name of its folder.
        source: source of its photos.
        frames: frames (C, H, W) in [0, 1].
        pairs: all ordered pairs of frames, by their indices.
        variance: variance of the noise of a frame.
    """

    name: str
    source: PhotoFolder
    frames: list[torch.Tensor]
    pairs: dict[tuple[int, int], "_Pair"]
    variance: float

    @classmethod
    def of(cls, name: str, source: PhotoFolder, frames: list[torch.Tensor]) -> "Burst":
        """Aligns the frames; raises ValueError unless they show the same static scene."""
        pairs = {(i, j): _aligned(frames[i], frames[j]) for i, j in permutations(range(len(frames)), 2)}
        return cls(name, source, frames, pairs, sum(pair.variance for pair in pairs.values()) / len(pairs))

    def psnr(self, pipeline: DAARestorationPipeline | None) -> float:
        """Estimates the PSNR of the restored frames in dB; without a pipeline, of the untouched frames."""
        if pipeline is None:  # the error of an untouched frame is its noise
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
        gain: (C, 1, 1), factor of the first frame.
        shift: shift (down, right) of the first frame in pixels.
        second: second frame (C, h, w), without `BORDER`.
        variance: variance of the noise of one frame.
    """

    gain: torch.Tensor
    shift: tuple[float, float]
    second: torch.Tensor
    variance: float

    def error(self, restored: torch.Tensor) -> float:
        """Estimates the mean squared error of the restored first frame against the scene."""
        difference = _inside(_moved(restored * self.gain, self.shift)) - self.second
        return float(difference.double().square().mean()) - self.variance


def _aligned(first: torch.Tensor, second: torch.Tensor) -> _Pair:
    """Aligns two frames (C, H, W); raises ValueError unless they show the same static scene."""
    gain = second.mean((1, 2), keepdim=True) / first.mean((1, 2), keepdim=True).clamp(min=1e-3)
    blocks = [F.avg_pool2d(frame[None], COARSE)[0] for frame in (first, second)]
    if _correlation(*blocks) < ALIKE:
        raise ValueError("its frames show different scenes")
    largest_gain = float(gain.log().abs().max().exp())  # largest of gain and 1 / gain over the colors
    if largest_gain > MOST_GAIN:
        raise ValueError(f"the brightness of its frames differs by a factor of {largest_gain:.2f}, above {MOST_GAIN}")
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
    # both frames have noise of variance v; that of the difference is gain**2 v + v
    return _Pair(gain, shift, inside, power / (1 + float(gain.square().mean())))


def _frames(source: PhotoFolder, side: int | None) -> list[torch.Tensor]:
    """Reads the frames (C, H, W) of a burst; raises ConfigurationError unless they have one size, large enough."""
    if len(source) < 2:
        raise ConfigurationError("a burst has two frames or more, got one")
    frames = [unit_float(source.photo(index)) for index in source.spread(MOST_FRAMES)]
    sizes = {tuple(frame.shape[1:]) for frame in frames}
    if len(sizes) > 1:
        text = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ConfigurationError(f"its frames must have one size, got {text}")
    if min(frames[0].shape[1:]) < 4 * COARSE:
        height, width = frames[0].shape[1:]
        raise ConfigurationError(f"its frames must have sides of at least {4 * COARSE} pixels, got {width} x {height}")
    return frames if side is None else [center_crop(frame, side).clone() for frame in frames]


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Computes the correlation coefficient of two tensors of one shape."""
    a, b = (x.double() - x.double().mean() for x in (a, b))
    scale = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / scale if scale > 0 else 1.0  # flat frames are alike


def _inside(photo: torch.Tensor) -> torch.Tensor:
    """Crops a photo (C, H, W) by `BORDER`."""
    return photo[:, BORDER:-BORDER, BORDER:-BORDER]


def _shift(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Estimates the shift (down, right) in pixels that aligns the first of two frames (C, H, W) with the second.

    Whole pixels are found by cross-correlation of detail, and refined by repeated least squares on gradients (Lucas and
    Kanade 1981); noise slows the convergence, but does not move the solution.
    """
    a, b = (gaussian_filter(frame.mean(0)[None, None], SMOOTHED) for frame in (first, second))  # (1, 1, H, W)
    details = [smooth - gaussian_filter(smooth, 4 * SMOOTHED) for smooth in (a, b)]
    if min(float(detail.std()) for detail in details) < LEAST_DETAIL:
        return 0.0, 0.0
    # 1. whole pixels: the peak of the cross-correlation over all shifts of the first, zero-padded to twice the size
    height, width = a.shape[2:]
    spectra = [torch.fft.rfft2(detail[0, 0], s=(2 * height, 2 * width)) for detail in details]
    peak = int(torch.fft.irfft2(spectra[0].conj() * spectra[1], s=(2 * height, 2 * width)).argmax())
    y, x = divmod(peak, 2 * width)
    # indices above half the size are negative shifts
    down, right = (y + height) % (2 * height) - height, (x + width) % (2 * width) - width
    # 2. refinement
    shift = torch.tensor([float(down), float(right)], dtype=torch.float64)
    for _ in range(REFINEMENTS):
        if float(shift.abs().max()) > MOST_SHIFT:
            break
        moved = _inside(_moved(a[0], shift.tolist())).double()
        gradients = torch.stack([slope.flatten() for slope in torch.gradient(moved, dim=(1, 2))], 1)  # (N, 2)
        difference = (moved - _inside(b[0]).double()).flatten()  # moving by d more subtracts about gradients @ d
        shift = shift + torch.linalg.lstsq(gradients, difference[:, None]).solution[:, 0]
    return float(shift[0]), float(shift[1])


def _moved(photo: torch.Tensor, shift: Sequence[float]) -> torch.Tensor:
    """Shifts a photo (C, H, W) down and right by the Fourier shift theorem, mirrored at the borders."""
    if shift[0] == shift[1] == 0:
        return photo
    height, width = photo.shape[1:]
    mirrored = torch.cat([photo, photo.flip(1)], 1)
    mirrored = torch.cat([mirrored, mirrored.flip(2)], 2)  # periodic without a step at the borders
    cycles = torch.fft.fftfreq(2 * height)[:, None] * shift[0] + torch.fft.rfftfreq(2 * width)[None] * shift[1]
    spectrum = torch.fft.rfft2(mirrored) * torch.exp(-2j * math.pi * cycles)
    return torch.fft.irfft2(spectrum, s=mirrored.shape[1:])[:, :height, :width].to(photo)
