"""Rain fitted to photos: what was made is found again, and clean photos have none."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, grey_opening

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.config_files import read_degradation
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.filtered_rain import FilteredRain
from daa_diffusers.degradations.fitting.rain import fit_rain
from daa_diffusers.degradations.rain import RainStreaks
from daa_diffusers.errors import ConfigurationError

ONE = {"layers": (1, 1), "angle_spread": (0, 0), "screen_probability": 0.0, "across_probability": 0.0}
# length, width and brightness of the streaks, the share that they cover
MADE = {"length": (24, 24), "width": (2, 2), "brightness": (0.4, 0.4), "cover": (0.1, 0.1), "angle": (12, 12)}


def without_thin(photo):
    """A derainer: what is brighter than its surroundings and narrower than 9 pixels is taken away."""
    return torch.from_numpy(np.stack([grey_opening(color, (1, 9)) for color in photo.numpy()]))


def folder(path, rain=None, count=6, side=160):
    """Photos of soft shapes and some texture."""
    for number in range(count):
        draws = np.random.default_rng(number)
        shapes = gaussian_filter(draws.normal(size=(side, side, 3)), (12, 12, 0)) * 12 + 0.3
        fine = gaussian_filter(draws.normal(size=(side, side, 1)), (1.5, 1.5, 0)) * (shapes > 0.5) * 0.1
        clean = torch.from_numpy((shapes + fine).clip(0, 0.7)).float().permute(2, 0, 1)
        photo = clean if rain is None else rain(clean[None], generator_for(1, "rain", number))[0]
        Image.fromarray((photo.permute(1, 2, 0) * 255).round().byte().numpy()).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize("kind", [RainStreaks, FilteredRain])
def test_made_rain_is_found_again_within_a_fifth(tmp_path, kind):
    extra = {"veil_probability": 0.0} if kind is RainStreaks else {"contrast": (1, 1)}
    profile = fit_rain(folder(tmp_path, kind(**ONE, **extra, **MADE)), without_thin)
    found = profile.streaks if kind is RainStreaks else profile.filtered
    assert profile.rainy == 6 and profile.veil is None
    assert found["angle"][0] < 12 < found["angle"][1] and found["angle"][1] - found["angle"][0] < 10
    for name in ("length", "width", "brightness", "cover"):
        low, high = found[name]
        assert (low * high) ** 0.5 == pytest.approx(MADE[name][0], rel=0.2), (name, found)


def test_a_veil_is_found_again_within_a_fifth(tmp_path):
    black = folder(tmp_path, veiled)
    profile = fit_rain(black, without_thin)
    assert profile.veil is not None
    assert sum(profile.veil) / 2 == pytest.approx(0.3, rel=0.2)


def veiled(clean, generator):
    veil = {"veil_probability": 1.0, "veil": (0.3, 0.3), "veil_grey": (0.8, 0.8)}
    return RainStreaks(**ONE, **MADE, **veil)(clean, generator)


def test_photos_without_rain_have_none_and_nothing_is_written(tmp_path):
    profile = fit_rain(folder(tmp_path), without_thin)
    assert profile.streaks is None and "No rain" in profile.describe()
    with pytest.raises(ConfigurationError, match="no rain to synthesize"):
        profile.save(tmp_path / "rain.yaml")
    assert not (tmp_path / "rain.yaml").exists()


def test_the_file_is_a_degradation_and_too_few_photos_are_named(tmp_path):
    photos = folder(tmp_path, RainStreaks(**ONE, veil_probability=0.0, **MADE), count=3, side=96)
    path = fit_rain(photos, without_thin).save(tmp_path.parent / "rain.yaml")
    rain = degradation_from_config(read_degradation(path))
    degraded = rain(torch.full((4, 3, 64, 64), 0.3), generator_for(0))
    assert (degraded - 0.3).amax() > 0.05 and "# 3 photos used" in path.read_text()
    next(tmp_path.glob("*.png")).unlink()
    with pytest.raises(ConfigurationError, match="at least 3 usable photos, got 2"):
        fit_rain(photos, without_thin)
