"""The registry of degradations, blind Gaussian noise, and mixtures."""

import json

import pytest
import torch

from daa_diffusers.degradations.base import DEGRADATIONS, Degradation, degradation_from_config
from daa_diffusers.degradations.camera_noise import CameraNoise
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.gaussian import BlindGaussian
from daa_diffusers.degradations.mixture import Mixture
from daa_diffusers.errors import ConfigurationError

from ..conftest import PROJECT_ROOT
from ..test_import_is_light import modules_loaded_by

ROOM = PROJECT_ROOT / "daa_diffusers" / "degradations"

ALL = [
    BlindGaussian(sigma_min=3, sigma_max=50),
    CameraNoise(shot=(1e-3, 1e-2), jpeg_quality=(70, 80), jpeg_probability=0.25, clip=False),
    CameraNoise(jpeg_quality=None),
    Mixture([(1, BlindGaussian()), (0.5, Mixture([(2, CameraNoise())]))]),
]

GAUSSIAN = {"type": "gaussian"}


def gray(batch, level=0.5, channels=3, side=32):
    return torch.full((batch, channels, side, side), level)


@pytest.mark.parametrize("degradation", ALL, ids=lambda d: type(d).__name__)
class TestContract:
    def test_configs_are_plain_and_rebuild_an_equal_degradation(self, degradation):
        assert isinstance(degradation, Degradation)
        config = degradation.to_config()
        rebuilt = degradation_from_config(json.loads(json.dumps(config)))
        assert rebuilt == degradation and rebuilt.to_config() == config
        clean = gray(4)
        assert torch.equal(rebuilt(clean, generator_for(0)), degradation(clean, generator_for(0)))

    def test_the_generator_decides_everything(self, degradation):
        clean = torch.rand(4, 3, 16, 16, generator=generator_for(5))
        kept = clean.clone()
        first = degradation(clean, generator_for(1))
        torch.manual_seed(3)
        assert torch.equal(degradation(clean, generator_for(1)), first)
        assert not torch.equal(degradation(clean, generator_for(2)), first)
        assert torch.equal(clean, kept)

    @pytest.mark.parametrize("shape", [(1, 3, 7, 5), (3, 1, 16, 16), (2, 3, 2, 2), (2, 3, 64, 3)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shape_and_dtype_stay(self, degradation, shape, dtype):
        degraded = degradation(torch.rand(shape, dtype=dtype, generator=generator_for(0)), generator_for(1))
        assert degraded.shape == shape and degraded.dtype == dtype and degraded.isfinite().all()

    def test_black_and_white_stay_finite(self, degradation):
        for level in (0.0, 1.0):
            assert degradation(gray(8, level), generator_for(0)).isfinite().all()

    def test_other_inputs_are_refused(self, degradation):
        for clean in (torch.rand(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
            with pytest.raises(ValueError, match="`clean` must be floating point"):
                degradation(clean, generator_for(0))


def test_gaussian_noise_has_the_sigma_that_is_asked_for():
    noise = BlindGaussian(sigma_min=20, sigma_max=20)(gray(16, side=64), generator_for(0)) - 0.5
    assert noise.mean().abs() * 255 < 0.2  # standard error 0.045
    assert abs(noise.std() * 255 - 20) < 0.15  # standard error 0.032
    assert abs(torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1]) < 0.02


def test_gaussian_sigma_is_uniform_over_samples():
    sigma = (BlindGaussian(sigma_min=10, sigma_max=70)(gray(600), generator_for(0)) - 0.5).flatten(1).std(1) * 255
    assert sigma.min() > 9 and sigma.max() < 73
    quartiles = torch.quantile(sigma, torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([25.0, 40.0, 55.0]), rtol=0, atol=4)


def test_gaussian_noise_is_not_clipped():
    noisy = BlindGaussian(sigma_min=50)(gray(2, 1.0), generator_for(0))
    assert noisy.max() > 1.3 and abs(noisy.mean() - 1) < 0.02


def test_mixtures_choose_by_weight_for_each_sample():
    mixture = Mixture([(3, BlindGaussian(0, 0)), (1, BlindGaussian(30, 30))])
    touched = (mixture(gray(2000, side=4), generator_for(0)) != 0.5).flatten(1).any(1).float().mean()
    assert abs(touched - 0.25) < 0.04  # standard error 0.01


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "must be a mapping with a `type`"),
        ({}, r"`type` .* must be one of \['camera', .*'gaussian'.*got None"),
        ({"type": ["gaussian"]}, r"`type` .* must be one of .*got \['gaussian'\]"),
        ({"type": "gausian"}, "got 'gausian' .did you mean 'gaussian'"),
        ({"type": "gaussian", "sigma_mx": 3}, "no field 'sigma_mx' .did you mean 'sigma_max'"),
        ({"type": "gaussian", "sigma_min": -1}, "`sigma_min` must be a number of at least 0, got -1"),
        ({"type": "gaussian", "sigma_max": "75"}, "`sigma_max` must be a number"),
        ({"type": "gaussian", "sigma_max": True}, "`sigma_max` must be a number"),
        ({"type": "gaussian", "sigma_max": float("nan")}, "`sigma_max` must be a number"),
        ({"type": "gaussian", "sigma_max": float("inf")}, "`sigma_max` must be finite"),
        ({"type": "gaussian", "sigma_min": 80}, "`sigma_min` must be at most `sigma_max`, got 80 and 75"),
        ({"type": "camera", "shots": [0.1, 0.2]}, "no field 'shots' .did you mean 'shot'"),
        ({"type": "camera", "shot": 0.1}, "`shot` must be a pair"),
        ({"type": "camera", "shot": "ab"}, "`shot` must be a pair"),
        ({"type": "camera", "shot": [0, 0.1]}, r"`shot` must be a number in \[1e-08, 1\], got 0"),
        ({"type": "camera", "read": [0.2, 0.1]}, "`read` must be .low, high. with low <= high"),
        ({"type": "camera", "gamma": [1, 2]}, "`gamma` must be a number in"),
        ({"type": "camera", "white_balance": [1, 2, 3]}, "`white_balance` must be a pair"),
        ({"type": "camera", "jpeg_quality": [0, 90]}, "`jpeg_quality` must be a number in .1, 100."),
        ({"type": "camera", "jpeg_quality": [50.5, 90]}, "`jpeg_quality` must be whole numbers"),
        ({"type": "camera", "jpeg_probability": 1.5}, "`jpeg_probability` must be a number in .0, 1."),
        ({"type": "camera", "clip": 1}, "`clip` must be true or false, got 1"),
        ({"type": "mixture"}, "`parts` must be a list"),
        ({"type": "mixture", "parts": []}, "`parts` must hold at least one"),
        ({"type": "mixture", "part": []}, "no field 'part' .did you mean 'parts'"),
        ({"type": "mixture", "parts": [{"weight": 1}]}, "an entry of `parts` must be"),
        (
            {"type": "mixture", "parts": [{"weight": 0, "degradation": GAUSSIAN}]},
            "`weight` must be positive",
        ),
        (
            {"type": "mixture", "parts": [{"weight": -1, "degradation": GAUSSIAN}]},
            "`weight` must be a number",
        ),
        ({"type": "mixture", "parts": [{"weight": 1, "degradation": {"type": "camra"}}]}, "did you mean 'camera'"),
    ],
    ids=str,
)
def test_wrong_configs_are_named(config, message):
    with pytest.raises(ConfigurationError, match=message):
        degradation_from_config(config)


def test_mixtures_hold_degradations_only():
    with pytest.raises(ConfigurationError, match="`parts` must hold degradations, got 3"):
        Mixture([(1, 3)])


def test_each_degradation_is_one_file_and_none_needs_the_sources_of_photos():
    files = [kind.__module__ for kind in DEGRADATIONS.values() if kind.__module__.startswith("daa_diffusers.")]
    registered = [p for p in ROOM.glob("*.py") if "\n@register_degradation(" in p.read_text(encoding="utf-8")]
    assert len(files) == len(set(files)) == len(registered)
    loaded = modules_loaded_by("import daa_diffusers.degradations")
    assert set(files) <= loaded  # importing the package registers them all
    assert [m for m in loaded if m.startswith(("daa_diffusers.sources", "daa_diffusers.degradations.fitting"))] == []
