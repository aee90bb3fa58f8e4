"""`daa fit`, run as people run it."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

from daa_diffusers.cli.app import main
from daa_diffusers.degradations import FilteredRain, MotionBlur
from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.draws import generator_for

RAIN = FilteredRain(cover=(0.2, 0.2), brightness=(0.6, 0.6), contrast=(1, 1), screen_probability=0, width=(2, 2))
SHAKE = MotionBlur(length=(12, 12), shake=(0, 0), pull=(0, 0), reversals=(0, 0), direction=(60, 60))


@pytest.fixture
def folder(tmp_path):
    """Writes three photos through a degradation."""

    def write(degradation=None):
        (tmp_path / "photos").mkdir()
        for number, photo in enumerate((data.astronaut(), data.coffee(), data.rocket())):
            clean = torch.from_numpy(photo[:384, 100:484] / np.float32(255)).permute(2, 0, 1)[None]
            clean = torch.nn.functional.avg_pool2d(clean, 2)
            made = (clean if degradation is None else degradation(clean, generator_for(0, number)))[0]
            pixels = (made.permute(1, 2, 0) * 255).round().byte().numpy()
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
        return str(tmp_path / "photos")

    return write


@pytest.mark.parametrize(
    ("task", "degradation", "kind", "said"),
    [("derain", RAIN, "mixture", "3 have rain"), ("deblur", SHAKE, "motion_blur", "3 are shaken")],
    ids=["derain", "deblur"],
)
def test_photos_become_a_degradation_file(folder, tmp_path, capsys, task, degradation, kind, said):
    output = tmp_path / "found.yaml"
    assert main(["fit", folder(degradation), "--task", task, "--output", str(output)]) == 0
    assert said in capsys.readouterr().out
    config = yaml.safe_load(output.read_text())
    assert config["type"] == kind and degradation_from_config(config)


@pytest.mark.parametrize(("task", "said"), [("derain", "no rain to synthesize"), ("deblur", "no shake to synthesize")])
def test_clean_photos_are_said_to_have_none_and_nothing_is_written(folder, tmp_path, capsys, task, said):
    photos = folder()
    assert main(["fit", photos, "--task", task, "--output", str(tmp_path / "found.yaml")]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_noise_is_the_default_and_wrong_options_are_named(folder, tmp_path, capsys):
    photos = folder(lambda clean, g: (clean + 0.06 * torch.randn(clean.shape, generator=g)).clamp(0, 1))
    assert main(["fit", photos, "--output", str(tmp_path / "noise.yaml")]) == 0
    assert yaml.safe_load((tmp_path / "noise.yaml").read_text())["type"] == "fitted"
    for given, message in (
        (["--task", "dehaze"], "`--task` must be denoise, derain or deblur"),
        (["--task", "deblur", "--checkpoint", "daa-deblur"], "`--checkpoint` is only for `--task derain`"),
        (["--task", "derain", "--output", str(tmp_path / "rain.txt")], "must end in .yaml"),
    ):
        assert main(["fit", photos, *given]) == 2
        assert message in capsys.readouterr().err
