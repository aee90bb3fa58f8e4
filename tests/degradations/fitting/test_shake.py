"""Camera shake fitted to photos: what was made is found again, and sharp photos have none."""

import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.blur import MotionBlur
from daa_diffusers.degradations.config_files import read_degradation
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.fitting.shake import fit_shake
from daa_diffusers.errors import ConfigurationError

QUIET = {"defocus": (0, 0), "highlight_probability": 0.0, "shot": (1e-6, 1e-6), "read": (1e-4, 1e-4)}
STRAIGHT = {"shake": (0, 0), "pull": (0, 0), "reversals": (0, 0), **QUIET}


def folder(path, blur=None):
    """Photos of scikit-image, reduced by two, which makes them sharp."""
    for number, photo in enumerate((data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.cat())):
        clean = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None, :, :512, :512].float() / 255
        clean = torch.nn.functional.avg_pool2d(clean, 2)
        photo = (clean if blur is None else blur(clean, generator_for(0, "shake", number)))[0]
        Image.fromarray((photo.permute(1, 2, 0) * 255).round().byte().numpy()).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize(("length", "angle"), [(8, 30), (14, 115)])
def test_a_made_drift_is_found_again_within_a_fifth(tmp_path, length, angle):
    made = MotionBlur(length=(length, length), direction=(angle, angle), **STRAIGHT)
    profile = fit_shake(folder(tmp_path, made))
    assert profile.kind == "straight" and profile.shaken == 5
    assert (profile.length[0] * profile.length[1]) ** 0.5 == pytest.approx(length, rel=0.2)
    off = (sum(profile.direction) / 2 - angle + 90) % 180 - 90
    assert abs(off) < 10


def test_a_trembling_hand_is_found_again_within_a_fifth(tmp_path):
    profile = fit_shake(folder(tmp_path, MotionBlur(length=(30, 30), **QUIET)))
    assert profile.kind == "curved" and profile.direction is None
    assert (profile.length[0] * profile.length[1]) ** 0.5 == pytest.approx(30, rel=0.2)


def test_sharp_photos_have_none_and_nothing_is_written(tmp_path):
    profile = fit_shake(folder(tmp_path))
    assert profile.kind is None and "No shake" in profile.describe()
    with pytest.raises(ConfigurationError, match="no shake to synthesize: 5 of 5"):
        profile.save(tmp_path / "shake.yaml")
    assert not (tmp_path / "shake.yaml").exists()


def test_the_file_is_a_degradation(tmp_path):
    made = MotionBlur(length=(12, 12), direction=(60, 60), **STRAIGHT)
    path = fit_shake(folder(tmp_path, made)).save(tmp_path.parent / "shake.yaml")
    assert isinstance(degradation_from_config(read_degradation(path)), MotionBlur)
    assert "# Direction" in path.read_text()
