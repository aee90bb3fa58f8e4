"""Point spread functions of single photos: those that were made are found again."""

import numpy as np
import pytest
import torch
from skimage import data

from daa_diffusers.degradations.blur import shake_trajectories
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.fitting.blind_psf import estimate_psf
from daa_diffusers.degradations.psf import convolve, trajectory_psf


def photo_of(pixels):
    """A gray photo (1, 1, H, W), reduced by two, which makes it sharp."""
    return torch.nn.functional.avg_pool2d(torch.from_numpy(pixels.copy()).float().mean(2)[None, None] / 255, 2)


def made_psf(number, length=30.0):
    one = torch.ones(1)
    return trajectory_psf(shake_trajectories(length * one, 3 * one, 3 * one, 0 * one, generator_for(0, "psf", number)))


def agreement(first, second, size=128):
    """Normalized cross-correlation of two PSFs at the best shift; 1 for equal ones."""
    spectra = [torch.fft.rfft2(psf.view(psf.shape[-2:]), s=(size, size)) for psf in (first, second)]
    return (torch.fft.irfft2(spectra[0] * spectra[1].conj()).max() / (first.norm() * second.norm())).item()


@pytest.mark.parametrize(("pixels", "number"), [(data.astronaut(), 0), (data.coffee(), 1), (data.chelsea(), 2)])
def test_a_made_psf_is_found_again(pixels, number):
    psf, clean = made_psf(number), photo_of(pixels)
    noise = 0.002 * torch.randn(clean.shape, generator=generator_for(0, "noise", number))
    found = estimate_psf((convolve(clean, psf) + noise)[0, 0].clamp(0, 1), 31)
    assert found.shape == (31, 31) and found.min() >= 0 and found.sum().item() == pytest.approx(1, abs=1e-5)
    assert agreement(found, psf) > max(0.75, agreement(torch.ones(1, 1), psf) + 0.2)
    at = torch.arange(31.0) - 15
    assert abs((found.sum(1) * at).sum()) < 0.6 and abs((found.sum(0) * at).sum()) < 0.6


def test_a_sharp_photo_has_a_psf_of_a_few_pixels():
    found = estimate_psf(photo_of(data.astronaut())[0, 0], 15)
    assert found[6:9, 6:9].sum() > 0.8


def test_a_photo_without_edges_has_the_psf_of_no_blur():
    assert estimate_psf(torch.full((96, 128), 0.5), 15)[7, 7] == 1
    assert np.isfinite(estimate_psf(torch.zeros(96, 128), 15).numpy()).all()
