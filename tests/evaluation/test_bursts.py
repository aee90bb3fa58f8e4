"""PSNR from bursts, against the truth on bursts that are made of clean photos."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.degradations import CameraNoise
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation.bursts import _inside, _moved, evaluate_bursts
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.photos.pixels import unit_float


def write(path, photo):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((photo.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(path)


@pytest.fixture(scope="module")
def scene():
    """(3, 192, 192) in [0.1, 0.9]: nothing is clipped."""
    photo = torch.from_numpy(np.ascontiguousarray(data.astronaut()[:384, 100:484])).permute(2, 0, 1).float() / 255
    return 0.1 + 0.8 * torch.nn.functional.avg_pool2d(photo, 2)


@pytest.fixture(scope="module")
def smoother():
    """A pipeline that restores badly, with a known result: a small network of random weights."""
    torch.manual_seed(0)
    return DAARestorationPipeline(RestorationUNet(width=4, depth=2))


def noisy(scene, seed, sigma=12.0):
    """Noise that is correlated, as of a phone."""
    white = torch.randn(1, 3, *(side + 2 for side in scene.shape[1:]), generator=torch.Generator().manual_seed(seed))
    return scene + sigma / 255 * 2 * torch.nn.functional.avg_pool2d(white, 3, 1)[0]


def truth(pipeline, folder, clean):
    frames = [unit_float(torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1)) for p in sorted(folder.iterdir())]
    restored = frames if pipeline is None else [pipeline(f, output_type="pt").images[0].cpu() for f in frames]
    mse = sum(10 ** (-float(psnr(_inside(r), _inside(clean))) / 10) for r in restored) / len(restored)
    return -10 * math.log10(mse)


@pytest.mark.parametrize(
    ("gain", "shift"),
    [(1.0, (0.0, 0.0)), (1.06, (0.0, 0.0)), (1.0, (1.0, -2.0)), (1.0, (0.6, 0.3)), (0.95, (-1.4, 2.2))],
)
def test_scores_are_those_of_the_truth_within_a_fifth_of_a_decibel(tmp_path, scene, smoother, gain, shift):
    write(tmp_path / "one" / "0.png", noisy(scene, 0))
    write(tmp_path / "one" / "1.png", noisy(gain * _moved(scene, shift), 1))
    found = evaluate_bursts({"smoother": smoother}, tmp_path)
    only_first = tmp_path / "first"
    write(only_first / "0.png", noisy(scene, 0))
    for row, pipeline in (("identity", None), ("smoother", smoother)):
        assert found.psnr[row][0] == pytest.approx(truth(pipeline, only_first, scene), abs=0.2)


def test_three_frames_of_camera_noise_are_scored_too(tmp_path, scene, smoother):
    camera = CameraNoise(shot=(5e-3, 5e-3), read=(3e-3, 3e-3), demosaic_probability=1.0, jpeg_probability=0.0)
    for number in range(3):
        write(tmp_path / "one" / f"{number}.png", camera(scene[None], torch.Generator().manual_seed(number))[0])
    found = evaluate_bursts({"smoother": smoother}, tmp_path)
    assert found.psnr["smoother"][0] == pytest.approx(truth(smoother, tmp_path / "one", scene), abs=0.2)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (lambda s: [noisy(s, 0)], "two frames or more"),
        (lambda s: [noisy(s, 0), noisy(s[:, :, :128], 1)], "must have one size, got 128 x 192, 192 x 192"),
        (lambda s: [noisy(s, 0), noisy(s.flip(2), 1)], "different scenes"),
        (lambda s: [noisy(s, 0), noisy(0.6 * s, 1)], "differs by a factor of 1.67"),
        (lambda s: [noisy(s, 0), noisy(s.roll(9, 2), 1)], "shifted by .* use a tripod"),
        (lambda s: [noisy(s, 0), noisy(torch.cat([s[:, :, :96], s[:, :, 96:].roll(12, 1)], 2), 1)], "moves"),
    ],
)
def test_what_is_no_burst_is_left_out_by_name(tmp_path, scene, smoother, frames, message):
    for number, frame in enumerate(frames(scene)):
        write(tmp_path / "odd" / f"{number}.png", frame)
    with pytest.raises(ConfigurationError, match=message):
        evaluate_bursts({}, tmp_path)
    for number in range(2):
        write(tmp_path / "good" / f"{number}.png", noisy(scene, number))
    found = evaluate_bursts({}, tmp_path)
    assert found.bursts == ("good",)
    assert list(found.skipped) == ["odd"]
    assert "skipped: odd: " in found.report()


def test_a_folder_without_bursts_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="`bursts` must be a folder of folders"):
        evaluate_bursts({}, tmp_path)
