"""Camera shake: blur along random trajectories in linear light, with saturated highlights and noise."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import ConfigurationError
from .base import ConfigurableDegradation, register_degradation
from .camera_noise import apply_tone, invert_tone
from .checks import check_clean, check_flag, check_range
from .draws import log_uniform, normal, uniform
from .psf import convolve, psfs_of, trajectory_psf
from .shake_field import DEPTH_CELLS, blur_along, smooth_field

STEPS = 128  # number of positions of a trajectory, equally spaced over the exposure
MIN_BATCH_FOR_ARRAYS = 16  # with smaller batches, numpy arrays are slower than Python's complex numbers
TINY = 1e-300  # added to a speed, so that it is not 0
MAX_LENGTH = 200.0  # pixels
MAX_DEFOCUS = 4.0  # pixels, standard deviation
MAX_TURN = 0.5  # radians, largest angle between the impulse of a reversal and the direction against the motion
HIGHLIGHT = 0.9  # linear light (white = 1) above which a pixel may have been clipped: cameras compress highlights


@register_degradation("motion_blur")
@dataclass(frozen=True)
class MotionBlur(ConfigurableDegradation):
    """Blur by camera shake in linear light, constant or varying over the photo.

    Per sample, the tone curve is inverted, clipped highlights are brightened beyond white, and the light is convolved
    with a point spread function (PSF) and clipped at white, like a saturated pixel. Then noise of variance `shot *
    signal + read**2` is added, and the tone curve applied. The PSF is a trajectory of `shake_trajectories`, rasterized
    by `trajectory_psf`, with defocus. Photos are mirrored beyond their borders.

    If the blur varies over the photo (`varying_probability`), the camera also rotates about its optical axis and moves
    along it, and near objects are displaced more than distant ones (`blur_along`). Moving objects are not simulated.

    Args:
        psfs: PSFs to draw from, instead of those of trajectories: each is a list of points (y, x, light), in pixels
            from the center, at most 100 from it. Not combined with `direction` and `varying_probability`.
        length: range of the length of the trajectory in pixels, uniform; at most 200. The extent of the blur is about a
            third to a half of the length for a trembling hand, and the whole length for a pure drift.
        shake: range of the random change of direction over the exposure (standard deviation, radians), uniform: 0 gives
            a straight line, 6 a tangled path.
        pull: range of the strength with which the path is pulled back to its start, uniform: at 0 the camera drifts, at
            10 it circles around its start.
        reversals: range of the expected number of abrupt reversals (a pressed button, a correction), uniform.
        direction: range of the direction of the path's largest extent in degrees from vertical, uniform; positive leans
            to the right at the top, as for rain. None: any direction.
        defocus: range of the standard deviation in pixels of the Gaussian blur of the lens, uniform; at most 4.
        varying_probability: share of the samples whose blur varies over the photo.
        roll: range of the largest possible total rotation of the camera about its optical axis over the exposure, in
            degrees, uniform.
        zoom: range of the largest possible total relative change of scale over the exposure, uniform.
        depth: range of the standard deviation of the displacement over the photo, relative to its mean (on a coarse
            grid, before interpolation), uniform.
        tone_probability: share of the samples whose photo is assumed to be tone-mapped. The others are assumed to be
            linear (raw files, the photos of Levin et al. 2009), and are blurred without conversion.
        gamma: range of the exponent of the tone curve, uniform; sRGB is 2.4. Within [1.5, 4].
        highlight_probability: share of the samples whose highlights are brightened.
        highlights: range of the factor by which highlights are brightened, uniform; at most 10.
        shot, read: ranges of the noise, log-uniform, as in `CameraNoise`.
        clip: clip the result to [0, 1], as in a camera's files. Light is always clipped at white.

    Raises:
        ConfigurationError: a value is not a number, not a pair, or out of range.
    """

    length: tuple[float, float] = (4.0, 60.0)
    shake: tuple[float, float] = (0.0, 6.0)
    pull: tuple[float, float] = (0.0, 10.0)
    reversals: tuple[float, float] = (0.0, 2.0)
    direction: tuple[float, float] | None = None
    defocus: tuple[float, float] = (0.0, 0.8)
    varying_probability: float = 0.0
    roll: tuple[float, float] = (0.0, 3.0)
    zoom: tuple[float, float] = (0.0, 0.03)
    depth: tuple[float, float] = (0.0, 0.4)
    tone_probability: float = 0.8
    gamma: tuple[float, float] = (2.0, 2.6)
    highlight_probability: float = 0.5
    highlights: tuple[float, float] = (1.0, 4.0)
    shot: tuple[float, float] = (1e-5, 2e-3)
    read: tuple[float, float] = (1e-4, 4e-3)
    clip: bool = True
    psfs: Sequence[Sequence[Sequence[float]]] | None = None

    def __post_init__(self):
        bounds = {
            "length": (0, MAX_LENGTH),
            "shake": (0, 50),
            "pull": (0, 50),
            "reversals": (0, 20),
            "defocus": (0, MAX_DEFOCUS),
            "roll": (0, 45),
            "zoom": (0, 0.5),
            "depth": (0, 1),
            "gamma": (1.5, 4),
            "highlights": (1, 10),
            "shot": (1e-8, 1),
            "read": (1e-8, 1),
        }
        self.check_fields(bounds, ("varying_probability", "tone_probability", "highlight_probability"))
        check_flag("clip", self.clip)
        if self.direction is not None:
            object.__setattr__(self, "direction", check_range("direction", self.direction, -360, 360))
        if self.psfs is not None:
            if self.direction is not None or self.varying_probability:
                raise ConfigurationError("`psfs` cannot be combined with `direction` or `varying_probability`")
            self._rendered  # noqa: B018  checks the points
            # plain lists, as JSON has them, so that a degradation equals the one built from its config
            plain = [np.asarray(psf, dtype=float).tolist() for psf in self.psfs]
            object.__setattr__(self, "psfs", plain)

    def __call__(self, clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Blurs photos (B, C, H, W) in [0, 1]; raises ValueError for another rank or dtype."""
        check_clean(clean)
        per_sample = (clean.shape[0], 1, 1, 1)
        # 1. linear light, with highlights beyond white
        gamma = uniform(per_sample, *self.gamma, clean, generator)
        toned = uniform(per_sample, 0, 1, clean, generator) < self.tone_probability
        light = torch.where(toned, invert_tone(clean, gamma), clean)
        bright = uniform(per_sample, 0, 1, clean, generator) < self.highlight_probability
        factor = torch.where(bright, uniform(per_sample, *self.highlights, clean, generator), 1.0)
        light = light * (1 + (factor - 1) * ((light - HIGHLIGHT) / (1 - HIGHLIGHT)).clamp(0, 1))
        # 2. blur
        blur = self._blur_along_paths if self.psfs is None else self._blur_by_psfs
        light = blur(light, generator).clamp(max=1)
        # 3. noise and tone curve
        shot, read = (log_uniform(per_sample, *bounds, clean, generator) for bounds in (self.shot, self.read))
        light = light + (shot * light.clamp(min=0) + read**2).sqrt() * normal(light.shape, clean, generator)
        light = light.clamp(max=1)
        degraded = torch.where(toned, apply_tone(light, gamma), light)
        return degraded.clamp(0, 1) if self.clip else degraded

    def _blur_by_psfs(self, light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Blurs each sample of light (B, C, H, W) by one of `psfs`."""
        drawn = torch.randint(len(self._rendered), light.shape[:1], generator=generator, device=generator.device)
        psf = self._rendered.to(light)[drawn.to(light.device)]
        return convolve(light, psf, uniform((light.shape[0], 1, 1, 1), *self.defocus, light, generator))

    def _blur_along_paths(self, light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Blurs each sample of light (B, C, H, W) by one PSF or by a varying blur."""
        batch = light.shape[:1]
        paths = self._paths(uniform(batch, *self.length, light, generator), generator)
        if self.direction is not None:
            paths = rotated(paths, torch.deg2rad(uniform(batch, *self.direction, light, generator)))
        defocus = uniform((*batch, 1, 1, 1), *self.defocus, light, generator)
        if not self.varying_probability:  # before the draws below: configs without it give the same samples as ever
            return convolve(light, trajectory_psf(paths), defocus)
        varying = uniform(batch, 0, 1, light, generator) < self.varying_probability
        roll, zoom, depth = (uniform(batch, *bounds, light, generator) for bounds in (self.roll, self.zoom, self.depth))
        # rotation and change of scale: the two coordinates of another path of length 1, scaled
        turn, scale = self._paths(torch.ones_like(roll), generator).unbind(-1)
        cells = (batch[0], 1, DEPTH_CELLS, DEPTH_CELLS)
        height, width = light.shape[-2:]
        nearness = smooth_field(1 + depth[:, None, None, None] * normal(cells, light, generator), (height, width))
        blurred = torch.empty_like(light)
        if not varying.all():
            blurred[~varying] = convolve(light[~varying], trajectory_psf(paths[~varying]), defocus[~varying])
        if varying.any():
            motion = (paths, turn * torch.deg2rad(roll)[:, None], scale * zoom[:, None], nearness)
            moved = blur_along(light[varying], *(values[varying] for values in motion))
            point = moved.new_ones((len(moved), 1, 1, 1))  # PSF without motion: only the defocus is left
            blurred[varying] = convolve(moved, point, defocus[varying])
        return blurred

    @functools.cached_property
    def _rendered(self) -> torch.Tensor:
        return psfs_of(self.psfs or (), MAX_LENGTH // 2)

    def _paths(self, length: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws paths (B, STEPS, 2) of the given lengths (B,) and of random shape."""
        shake, pull, reversals = (
            uniform(length.shape, *bounds, length, generator) for bounds in (self.shake, self.pull, self.reversals)
        )
        return shake_trajectories(length, shake, pull, reversals, generator)


def rotated(paths: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Rotates paths (B, T, 2) so that their positions vary most along `direction` (B,), radians from vertical."""
    centered = paths - paths.mean(1, keepdim=True)
    yy, xx = (centered**2).sum(1).unbind(-1)  # second moments (B,)
    yx = centered.prod(-1).sum(1)
    # the direction of the main axis is minus the second term: positive directions lean to the right at the top
    turn = direction + 0.5 * torch.atan2(2 * yx, yy - xx)
    y, x = paths.unbind(-1)
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    return torch.stack([y * cos + x * sin, x * cos - y * sin], dim=-1)


def shake_trajectories(
    length: torch.Tensor,
    shake: torch.Tensor,
    pull: torch.Tensor,
    reversals: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draws random paths of the image over the sensor of a shaken camera.

    This is the model of Boracchi and Foi, "Modeling the performance of image restoration from motion blur" (2012),
    section V: a particle of constant speed whose velocity is changed at each step by a Gaussian perturbation, by a pull
    toward its origin and, rarely, by an impulse that reverses it. Constants are given per exposure instead of per step,
    so that a path does not depend on the number of steps.

    Args:
        length: (B,), length of the path in pixels.
        shake: (B,), standard deviation of the change of direction over the exposure in radians.
        pull: (B,), acceleration toward the origin by distance, in units of the path length and the exposure time.
        reversals: (B,), expected number of impulses.
        generator: source of all random draws, made on its own device.

    Returns:
        Positions (B, STEPS, 2) as (y, x) in pixels, from (0, 0) on.
    """
    batch, device = length.shape[0], generator.device
    noise = torch.randn((STEPS, batch, 2), generator=generator, device=device).double().cpu()
    chance, turn = torch.rand((2, STEPS, batch), generator=generator, device=device).double().cpu().numpy()
    angle = (torch.rand(batch, generator=generator, device=device) * 2 * math.pi).double().cpu().numpy()
    per_step = (shake / math.sqrt(STEPS), pull / STEPS, reversals / STEPS)  # variances add up over the steps
    shakes, pulls, chances = (values.double().cpu().numpy() for values in per_step)  # (B,)
    changes = shakes * torch.view_as_complex(noise).numpy()  # (STEPS, B); a point (y, x) is the complex number y + ix
    impulses = np.where(chance < chances, -2 * np.exp(1j * MAX_TURN * (2 * turn - 1)), 0)  # (STEPS, B)
    by_path = (np.exp(1j * angle), changes, impulses, pulls)
    if batch >= MIN_BATCH_FOR_ARRAYS:
        paths = np.array(_unit_path(*by_path)).T
    else:
        paths = np.array([_unit_path(*path) for path in zip(*(values.T.tolist() for values in by_path), strict=True)])
    return torch.view_as_real(torch.from_numpy(paths)).to(length) * length[:, None, None]  # (B, STEPS, 2)


def _unit_path(velocity: Any, change: Any, impulse: Any, pull: Any) -> list[Any]:
    """Computes the positions of a path of length 1, which are complex numbers, or of many paths, which are arrays (B,).

    Args:
        velocity: initial velocity, of absolute value 1.
        change: random change of the velocity at each step.
        impulse: factor of the velocity that is added to it at each step; 0 without a reversal.
        pull: acceleration toward the origin by distance.
    """
    position = 0 * velocity
    path = [position]
    for step in range(STEPS - 1):
        velocity = velocity + (change[step] - pull * position + impulse[step] * velocity)
        velocity = velocity / (abs(velocity) + TINY)
        position = position + velocity / (STEPS - 1)
        path.append(position)
    return path
