"""Guard of derainers: what was removed stays removed where it is like rain."""

import numpy as np
import pytest
import torch

from daa_diffusers import DAARestorationPipeline, FastRestorationUNet
from daa_diffusers.degradations.filtered_rain import FilteredRain
from daa_diffusers.pipelines import rain_guard
from daa_diffusers.pipelines.image_processor import Photo
from daa_diffusers.pipelines.rain_guard import undo_non_rain

SIDE = 320


def coded(values, dtype):
    return (values * 255).round().to(torch.uint8) if dtype == torch.uint8 else values.to(dtype)


@pytest.fixture(scope="module")
def clean():
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    return torch.stack([0.2 + 0.2 * x, 0.3 + 0.1 * y, 0.3 + 0.1 * x * y])


@pytest.fixture(scope="module")
def rainy(clean):
    rain = FilteredRain(cover=(0.1, 0.1), layers=(1, 1), angle=(10.0, 10.0))
    return rain(clean[None], torch.Generator().manual_seed(0))[0]


def checks():
    """Bright squares, as a pattern of a scene: light in two directions."""
    rows = torch.arange(SIDE) // 6 % 2
    return 0.5 * (rows[:, None] * rows).float()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rain_stays_removed(clean, rainy, dtype):
    restored = Photo(coded(clean, dtype).clone())
    verdict = undo_non_rain(Photo(coded(rainy, dtype)), restored)
    left = (restored.pixels.float() - coded(clean, dtype).float()).square().mean()
    assert verdict.strength == 1 and verdict.reason == "the change is like rain"
    assert left < 0.02 * (coded(rainy, dtype).float() - coded(clean, dtype).float()).square().mean()


def test_a_pattern_that_was_removed_with_the_rain_comes_back(clean, rainy):
    inside = (slice(None), slice(64, 192), slice(64, 192))
    scene, photo = clean.clone(), rainy.clone()
    scene[inside] += checks()[inside[1:]]
    photo[inside] += checks()[inside[1:]]
    restored = Photo(clean.clone())  # rain and pattern are gone
    verdict = undo_non_rain(Photo(photo), restored)
    core, outside = (slice(None), slice(80, 176), slice(80, 176)), (slice(None), slice(240, None), slice(None))
    assert verdict.strength < 0.5 and verdict.reason == "part of the change is not like rain"
    assert torch.equal(restored.pixels[core], photo[core])
    assert (restored.pixels[outside] - scene[outside]).abs().mean() < 0.1 * (photo - scene)[outside].abs().mean()


def test_strips_are_those_of_the_whole(clean, rainy, monkeypatch):
    photo = rainy + 0.3 * checks() * (torch.arange(SIDE) < 100)
    results = []
    for strip in (1, 3, 1000):
        monkeypatch.setattr(rain_guard, "STRIP", strip)
        restored = Photo(clean[:, :-3, :-5].clone())
        results.append((undo_non_rain(Photo(photo[:, :-3, :-5]), restored), restored.pixels))
    for verdict, pixels in results[1:]:
        assert verdict.strength == pytest.approx(results[0][0].strength, abs=1e-5)
        torch.testing.assert_close(pixels, results[0][1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (9, 8)])
def test_photos_of_any_size_and_no_change(size):
    photo = Photo(torch.rand(3, *size))
    restored = Photo(photo.pixels.clone())
    assert undo_non_rain(photo, restored).strength == 1
    assert torch.equal(restored.pixels, photo.pixels)


@pytest.mark.parametrize("task", ["derain", "deblur"])
def test_the_pipeline_of_a_derainer_has_it(task):
    pipe = DAARestorationPipeline(FastRestorationUNet.from_preset("fast-tiny", task=task))
    pipe.set_progress_bar_config(disable=True)
    photos = [np.full((24, 32, 3), 90, np.uint8), np.full((16, 16, 3), 40, np.uint8)]
    verdicts = pipe(photos, output_type="np", guard=True).guard
    assert verdicts is None if task == "deblur" else ["like rain" in one.reason for one in verdicts] == [True] * 2
