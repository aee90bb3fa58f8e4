"""Camera shake fitted to photos: what was made is found again, and sharp photos have none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.blur import MotionBlur
from daa_diffusers.degradations.config_files import read_degradation
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.fitting import shake
from daa_diffusers.degradations.fitting.shake import extent, fit_shake
from daa_diffusers.degradations.mixture import Mixture
from daa_diffusers.errors import ConfigurationError

QUIET = {"defocus": (0, 0), "highlight_probability": 0.0, "shot": (1e-6, 1e-6), "read": (1e-4, 1e-4)}
STRAIGHT = {"shake": (0, 0), "pull": (0, 0), "reversals": (0, 0), **QUIET}


def folder(path, blur=None, count=3):
    """Photos of scikit-image, reduced by two, which makes them sharp."""
    for number, photo in enumerate((data.astronaut(), data.coffee(), data.chelsea(), data.rocket())[:count]):
        clean = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None, :, :512, :512].float() / 255
        clean = torch.nn.functional.avg_pool2d(clean, 2)
        photo = (clean if blur is None else blur(clean, generator_for(0, "shake", number)))[0]
        Image.fromarray((photo.permute(1, 2, 0) * 255).round().byte().numpy()).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize(("length", "angle"), [(8, 30), (14, 115)])
def test_a_made_drift_is_found_again_within_a_third_and_ten_degrees(tmp_path, length, angle):
    made = MotionBlur(length=(length, length), direction=(angle, angle), **STRAIGHT)
    profile = fit_shake(folder(tmp_path, made))
    assert profile.shaken == len(profile.psfs) == 3
    lengths, directions = zip(*map(extent, profile.psfs), strict=True)
    assert np.median(lengths) == pytest.approx(length, rel=0.33)
    assert abs(np.median(directions) - angle) < 10
    path = profile.save(tmp_path.parent / "shake.yaml")
    degradation = degradation_from_config(read_degradation(path))
    assert degradation == replace(MotionBlur(defocus=(0, 0)), psfs=profile.psfs)
    assert "# Point spread functions" in path.read_text()


@pytest.mark.parametrize("angle", [0, 30, 90, 160])
def test_the_extent_of_a_line_is_its_length_and_direction(angle):
    at, radians = np.linspace(-10, 10, 201), np.deg2rad(angle)
    length, direction = extent([(-step * np.cos(radians), step * np.sin(radians), 0.5) for step in at])
    assert length == pytest.approx(20, rel=0.01)
    assert direction % 180 == pytest.approx(angle, abs=1e-6) or direction == pytest.approx(180)
    assert extent([(0, 0, 1.0)])[0] == 0


@pytest.mark.parametrize(("most", "share", "of_psfs"), [(3, 1.0, 0.5), (3, 0.8, 0.625), (3, 0.5, 1.0), (4, 1.0, 1.0)])
def test_the_shake_of_some_photos_is_that_of_at_most_half_the_training_samples(
    tmp_path, monkeypatch, most, share, of_psfs
):
    for name, value in {"MAX_PHOTOS": most, "SHAKEN": 0.0, "PSF_CROP": 64}.items():  # sharp photos count, too
        monkeypatch.setattr(shake, name, value)
    like = MotionBlur(length=(2, 30), tone_probability=0.0, varying_probability=0.5)
    profile = fit_shake(folder(tmp_path, count=4), None, like, share)
    fitted = MotionBlur(length=(2, 30), tone_probability=0.0, defocus=(0, 0), psfs=profile.psfs)
    assert len(profile.psfs) == most and profile.share == of_psfs
    mixed = Mixture([(of_psfs, fitted), (1 - of_psfs, like)]) if of_psfs < 1 else fitted
    assert profile.to_degradation() == mixed
    assert ("Not every photo was measured" in profile.describe()) == (of_psfs < 1)


def test_sharp_photos_have_none_and_nothing_is_written(tmp_path):
    profile = fit_shake(folder(tmp_path))
    assert not profile.psfs and "No shake" in profile.describe()
    with pytest.raises(ConfigurationError, match="no shake to synthesize: 3 of 3"):
        profile.save(tmp_path / "shake.yaml")
    assert not (tmp_path / "shake.yaml").exists()
