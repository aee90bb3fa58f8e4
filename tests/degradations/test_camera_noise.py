"""Camera noise: what it must share with the noise of a sensor, measured."""

import numpy as np
import pytest
import torch
from skimage import data

from daa_diffusers.degradations.camera_noise import (
    CameraNoise,
    apply_tone,
    bayer_masks,
    demosaic,
    invert_tone,
    tone_bend,
    tone_slope,
)
from daa_diffusers.degradations.draws import generator_for

SRGB = {"gamma": (2.4, 2.4), "white_balance": (1, 1)}
MOSAIC = {"demosaic_probability": 1.0, "smoothing_probability": 0.0}


def camera(shot, read, **options):
    options = {**SRGB, "jpeg_quality": None, "clip": False, **MOSAIC, **options}
    return CameraNoise(shot=(shot, shot), read=(read, read), **options)


def flat(level, batch=16, channels=3, side=48):
    return torch.full((batch, channels, side, side), float(level))


def linear_noise(degradation, level, channels=3):
    """The noise on a flat photo whose linear light is `level`, in linear light."""
    gamma = torch.tensor(2.4)
    toned = apply_tone(flat(level, channels=channels), gamma)
    return invert_linear(degradation(toned, generator_for(0, "noise"))) - level


def invert_linear(toned):
    return invert_tone(toned, torch.tensor(2.4))


@pytest.mark.parametrize("gamma", [1.8, 2.2, 2.4, 2.6])
def test_tone_curve_and_its_inverse(gamma):
    linear = torch.linspace(-0.2, 1.5, 2001, dtype=torch.float64)
    gamma = torch.tensor(gamma, dtype=torch.float64)
    toned = apply_tone(linear, gamma)
    torch.testing.assert_close(invert_tone(toned, gamma), linear, rtol=0, atol=1e-9)
    assert (toned.diff() > 0).all()
    assert (toned.diff().diff()[linear[1:-1] > -0.1] < 1e-6).all()  # concave: the toe meets the curve without a kink
    assert toned[linear.abs().argmin()].abs() < 0.01
    torch.testing.assert_close(apply_tone(torch.tensor(1.0), gamma.float()), torch.tensor(1.0))


def test_gamma_of_2_4_is_srgb():
    linear = np.linspace(0, 1, 101)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    ours = apply_tone(torch.from_numpy(linear), torch.tensor(2.4, dtype=torch.float64))
    np.testing.assert_allclose(ours, srgb, atol=1e-4)


@pytest.mark.parametrize("gamma", [1.8, 2.4])
def test_slope_and_bend_are_the_derivatives_of_the_tone_curve(gamma):
    exponent = torch.tensor(gamma, dtype=torch.float64)
    light = torch.linspace(-0.1, 1.2, 301, dtype=torch.float64, requires_grad=True)
    toned = apply_tone(light, exponent)
    (slope,) = torch.autograd.grad(toned.sum(), light, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), light)
    torch.testing.assert_close(tone_slope(toned, exponent), slope)
    above = toned > 0.055 / (gamma - 1)  # the toe is straight
    torch.testing.assert_close(tone_bend(toned, gamma)[above], (curvature / slope**2 / 2)[above])


def test_bayer_masks_are_the_four_phases():
    masks = bayer_masks(torch.arange(4), 4, 6)
    assert (masks.sum(1) == 1).all()
    names = ["".join("RGB"[masks[p, :, y, x].int().argmax()] for y in range(2) for x in range(2)) for p in range(4)]
    assert names == ["RGGB", "GRBG", "GBRG", "BGGR"]
    assert (masks[:, :, 2:] == masks[:, :, :2]).all() and (masks[..., 2:] == masks[..., :-2]).all()


@pytest.mark.parametrize("size", [(2, 2), (5, 7), (16, 16)], ids=str)
def test_demosaicing_keeps_samples_and_is_exact_for_flat_and_sloping_photos(size):
    masks = bayer_masks(torch.arange(4), *size).double()
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    flat_photo = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)[:, None, None].expand(4, 3, *size)
    torch.testing.assert_close(demosaic(flat_photo * masks), flat_photo)
    slope = (0.3 + 0.02 * rows - 0.01 * columns).double().expand(4, 3, *size)
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(demosaic(slope * masks)[inner], slope[inner])
    noise = torch.rand(4, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(demosaic(noise * masks) * masks, noise * masks)


def test_variance_is_shot_times_signal_plus_read_squared():
    # gray photos have no mosaic, so that what was drawn can be read off
    shot, read = 2e-3, 5e-3
    for level in (0.02, 0.1, 0.3, 0.8):
        variance = linear_noise(camera(shot, read), level, channels=1).var().item()
        assert variance == pytest.approx(shot * level + read**2, rel=0.05), level  # standard error 0.7 %


def test_color_noise_grows_with_the_signal_in_linear_light():
    variance = [linear_noise(camera(2e-3, 1e-3), level).var().item() for level in (0.05, 0.2, 0.8)]
    assert variance[1] / variance[0] == pytest.approx(4, rel=0.1)
    assert variance[2] / variance[1] == pytest.approx(4, rel=0.1)


def test_noise_has_zero_mean_in_linear_light():
    for level in (0.01, 0.2, 0.7):
        noise = linear_noise(camera(1e-3, 2e-3), level)
        assert noise.mean().abs() < 0.02 * noise.std()


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_demosaicing_correlates_neighbors_but_not_colors():
    noise = linear_noise(camera(1e-3, 1e-3), 0.3)
    red, green, blue = (noise[:, c, 1:-1, 1:-1] for c in range(3))
    # expected from the kernels: 2/3 for red and blue, 2/5 for green
    assert correlation(red[..., 1:], red[..., :-1]) == pytest.approx(2 / 3, abs=0.04)
    assert correlation(blue[..., 1:, :], blue[..., :-1, :]) == pytest.approx(2 / 3, abs=0.04)
    assert correlation(green[..., 1:], green[..., :-1]) == pytest.approx(2 / 5, abs=0.04)
    assert abs(correlation(red, green)) < 0.05 and abs(correlation(red, blue)) < 0.05
    assert abs(correlation(red[..., 4:], red[..., :-4])) < 0.03


def test_without_a_mosaic_noise_is_independent_between_pixels_and_colors():
    noise = linear_noise(camera(1e-3, 1e-3, demosaic_probability=0.0), 0.3)
    assert noise.var().item() == pytest.approx(1e-3 * 0.3 + 1e-6, rel=0.05)
    assert abs(correlation(noise[..., 1:], noise[..., :-1])) < 0.02
    assert abs(correlation(noise[:, 0], noise[:, 1])) < 0.02


@pytest.mark.parametrize("channels", [1, 3])
def test_smoothed_noise_is_weaker_and_hangs_together(channels):
    sigma = 1.0
    options = {"demosaic_probability": 0.0, "smoothing_probability": 1.0, "smoothing": (sigma, sigma)}
    noise = linear_noise(camera(1e-3, 1e-3, **options), 0.3, channels)[..., 4:-4, 4:-4]
    # of white noise through a Gaussian filter: variance / (4 pi sigma^2), correlation exp(-1 / (4 sigma^2))
    assert noise.var().item() == pytest.approx((1e-3 * 0.3 + 1e-6) / (4 * np.pi * sigma**2), rel=0.1)
    assert correlation(noise[..., 1:], noise[..., :-1]) == pytest.approx(np.exp(-1 / (4 * sigma**2)), abs=0.03)


def test_mosaic_and_smoothing_touch_their_share_of_the_samples():
    def share(threshold, **options):
        noise = (
            CameraNoise(jpeg_quality=None, shot=(1e-3, 1e-3), **options)(flat(0.5, batch=300), generator_for(0)) - 0.5
        )
        return sum(correlation(n[0, :, 1:], n[0, :, :-1]) > threshold for n in noise) / len(noise)

    assert share(0.3, smoothing_probability=0.0) == pytest.approx(0.6, abs=0.09)
    assert share(0.3, demosaic_probability=0.0, smoothing=(1, 1)) == pytest.approx(0.4, abs=0.09)


def test_white_balance_gains_raise_the_noise_of_red_and_blue():
    plain, balanced = (linear_noise(camera(1e-8, 5e-3, white_balance=(g, g)), 0.3).std((0, 2, 3)) for g in (1, 2))
    assert (balanced / plain)[[0, 2]].tolist() == pytest.approx([2, 2], rel=0.05)
    assert (balanced / plain)[1].item() == pytest.approx(1, rel=0.02)


def test_only_noise_is_added_never_the_blur_of_demosaicing():
    photo = torch.from_numpy(data.astronaut()[:64, :64] / 255).float().permute(2, 0, 1)[None]
    quiet = camera(1e-8, 1e-8, gamma=(2.0, 2.6), white_balance=(1.2, 2.4))(photo, generator_for(0))
    torch.testing.assert_close(quiet, photo, rtol=0, atol=2e-3)
    average = torch.stack([camera(1e-3, 1e-3)(photo, generator_for(n)) for n in range(64)]).mean(0)
    error = (average - photo)[photo > 0.2]  # away from black, where the tone curve bends
    assert error.abs().mean() < 0.005


def test_default_strengths_are_those_of_cameras():
    noise = CameraNoise(jpeg_quality=None)(flat(0.5, batch=400, side=24), generator_for(0)) - 0.5
    strength = noise.flatten(1).std(1) * 255
    low, median, high = torch.quantile(strength, torch.tensor([0.05, 0.5, 0.95])).tolist()
    assert 0.5 < low < 1.5 and 4 < median < 7 and 20 < high < 35


def test_results_are_clipped_unless_told_otherwise():
    for level in (0.0, 1.0):
        clipped = CameraNoise(jpeg_quality=None)(flat(level), generator_for(0))
        assert clipped.min() >= 0 and clipped.max() <= 1
        free = CameraNoise(jpeg_quality=None, clip=False)(flat(level), generator_for(0))
        assert free.min() < level < free.max()


def test_samples_of_a_batch_draw_their_own_parameters():
    noise = CameraNoise(jpeg_quality=None)(flat(0.5, batch=8), generator_for(0)) - 0.5
    assert len({round(s, 5) for s in noise.flatten(1).std(1).tolist()}) == 8


# -- JPEG --------------------------------------------------------------------------------------------------------


def textured(batch=1, channels=3):
    photo = torch.from_numpy(data.astronaut()[60:124, 200:264] / 255).float().permute(2, 0, 1)
    return photo[:channels].expand(batch, -1, -1, -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_gives_8_bit_values_and_errs_more_at_lower_quality(channels):
    photo, errors = textured(channels=channels), []
    for quality in (95, 60, 20):
        coded = camera(1e-8, 1e-8, jpeg_quality=(quality, quality), jpeg_probability=1)(photo, generator_for(0))
        assert coded.shape == photo.shape and coded.min() >= 0 and coded.max() <= 1
        torch.testing.assert_close((coded * 255).round() / 255, coded)
        errors.append((coded - photo).abs().mean().item())
    assert 0 < errors[0] < errors[1] < errors[2] < 0.1


def test_jpeg_touches_its_share_of_the_samples():
    photo = textured(batch=200)[..., :16, :16]
    degraded = camera(1e-8, 1e-8, jpeg_quality=(30, 30), jpeg_probability=0.3)(photo, generator_for(0))
    coded = ((degraded - photo).abs().flatten(1).amax(1) > 0.02).float().mean().item()
    assert coded == pytest.approx(0.3, abs=0.1)  # standard error 0.03


def test_jpeg_blocks_lie_anywhere():
    degradation = camera(1e-8, 1e-8, jpeg_quality=(20, 20), jpeg_probability=1)
    edges = set()
    for n in range(30):
        coded = degradation(textured(), generator_for(n))[0].mean(0)
        steps = (coded.diff(dim=1).abs() - textured()[0].mean(0).diff(dim=1).abs()).mean(0)
        edges.add(int(torch.stack([steps[start::8].mean() for start in range(8)]).argmax()))
    assert len(edges) >= 5
