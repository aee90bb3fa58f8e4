"""Statistics of restored photos without ground truth, on photos and noise that are known."""

import math

import pytest
import skimage.data
import torch
from PIL import Image

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.degradations.filters import gaussian_filter
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation import evaluate_folder, label_free
from daa_diffusers.evaluation.label_free import Noise


@pytest.fixture(scope="module")
def photo():
    return torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1).float() / 255


def noise_like(image, seed=0):
    return torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


def smooth(image, sigma):
    return gaussian_filter(image if image.ndim == 4 else image[None], sigma).reshape(image.shape)


def test_whiteness_tells_noise_that_follows_the_signal_from_noise_that_is_correlated(photo):
    white = 0.1 * photo * noise_like(photo)
    correlated = smooth(0.1 * noise_like(photo), 1.0)
    structure = photo - smooth(photo, 2.0)
    values = [float(label_free.residual_whiteness(photo + n, photo)) for n in (white, correlated, structure)]
    assert values[0] > 0.97
    assert max(values[1:]) < 0.85
    assert float(label_free.residual_whiteness(photo, photo)) == 1.0


def test_the_residual_correlates_with_the_photo_where_it_is_half_restored_or_smoothed(photo):
    noisy = photo + 0.08 * noise_like(photo)
    correlation = {
        "true": photo,
        "half": (photo + noisy) / 2,
        "smoothed": smooth(photo, 1.0),
        "sharpened": photo + (photo - smooth(photo, 1.0)),
        "untouched": noisy,
    }
    correlation = {k: float(label_free.residual_signal_correlation(noisy, v)) for k, v in correlation.items()}
    assert abs(correlation["true"]) < 0.02
    assert correlation["half"] > 0.5
    assert correlation["smoothed"] > 0.05
    assert correlation["sharpened"] < -0.1
    assert correlation["untouched"] == 0


def test_drift_is_the_change_of_color_and_not_the_noise(photo):
    shift = torch.tensor([3.0, 0.0, -6.0])[:, None, None] / 255
    assert float(label_free.colour_drift(photo, photo + shift)) == pytest.approx(3.0, abs=1e-3)
    assert float(label_free.colour_drift(photo + 20 / 255 * noise_like(photo), photo)) < 1.0


def test_clean_fidelity_is_the_psnr_of_what_should_come_back_unchanged(photo):
    batch = 0.8 * torch.stack([photo, photo.flip(2)])
    assert label_free.clean_fidelity(lambda x: x + 0.1, batch).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
    assert float(label_free.clean_fidelity(lambda x: x, photo)) == math.inf


def test_an_image_of_a_batch_is_as_the_image_alone(photo):
    noisy = torch.stack([photo + 0.05 * noise_like(photo, seed) for seed in range(2)])
    restored = smooth(noisy, 1.0)
    for measure in (label_free.residual_whiteness, label_free.residual_signal_correlation, label_free.colour_drift):
        together = measure(noisy, restored)
        assert together.shape == (2,)
        torch.testing.assert_close(measure(noisy[1], restored[1]), together[1])
        with pytest.raises(ValueError, match="one shape"):
            measure(noisy, restored[:1])


@pytest.mark.parametrize("kind", ["white", "correlated", "signal"])
def test_noise_is_estimated_from_the_photo_alone(photo, kind):
    white = noise_like(photo)
    true = {"white": white, "correlated": smooth(white, 0.7), "signal": (0.5 + photo) * white}[kind]
    true = 0.06 * true / true.std()
    drawn = Noise.of(photo + true).sample(photo + true, torch.Generator().manual_seed(1))
    assert float(drawn.std()) == pytest.approx(0.06, rel=0.15)

    def next_pixel(n):
        return float((n[:, :, 1:] * n[:, :, :-1]).mean() / n.square().mean())

    assert next_pixel(drawn) == pytest.approx(next_pixel(true), abs=0.12)
    if kind == "signal":
        dark, bright = photo.mean(0) < 0.3, photo.mean(0) > 0.7
        assert float(drawn[:, bright].std() / drawn[:, dark].std()) > 1.3


def test_the_estimated_gain_is_close_to_the_true_one(photo):
    noise = smooth(0.1 * noise_like(photo), 0.5)
    noisy = (photo + noise)[None]
    estimated = Noise.of(noisy[0])
    draws = torch.stack([estimated.sample(noisy[0], torch.Generator().manual_seed(k))[None] for k in (1, 2)])
    gains = {}
    for sigma in (0.5, 0.8, 1.2, 3.0):
        error = smooth(noisy, sigma) - photo
        true = -10 * math.log10(float(error.square().mean() / noise.square().mean()))
        gains[sigma] = (float(label_free.estimated_gain(lambda x, s=sigma: smooth(x, s), noisy, draws)), true)
        assert gains[sigma][0] == pytest.approx(true, abs=1.5)
    assert max(gains, key=lambda s: gains[s][0]) == max(gains, key=lambda s: gains[s][1])
    assert float(label_free.estimated_gain(lambda x: x, noisy, draws)) == pytest.approx(0.0, abs=1e-4)


def test_the_estimated_gain_names_shapes_that_do_not_fit(photo):
    with pytest.raises(ValueError, match=r"`noise` must be \(K, B, C, H, W\)"):
        label_free.estimated_gain(lambda x: x, photo[None], photo[None])
    with pytest.raises(ValueError, match="sides of at least 32"):
        Noise.of(photo[:, :16])


def test_a_gray_photo_and_a_flat_one_have_noise_too(photo):
    gray = photo[:1] + 0.05 * noise_like(photo[:1])
    assert Noise.of(gray).sample(gray, torch.Generator().manual_seed(0)).shape == gray.shape
    black = torch.zeros(3, 64, 64)
    assert float(Noise.of(black).sample(black, torch.Generator().manual_seed(0)).abs().max()) < 1e-6


def test_the_score_prefers_the_restorer_that_does_enough():
    assert label_free.label_free_score(7.6, 0.1) == 7.6
    assert label_free.label_free_score(8.0, 0.75) == pytest.approx(7.0)
    assert label_free.label_free_score(8.0, -0.75) == pytest.approx(7.0)


def test_a_photo_too_small_to_be_scored_is_named_by_its_size(tmp_path):
    Image.new("RGB", (16, 20)).save(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="e.g. a.png: smaller than 32 pixels: 16 x 20"):
        evaluate_folder({"restored": DAARestorationPipeline(RestorationUNet(width=4, depth=1))}, tmp_path)
