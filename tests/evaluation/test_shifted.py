"""PSNR at the best shift, on photos that were shifted by known amounts."""

import math

import numpy as np
import pytest
import skimage.data
import skimage.metrics
import torch

from daa_diffusers.evaluation import psnr, psnr_shift


def photo(top=0, left=0, size=64):
    return skimage.data.astronaut()[100 + top : 100 + top + size, 180 + left : 180 + left + size]


@pytest.mark.parametrize("offset", [(0, 0), (3, -2), (-5, 5)])
def test_a_shifted_photo_is_found_again(offset):
    assert float(psnr_shift(photo(*offset), photo(), shift=5)) == math.inf
    beyond = tuple(step + math.copysign(6, step) for step in offset)
    assert float(psnr_shift(photo(*map(int, beyond)), photo(), shift=5)) < 40


def test_every_shift_is_scored_on_the_same_inner_pixels():
    noise = np.random.default_rng(0).normal(0, 20, (64, 64, 3))
    restored = (photo(1, 0) + noise).clip(0, 255).astype(np.uint8)
    expected = [
        skimage.metrics.peak_signal_noise_ratio(
            photo()[2:-2, 2:-2], restored[2 + dy : 62 + dy, 2 + dx : 62 + dx], data_range=255
        )
        for dy in range(-2, 3)
        for dx in range(-2, 3)
    ]
    assert float(psnr_shift(restored, photo(), shift=2)) == pytest.approx(max(expected), abs=1e-4)
    assert int(np.argmax(expected)) == 1 * 5 + 2  # up by one row: (-1, 0)


def test_no_shift_is_psnr_and_options_are_its_own():
    restored = photo()[::-1].copy()
    options = {"color": "y", "as_uint8": True}
    assert float(psnr_shift(restored, photo(), shift=0, **options)) == float(psnr(restored, photo(), **options))
    batch = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    scores = psnr_shift(batch, batch.flip(0), shift=1)
    assert scores.shape == (2,) and float(scores[1]) == float(psnr_shift(batch[1], batch[0], shift=1))


@pytest.mark.parametrize("shift", [-1, 1.5, True])
def test_the_shift_must_be_whole_and_not_negative(shift):
    with pytest.raises(ValueError, match="`shift` must be a whole number of pixels"):
        psnr_shift(photo(), photo(), shift=shift)


def test_small_images_have_no_pixel_left():
    with pytest.raises(ValueError, match="larger than 10 x 10 pixels for a `shift` of 5, got 10 x 10"):
        psnr_shift(photo(size=10), photo(size=10))
