"""Motion blur: what its point spread functions and its light must obey, measured."""

import json
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage import data

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.blur import MotionBlur, shake_trajectories
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.psf import convolve, psfs_of, splat, trajectory_psf
from daa_diffusers.degradations.shake_field import blur_along
from daa_diffusers.errors import ConfigurationError

QUIET = {"shot": (1e-8, 1e-8), "read": (1e-8, 1e-8), "highlight_probability": 0.0, "defocus": (0, 0)}
STILL = {"length": (0, 0), **QUIET}


def paths(length=20.0, shake=0.0, pull=0.0, reversals=0.0, batch=64):
    values = (torch.full((batch,), float(value), dtype=torch.float64) for value in (length, shake, pull, reversals))
    return shake_trajectories(*values, generator_for(0, "paths"))


def photo(side=64):
    return torch.from_numpy(data.astronaut()[:side, 180 : 180 + side] / 255).float().permute(2, 0, 1)[None]


def center(psf):
    """(B, 1, K, K) -> (B, 2) center of mass from the middle, (y, x)."""
    offset = torch.arange(psf.shape[-1], dtype=psf.dtype) - psf.shape[-1] // 2
    return torch.stack([(psf.sum(3) * offset).sum((1, 2)), (psf.sum(2) * offset).sum((1, 2))], dim=1)


def test_configs_are_plain_and_rebuild_an_equal_degradation():
    for degradation in (MotionBlur(), MotionBlur(length=(3, 9), varying_probability=0.5, clip=False)):
        rebuilt = degradation_from_config(json.loads(json.dumps(degradation.to_config())))
        assert rebuilt == degradation and rebuilt.to_config() == degradation.to_config()


def test_the_generator_decides_everything():
    clean = torch.rand(4, 3, 24, 24, generator=generator_for(5))
    kept = clean.clone()
    for blur in (MotionBlur(), MotionBlur(varying_probability=0.5)):
        first = blur(clean, generator_for(1))
        torch.manual_seed(3)
        assert torch.equal(blur(clean, generator_for(1)), first) and torch.equal(clean, kept)
        assert not torch.equal(blur(clean, generator_for(2)), first)


@pytest.mark.parametrize("shape", [(1, 3, 7, 5), (3, 1, 16, 16), (2, 3, 2, 2), (2, 3, 64, 3), (1, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_stay(shape, dtype):
    for share in (0.0, 1.0):
        blur = MotionBlur(varying_probability=share)
        degraded = blur(torch.rand(shape, dtype=dtype, generator=generator_for(0)), generator_for(1))
        assert degraded.shape == shape and degraded.dtype == dtype and degraded.isfinite().all()


def test_a_path_has_its_length_whatever_shakes_it():
    for options in ({}, {"shake": 6.0}, {"pull": 10.0, "shake": 3.0}, {"reversals": 3.0}):
        path = paths(**options)
        torch.testing.assert_close(path.diff(dim=1).norm(dim=-1).sum(1), torch.full((64,), 20.0, dtype=path.dtype))
        assert (path[:, 0] == 0).all()


def test_what_shakes_a_path_makes_it_smaller():
    def reach(**options):
        return paths(**options).norm(dim=-1).amax(1).mean().item()

    assert reach() == pytest.approx(20)
    assert reach(shake=6) < 0.7 * reach(shake=1) < 0.7 * reach()
    assert reach(shake=1, pull=10) < 0.8 * reach(shake=1)  # a straight path is pulled along itself
    assert reach(reversals=5) < 0.7 * reach()


def test_shake_is_the_change_of_direction_over_the_exposure():
    step = paths(shake=0.3, batch=400).diff(dim=1)
    angle = torch.atan2(step[..., 0], step[..., 1])
    turned = torch.remainder(angle[:, -1] - angle[:, 0] + math.pi, 2 * math.pi) - math.pi
    assert turned.std().item() == pytest.approx(0.3, rel=0.12)  # standard error 4 %


def test_directions_are_those_of_the_whole_circle():
    end = paths(batch=400)[:, -1] / 20
    assert end.mean(0).norm() < 0.15 and (end.abs() > 0.9).any(0).all()


@pytest.mark.parametrize("length", [0.0, 0.3, 7.0, 60.0])
def test_psfs_are_non_negative_normalized_and_centered(length):
    psf = trajectory_psf(paths(length=length, shake=4.0, pull=4.0, reversals=1.0))
    assert psf.ndim == 4 and psf.shape[-1] % 2 == 1 and psf.shape[-1] == psf.shape[-2] <= length + 3
    assert (psf >= 0).all()
    torch.testing.assert_close(psf.sum((1, 2, 3)), torch.ones(64, dtype=psf.dtype))
    torch.testing.assert_close(center(psf), torch.zeros(64, 2, dtype=psf.dtype), rtol=0, atol=1e-9)


def test_a_straight_path_gives_a_line_of_its_length_and_direction():
    path = torch.stack([torch.zeros(128), torch.linspace(0, 10, 128)], dim=1)[None].double()
    psf = trajectory_psf(path)[0, 0]
    middle = psf.shape[0] // 2
    assert psf[middle].sum().item() == pytest.approx(1)
    inner = psf[middle, middle - 4 : middle + 5]
    torch.testing.assert_close(inner, torch.full((9,), 0.1, dtype=psf.dtype), rtol=0.02, atol=0)


def test_splatted_points_keep_their_light_and_their_place():
    y, x = torch.tensor([2.25, 5.0, -3.0]), torch.tensor([3.5, 6.0, 1.0])
    image = splat(torch.tensor([0, 1, 1]), y, x, torch.tensor([1.0, 2.0, 4.0]), (2, 7, 8))
    expected = torch.zeros(2, 7, 8)
    expected[0, 2:4, 3:5] = torch.tensor([[0.375, 0.375], [0.125, 0.125]])
    expected[1, 5, 6] = 2
    torch.testing.assert_close(image, expected)


def test_convolution_is_that_of_scipy():
    psf = trajectory_psf(paths(length=12, shake=3.0, batch=2)).float()
    image = torch.cat([photo(48), photo(48).flip(3)])
    for blurred, clean, kernel in zip(convolve(image, psf), image, psf, strict=True):
        expected = [scipy.ndimage.convolve(channel, kernel[0].numpy(), mode="mirror") for channel in clean.numpy()]
        np.testing.assert_allclose(blurred, np.stack(expected), atol=2e-6)
    still = torch.ones(1, 1, 1, 1)
    expected = scipy.ndimage.gaussian_filter(image[0].numpy(), (0, 1.5, 1.5), mode="mirror", truncate=6)
    np.testing.assert_allclose(convolve(image[:1], still, 1.5)[0], expected, atol=1e-3)


def test_without_movement_a_photo_stays():
    for tone in (0.0, 1.0):
        still = MotionBlur(**STILL, tone_probability=tone)(photo(), generator_for(0))
        torch.testing.assert_close(still, photo(), rtol=0, atol=2e-3)


def test_light_is_averaged_not_tone_mapped_values():
    half = torch.zeros(1, 1, 64, 64)
    half[..., 32:] = 1.0
    options = {**QUIET, "length": (30, 30), "shake": (0, 0), "pull": (0, 0), "reversals": (0, 0), "gamma": (2.4, 2.4)}

    def edge(tone, number):
        blurred = MotionBlur(**options, tone_probability=tone)(half, generator_for(0, number))
        return blurred[0, 0, 20:44, 31:33].mean().item()

    assert np.mean([edge(0.0, n) for n in range(5)]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([edge(1.0, n) for n in range(5)]) == pytest.approx(0.735, abs=0.03)  # sRGB of half the light


def dots(side=65):
    """Points of light on black, 16 pixels apart, one in the middle."""
    light = torch.zeros(1, 1, side, side, dtype=torch.float64)
    light[..., side // 2 % 16 :: 16, side // 2 % 16 :: 16] = 1
    return light


def still(times=128, **moving):
    """Arguments of `blur_along` for a camera that does not move but as stated."""
    zero = torch.zeros(1, times, dtype=torch.float64)
    given = {"paths": torch.zeros(1, times, 2, dtype=torch.float64), "turn": zero, "zoom": zero, **moving}
    return {**given, "nearness": moving.get("nearness", torch.ones(1, 1, 65, 65, dtype=torch.float64))}


def test_an_even_field_is_a_convolution_with_the_path():
    moves = paths(length=12, shake=3, batch=1)
    light = dots()
    pair = convolve(light, trajectory_psf(moves)), blur_along(light, **still(paths=moves))
    expected, moved = (blurred[..., 12:-12, 12:-12] for blurred in pair)  # borders are mirrored a pixel apart
    # copies a pixel apart against points half a pixel apart
    assert (moved - expected).abs().sum() < 0.25 * expected.sum() and abs(moved.sum() / expected.sum() - 1) < 0.02


@pytest.mark.parametrize("kind", ["turn", "zoom"])
def test_a_turn_leaves_the_middle_sharp_and_draws_arcs_and_a_zoom_draws_rays(kind):
    change = torch.linspace(-0.15, 0.15, 128, dtype=torch.float64)[None]
    moved = blur_along(dots(), **still(**{kind: change}))[0, 0]
    assert moved[32, 32] > 0.95
    right = moved[24:41, 56:65] if kind == "turn" else moved[24:41, 40:57]  # around a point right of the middle
    down, across = (right.sum(1) > 0.02).sum().item(), (right.sum(0) > 0.02).sum().item()
    assert (down > 5 > across) if kind == "turn" else (across > 4 > down)


def test_what_is_near_moves_more():
    near = torch.ones(1, 1, 65, 65, dtype=torch.float64)
    near[..., :32], near[..., 33:] = 0.5, 1.5
    line = torch.stack([torch.linspace(-4, 4, 128), torch.zeros(128)], dim=1)[None].double()
    moved = blur_along(dots(), **still(paths=line, nearness=near))[0, 0]
    left, right = ((moved[24:41, column] > 0.02).sum().item() for column in (16, 48))
    assert left == pytest.approx(5, abs=1) and right == pytest.approx(13, abs=1)


def test_blur_that_varies_is_about_as_strong_as_blur_that_does_not():
    clean, error = photo(128).expand(24, -1, -1, -1), []
    for share in (0.0, 1.0):
        blur = MotionBlur(**QUIET, length=(20, 20), varying_probability=share)
        error.append((blur(clean, generator_for(0)) - clean).square().mean().item())
    assert 0.7 < error[1] / error[0] < 1.5


def test_highlights_spread_more_light_and_saturate():
    lamp = torch.full((1, 1, 49, 49), 0.2)
    lamp[..., 23:26, 23:26] = 1.0
    options = {**QUIET, "length": (12, 12), "tone_probability": 0.0}

    def blurred(factor):
        options.update(highlight_probability=1.0, highlights=(factor, factor))
        return MotionBlur(**options)(lamp, generator_for(0))

    dim, bright = blurred(1), blurred(8)
    assert (bright - 0.2).sum() > 2 * (dim - 0.2).sum()
    assert bright.max() <= 1 and bright.max() > 0.99 > dim.max()


def test_noise_after_the_blur_depends_on_the_light():
    options = {**STILL, "tone_probability": 0.0, "shot": (1e-3, 1e-3), "read": (5e-3, 5e-3), "clip": False}
    for level in (0.05, 0.6):
        flat = torch.full((8, 3, 48, 48), level)
        noise = MotionBlur(**options)(flat, generator_for(0)) - level
        assert noise.var().item() == pytest.approx(1e-3 * level + 25e-6, rel=0.05), level
        assert abs(torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1]) < 0.02


def test_each_sample_is_shaken_in_its_own_way():
    same = photo().expand(3, -1, -1, -1)
    blurred = MotionBlur(length=(20, 20))(same, generator_for(0))
    assert ((blurred[0] - blurred[1]).abs().mean() > 0.01) and ((blurred[1] - blurred[2]).abs().mean() > 0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 9}, "`length`.*pair"),
        ({"length": [0, 1000]}, "`length`.*200"),
        ({"gamma": [1.0, 2.2]}, "`gamma`.*1.5"),
        ({"highlights": [0.5, 2]}, "`highlights`"),
        ({"tone_probability": -0.1}, "`tone_probability`"),
        ({"clip": "yes"}, "`clip`.*true or false"),
        ({"lenght": [1, 2]}, "did you mean 'length'"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        degradation_from_config({"type": "motion_blur", **options})


def test_wrong_photos_are_named():
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="`clean`"):
            MotionBlur()(wrong, generator_for(0))


PSFS = [[(0, 0, 1.0), (0, 1, 3.0)], [(-2, 0, 0.5), (2, 0, 0.5)]]


def test_given_psfs_are_rendered_and_drawn():
    psfs = psfs_of(PSFS, 100)
    assert psfs.shape == (2, 1, 5, 5)
    assert psfs[0, 0, 2, 2:4].tolist() == [0.25, 0.75] and psfs[1, 0, ::4, 2].tolist() == [0.5, 0.5]
    blur = MotionBlur(psfs=PSFS, tone_probability=0.0, **QUIET)
    clean = photo().expand(16, -1, -1, -1)
    blurred = blur(clean, generator_for(0))
    distance = torch.stack([(blurred - convolve(clean, psf[None])).abs().amax((1, 2, 3)) for psf in psfs])
    assert (distance.min(0).values < 1e-3).all() and {0, 1} == set(distance.argmin(0).tolist())
    rebuilt = degradation_from_config(json.loads(json.dumps(blur.to_config())))
    assert rebuilt == blur and torch.equal(rebuilt(clean, generator_for(0)), blurred)


@pytest.mark.parametrize(
    ("psfs", "message"),
    [
        ([], "at least one"),
        ([[]], "points"),
        ([[(0, 0, 0.0)]], "each with light"),
        ([[(0, 0, -1.0)]], "not be negative"),
        ([[(0, 0), (1, 1), (2, 2)]], "points"),
        ([[(float("nan"), 0, 1.0)]], "points"),
        ([[(0, 0, float("inf"))]], "points"),
        ([[(0, 0)]], "points"),
        ([[(0, 500, 1.0)]], "at most 100 pixels"),
        ("shake.yaml", "points"),
    ],
)
def test_psfs_that_are_none_are_refused(psfs, message):
    with pytest.raises(ConfigurationError, match=message):
        MotionBlur(psfs=psfs)


def test_psfs_are_not_combined_with_properties_of_trajectories():
    with pytest.raises(ConfigurationError, match="`direction`"):
        MotionBlur(psfs=PSFS, direction=(0, 10))
