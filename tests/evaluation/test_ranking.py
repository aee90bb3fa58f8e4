"""The noise predictor as a critic: a fixed function of the photo, and what it cannot look at is said."""

import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation.ranking import patches, prediction_error, rank_photos

QUICK = {"noise_levels": (0.8, 0.4), "seeds": 1}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
    return DAAUNet2DConditionModel(**sizes).eval()


@pytest.fixture(scope="module")
def pipeline(unet):
    torch.manual_seed(1)
    pipeline = DAARestorationPipeline(RestorationUNet(width=4, depth=2), unet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def folder(tmp_path):
    draws = np.random.default_rng(0)
    (tmp_path / "photos" / "below").mkdir(parents=True)
    for name, size in (("a.png", (40, 56, 3)), ("below/b.png", (150, 70)), ("c.png", (1, 1, 3))):
        Image.fromarray(draws.integers(0, 256, size, np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_the_score_is_the_mean_error_of_the_predicted_noise(unet):
    """Eq. (1) and (2), written out for a photo of one patch."""
    photo = torch.rand(3, 32, 32)
    q = (2 * photo - 1)[None]
    errors = []
    from daa_diffusers.degradations.draws import generator_for

    for level, g in enumerate(QUICK["noise_levels"]):
        noise = torch.randn(q.shape, generator=generator_for(0, "rank", level))
        z = g**0.5 * q + (1 - g) ** 0.5 * noise
        with torch.no_grad():
            predicted = unet(torch.cat([z, q, q], 1), g).sample
        errors.append(float((predicted - noise).square().mean()))
    found = prediction_error(unet, photo, value_range=(-1, 1), **QUICK)
    assert found == pytest.approx(sum(errors) / 2, rel=1e-5)


def test_photos_are_ranked_farthest_first_whatever_else_is_there(pipeline, folder):
    ranking = rank_photos(pipeline, folder, **QUICK)
    assert set(ranking.scores) == {"a.png", "below/b.png", "c.png"} and ranking.skipped == {}
    values = list(ranking.scores.values())
    assert values == sorted(values, reverse=True) and len(set(values)) == 3
    torch.rand(7)  # the global generator takes no part
    shutil.rmtree(folder / "below")
    assert rank_photos(pipeline, folder, **QUICK).scores == {
        name: score for name, score in ranking.scores.items() if name != "below/b.png"
    }


def test_restored_photos_are_taken_as_they_are(pipeline, folder):
    from daa_diffusers.photos.reading import read_photo, to_float

    scores = rank_photos(pipeline, folder, restored=True, **QUICK).scores
    own = prediction_error(pipeline.unet, to_float(read_photo(folder / "a.png")), **QUICK)
    assert scores["a.png"] == own
    assert scores["a.png"] != rank_photos(pipeline, folder, **QUICK).scores["a.png"]


def test_against_the_input_is_the_difference_that_the_conditions_make(pipeline, folder):
    from daa_diffusers.evaluation.folders import restore
    from daa_diffusers.photos.reading import read_photo, to_float

    photo = to_float(read_photo(folder / "a.png"))
    q = restore(pipeline, photo)
    wanted = prediction_error(pipeline.unet, q, photo, **QUICK) - prediction_error(pipeline.unet, q, q, **QUICK)
    assert rank_photos(pipeline, folder, against_input=True, **QUICK).scores["a.png"] == wanted != 0
    with pytest.raises(ConfigurationError, match="`against_input` needs unrestored photos"):
        rank_photos(pipeline, folder, restored=True, against_input=True)


def test_a_predictor_in_training_mode_is_left_so_and_drops_nothing(unet):
    photo = torch.rand(3, 32, 32)
    score = prediction_error(unet, photo, **QUICK)
    unet.train()
    try:
        assert prediction_error(unet, photo, **QUICK) == score and unet.training
    finally:
        unet.eval()


def test_a_broken_photo_is_passed_over_and_named(pipeline, folder, caplog):
    (folder / "broken.jpg").write_bytes(b"no photo")
    with caplog.at_level(logging.WARNING):
        ranking = rank_photos(pipeline, folder, **QUICK)
    assert list(ranking.skipped) == ["broken.jpg"] and "broken.jpg" not in ranking.scores
    assert "broken.jpg" in caplog.text


@pytest.mark.parametrize(
    ("height", "width", "count", "shape"),
    [
        (64, 64, 1, (64, 64)),
        (65, 64, 2, (64, 64)),
        (1000, 2000, 16, (64, 64)),
        (10, 200, 4, (10, 64)),
        (1, 1, 1, (1, 1)),
    ],
)
def test_patches_are_spread_from_border_to_border(height, width, count, shape):
    photo = torch.arange(height * width).float().view(1, height, width)
    found = patches(photo)
    assert found.shape == (count, 1, *shape)
    assert found[0, 0, 0, 0] == 0 and found[-1, 0, -1, -1] == height * width - 1


def test_what_cannot_be_is_refused(pipeline, folder, tmp_path):
    with pytest.raises(ConfigurationError, match="must have a noise predictor: train with `save_noise_predictor`"):
        rank_photos(DAARestorationPipeline(pipeline.restorer), folder)
    with pytest.raises(ConfigurationError, match="`noise_levels` must be numbers in"):
        rank_photos(pipeline, folder, noise_levels=[1.0])
    with pytest.raises(ConfigurationError, match="`seeds` must be a whole number, at least 1, got 0"):
        rank_photos(pipeline, folder, seeds=0)
    with pytest.raises(ConfigurationError, match="must be an existing folder"):
        rank_photos(pipeline, tmp_path / "none")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="none of the 1 photos can be read"):
        rank_photos(pipeline, tmp_path / "broken", **QUICK)
