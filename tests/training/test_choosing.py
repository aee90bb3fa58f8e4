"""Choice of the method of an adaptation, on small restorers whose effect is known."""

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import nn

from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.training.choosing import METHODS, choice, measure, method_of, with_method
from daa_diffusers.training.config import resolve


class Transform(nn.Module):
    """A blind denoiser of white noise: small coefficients of the discrete cosine transform of blocks are set to zero.

    How small, it tells from the highest frequencies: noise that hangs together has little there, and stays.
    """

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))
        k, n = torch.arange(8)[:, None], torch.arange(8)[None]
        rows = torch.cos(torch.pi * (n + 0.5) * k / 8) * (2 / 8) ** 0.5
        rows[0] /= 2**0.5
        self.register_buffer("basis", torch.einsum("ai,bj->abij", rows, rows).reshape(64, 1, 8, 8))

    def forward(self, x):
        height, width = x.shape[2:]
        flat = F.pad(x.reshape(-1, 1, height, width), (7, 7, 7, 7), mode="reflect")
        coefficients = F.conv2d(flat, self.basis)  # (BC, 64, ...), of every block
        sigma = coefficients[:, -1].flatten(1).abs().median(1).values[:, None, None, None] / 0.6745
        kept = coefficients * (coefficients.abs() > self.factor * sigma)
        kept[:, :1] = coefficients[:, :1]
        return F.conv_transpose2d(kept, self.basis)[..., 7:-7, 7:-7].reshape(x.shape) / 64


@pytest.fixture(scope="module")
def clean():
    photo = torch.from_numpy(np.ascontiguousarray(skimage.data.astronaut())).permute(2, 0, 1).float() / 255
    return 0.1 + 0.8 * torch.stack([photo[:, y : y + 160, x : x + 160] for y, x in ((0, 0), (0, 340), (340, 340))])


def noisy(clean, taps):
    """Noise of sigma 12, white (`taps` 1) or the mean over as many pixels along each side."""
    white = torch.randn(*clean.shape[:2], 160 + taps - 1, 160 + taps - 1, generator=generator_for(0, "noise"))
    return (clean + 12 / 255 * taps * F.avg_pool2d(white, taps, 1)).clamp(0, 1)


def measured(clean, restorer, taps):
    return measure(restorer, list(noisy(clean, taps)), clean[:, :, :48, :48], generator_for(0, "choice"))


def test_a_denoiser_of_white_noise_is_renoised_on_correlated_noise(clean):
    found = measured(clean, Transform(), 3)
    made = choice(found)
    assert made.method == "renoised_fitted" and found["renoised_gain"] > found["gain"] + 1
    assert "correlation of neighboring pixels 0." in made.reasons[0] and "renoised result gains +" in made.reasons[1]


def test_white_noise_is_not_renoised(clean):
    found = measured(clean, Transform(), 1)
    assert "The photos' noise is white" in choice(found).reasons[1]
    assert choice({**found, "left": 0.24 * found["noise"]}).method == "fitted"
    assert choice({**found, "left": 0.26 * found["noise"]}).method == "preset"


def test_what_is_no_denoiser_is_left_to_the_preset(clean):
    made = choice(measured(clean, nn.Conv2d(3, 3, 1), 3))
    assert made.method == "preset" and "It is not a denoiser" in made.reasons[1]


def test_a_start_that_renoising_makes_no_better_is_left_to_fitted_pairs():
    found = {"white_noise_gain": 9.0, "noise": 9.7, "left": 0.7, "hiding": 3.7, "neighbors": 0.5}
    assert choice({**found, "gain": 9.0, "renoised_gain": 9.1}).method == "fitted"
    assert choice({**found, "gain": 9.0, "renoised_gain": 9.4}).method == "renoised_fitted"
    assert "cannot be estimated" in choice(found).reasons[1]


def test_a_start_that_leaves_a_quarter_of_the_noise_is_renoised_whatever_the_estimate():
    found = {"white_noise_gain": 8.5, "noise": 2.3, "hiding": 7.4, "neighbors": 0.6, "gain": 0.3, "renoised_gain": -0.2}
    assert choice({**found, "left": 0.8}).method == "renoised_fitted"
    assert choice({**found, "left": 0.5}).method == "fitted"


@pytest.mark.parametrize("method", METHODS)
def test_the_options_of_a_method_fit_and_tell_it_again(method):
    config = with_method(resolve({"preset": "adapt", "clean": ["c"], "real": ["r"], "minutes": 1}), method)
    assert method_of(config.__dict__) == method
    assert config.select_by == "last" and (config.objective.get("decay", 0) is None) == method.startswith("renoised")
