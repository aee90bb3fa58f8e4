"""What a restorer removed from real photos, put onto clean ones."""

import pytest
import torch

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.transplant import Transplant, write_residual
from daa_diffusers.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path):
    residual = torch.zeros(3, 24, 32)
    residual[:, :, ::4] = torch.tensor([0.5, -0.25, 0.125])[:, None, None]  # vertical streaks of one color
    write_residual(residual, tmp_path / "0.png")
    return tmp_path


def apply(degradation, clean, number=0):
    return degradation(clean, generator_for(0, "transplant", number))


def test_the_residual_comes_back_on_the_clean_photo(folder):
    clean = torch.rand(4, 3, 16, 16, generator=generator_for(0, "clean"))
    added = apply(Transplant(str(folder)), clean) - clean
    streaks = torch.tensor([0.5, -0.25, 0.125])
    for sample in added:
        hit = sample.abs().amax(0) > 0.1
        assert float(hit.float().mean()) == 0.25  # every fourth line, whichever way it was turned
        assert torch.allclose(sample[:, hit], streaks[:, None].expand(-1, int(hit.sum())), atol=2**-15)
        assert sample[:, ~hit].abs().max() < 2**-15  # gray is zero
    assert len({tuple((sample.abs().amax(0) > 0.1).flatten().tolist()) for sample in added}) > 1  # places differ


def test_gain_multiplies_it_per_sample(folder):
    clean = torch.zeros(16, 3, 16, 16)
    peaks = apply(Transplant(str(folder), (0.5, 2.0)), clean).amax((1, 2, 3))
    assert 0.25 <= float(peaks.min()) < 0.5 < float(peaks.max()) <= 1.0


def test_samples_depend_on_the_generator_alone_and_configs_rebuild_it(folder):
    made = Transplant(str(folder), (1.0, 1.5))
    again = degradation_from_config(made.to_config())
    assert again == made
    clean = torch.rand(2, 3, 20, 12, generator=generator_for(0, "clean"))
    assert torch.equal(apply(made, clean), apply(again, clean))
    assert not torch.equal(apply(made, clean), apply(made, clean, 1))


def test_photos_larger_than_the_residual_and_gray_ones_are_served(folder):
    assert apply(Transplant(str(folder)), torch.zeros(1, 3, 40, 50)).shape == (1, 3, 40, 50)
    gray = apply(Transplant(str(folder)), torch.zeros(1, 1, 16, 16))
    assert abs(float(gray.amax()) - (0.5 - 0.25 + 0.125) / 3) < 2**-14


def test_gray_residuals_serve_color(tmp_path):
    write_residual(torch.full((1, 8, 8), 0.25), tmp_path / "0.png")
    assert torch.allclose(apply(Transplant(str(tmp_path)), torch.zeros(1, 3, 8, 8)), torch.tensor(0.25), atol=2**-15)


@pytest.mark.parametrize(("gain", "message"), [((2.0, 1.0), "low <= high"), ((0.0, 9.0), "in \\[0, 4\\]")])
def test_a_gain_out_of_range_is_named(folder, gain, message):
    with pytest.raises(ConfigurationError, match="`gain`") as raised:
        Transplant(str(folder), gain)
    raised.match(message)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="`folder` must be an existing folder"):
        apply(Transplant(str(tmp_path / "none")), torch.zeros(1, 3, 8, 8))
