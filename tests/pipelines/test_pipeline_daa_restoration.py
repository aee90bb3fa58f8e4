"""The pipeline over every kind of restorer: strength, self-ensemble, batches, callbacks and half precision."""

import doctest
import logging

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.callbacks import PipelineCallback
from torch import nn

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, FastRestorationUNet, RestorationUNet
from daa_diffusers.pipelines import pipeline_daa_restoration
from daa_diffusers.pipelines.image_processor import Photo, pad_to_multiple
from daa_diffusers.pipelines.run import DEFAULT_BATCH_PIXELS, plan_batches

from .conftest import gentle, pil
from .contract import PipelineContract, photo


class TestRestorationUNet(PipelineContract):
    def build(self):
        return gentle(RestorationUNet(width=4, depth=3))


class TestFastRestorationUNet(PipelineContract):
    def build(self):
        return FastRestorationUNet(widths=(4, 6), blocks=(1, 1), value_range=[-1, 1])


class TestSignedRange(PipelineContract):
    def build(self):
        return gentle(RestorationUNet(width=4, depth=4, value_range=[-1, 1]))


class TestGrayRestorer(PipelineContract):
    def build(self):
        return gentle(RestorationUNet(channels=1, width=4, depth=2))


class Sharpen(nn.Module):
    """A module that knows nothing of this package: no config, no size_multiple, statistics of its batch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        nn.init.normal_(self.conv.weight, std=0.03)

    def forward(self, x):
        return x.add_(self.norm(self.conv(x)))  # in place: must not reach the caller's pixels


class TestPlainModule(PipelineContract):
    saveable = False

    def build(self):
        return Sharpen()


def test_a_restorer_that_gives_nan_is_reported_with_the_photo():
    restorer = RestorationUNet(width=4, depth=1)
    with torch.no_grad():
        restorer.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="`restorer` returned NaN or infinite pixels for photo 0, 1$"):
        DAARestorationPipeline(restorer)([photo(4, 4)] * 2)


def test_restored_pixels_are_clamped_not_wrapped():
    restorer = RestorationUNet(width=4, depth=1)
    with torch.no_grad():
        restorer.conv_out.bias.copy_(torch.tensor([3.0, -3.0, 0.0]))
        restorer.conv_out.weight.zero_()
    pipe = DAARestorationPipeline(restorer)
    for array in (photo(8, 8), photo(8, 8).astype(np.uint16) * 257, photo(8, 8) / 255):
        restored = pipe(array, output_type="np").images[0]
        assert (restored[:, :, 0] == (1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max)).all()
        assert (restored[:, :, 1] == 0).all()
        assert np.allclose(restored[:, :, 2], array[:, :, 2])


def test_padding_reflects():
    """A 3x3 mean sees the mirrored neighbor beyond the border, so a constant slope stays close to itself."""

    class Mean(nn.Module):
        size_multiple = 8

        def forward(self, x):
            assert x.shape[2] % 8 == 0 and x.shape[3] % 8 == 0
            return nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    column = torch.linspace(0, 1, 13)[:, None].expand(13, 13)
    restored = DAARestorationPipeline(Mean())(column[None], output_type="pt").images[0, 0]
    assert torch.allclose(restored[12, 5], (2 * column[11, 0] + column[12, 0]) / 3)
    single = DAARestorationPipeline(Mean())(torch.full((1, 1, 1), 0.25), output_type="pt").images
    assert torch.allclose(single, torch.tensor(0.25))


# --- strength and self-ensemble ---


def test_strength_is_a_share_of_the_change(pipe):
    degraded = photo(40, 50) / 255
    full = pipe(degraded, output_type="np").images
    for strength in (0.3, 0.5, 1):
        part = pipe(degraded, output_type="np", strength=strength).images
        inside = (full > 0) & (full < 1)  # elsewhere the share comes before the clamp
        np.testing.assert_allclose(part[inside], (degraded + strength * (full - degraded))[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_no_strength_is_the_photo_itself(pipe, dtype, channels):
    degraded = np.random.default_rng(0).random((20, 30, channels))
    degraded = degraded if dtype == np.float64 else (degraded * np.iinfo(dtype).max).astype(dtype)
    copy = degraded.copy()
    images = pipe(degraded, output_type="np", strength=0).images
    assert np.array_equal(images[0], degraded) and not np.may_share_memory(images, degraded)
    alone = pipe([degraded], output_type="pt", strength=0.0).images[0]
    alone.zero_()
    assert np.array_equal(degraded, copy)


def test_a_little_strength_leaves_alpha(pipe):
    image = pil("RGBA")
    restored = np.array(pipe(image, strength=0.2).images[0])
    assert np.array_equal(restored[:, :, 3], np.array(image)[:, :, 3])
    assert not np.array_equal(restored[:, :, :3], np.array(image)[:, :, :3])


@pytest.mark.parametrize("size", [(40, 64), (33, 50)])
def test_the_self_ensemble_is_the_mean_over_flips_and_turns(pipe, size):
    degraded = torch.rand(3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    degraded = 0.3 + 0.4 * degraded  # away from the clamp
    height, width = size[0] + -size[0] % 4, size[1] + -size[1] % 4
    padded = pad_to_multiple(degraded[None], 4)[0]
    views = []
    for turns in range(4):
        for mirrored in (False, True):
            view = torch.rot90(padded.flip(2) if mirrored else padded, turns, (1, 2))
            back = torch.rot90(pipe(view, output_type="pt").images[0], -turns, (1, 2))
            views.append(back.flip(2) if mirrored else back)
    expected = torch.stack(views).mean(0)
    assert expected.shape == (3, height, width) and (views[0] - views[3]).abs().max() > 0.01
    together = pipe(degraded, output_type="pt", self_ensemble=True).images[0]
    torch.testing.assert_close(together, expected[:, : size[0], : size[1]], rtol=0, atol=1e-5)
    turned = pipe(padded.rot90(1, (1, 2)), output_type="pt", self_ensemble=True).images[0]
    upright = pipe(padded, output_type="pt", self_ensemble=True).images[0]
    torch.testing.assert_close(turned.rot90(-1, (1, 2)), upright, rtol=0, atol=1e-5)


def test_the_self_ensemble_of_photos_that_overflow_in_float16():
    restorer = overflowing().eval()
    bright = np.full((8, 8, 3), 250, np.uint8)
    pipe = DAARestorationPipeline(restorer)
    expected = pipe(bright, output_type="np", self_ensemble=True).images
    restorer.to(torch.float16)
    restored = pipe(bright, output_type="np", self_ensemble=True).images
    assert np.abs(restored.astype(int) - expected.astype(int)).max() <= 1


# --- batches ---


def test_the_default_batch_is_about_a_megapixel(pipe):
    small, large = Photo(torch.zeros(3, 512, 1024)), Photo(torch.zeros(1, 2048, 2048))
    assert DEFAULT_BATCH_PIXELS == 1024**2
    photos = dict(enumerate([small, large, small, small, large]))
    assert [[*batch] for batch in plan_batches(photos, None)] == [[0, 2], [3], [1], [4]]
    assert [[*batch] for batch in plan_batches(photos, 3)] == [[0, 2, 3], [1, 4]]


def test_batches_inside_a_list_count_as_their_photos(pipe):
    batch = torch.rand(2, 3, 8, 8)
    images = pipe([batch, batch[0]], output_type="pt").images
    assert [tuple(image.shape) for image in images] == [(3, 8, 8)] * 3
    torch.testing.assert_close(images[0], images[2], rtol=0, atol=1e-5)


def test_diffusers_own_callback_class_says_what_it_needs(pipe):
    class Count(PipelineCallback):
        tensor_inputs = ["indices"]
        seen: list = []

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            self.seen.append((step_index, sorted(callback_kwargs)))
            return callback_kwargs

    callback = Count()
    pipe([photo(4, 4), photo(5, 5)], callback_on_step_end=callback)
    assert callback.seen == [(0, ["indices"]), (1, ["indices"])]


# --- float16 ---


def overflowing() -> RestorationUNet:
    """In float16, photos with a bright red corner overflow inside this restorer; its result is finite."""
    restorer = RestorationUNet(width=4, depth=1)
    with torch.no_grad():
        restorer.down_blocks[0].conv1.weight[0].zero_()[0, 1, 1] = 60000.0
        restorer.down_blocks[0].conv2.weight[0].zero_()[0, 1, 1] = 2.0
        restorer.conv_out.weight.mul_(0.1)[:, 0].zero_()
    return restorer


def test_float16_falls_back_to_float32_for_the_photo_that_overflows(caplog):
    restorer = overflowing().eval()
    dark, bright = photo(8, 8) // 4, np.full((8, 8, 3), 250, np.uint8)
    pipe = DAARestorationPipeline(restorer)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe([dark, bright], output_type="np").images
    restorer.to(torch.float16)
    weights = [parameter.clone() for parameter in restorer.parameters()]
    pointers = [parameter.data_ptr() for parameter in restorer.parameters()]

    with caplog.at_level(logging.WARNING, logger="daa_diffusers"):
        fine = pipe(dark, output_type="np").images[0]
        restored = pipe([dark, bright], output_type="np").images
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("daa_diffusers")]
    assert messages == ["float16 overflowed in photo 1; restoring it again in float32"]
    assert np.array_equal(restored[0], fine)  # the photo that did not overflow is the float16 one
    assert np.abs(restored[1].astype(int) - expected[1].astype(int)).max() <= 1
    assert np.abs(restored[0].astype(int) - expected[0].astype(int)).max() <= 2
    assert {parameter.dtype for parameter in restorer.parameters()} == {torch.float16}
    assert all(torch.equal(a, b) for a, b in zip(weights, restorer.parameters(), strict=True))
    assert pointers == [parameter.data_ptr() for parameter in restorer.parameters()]


def test_the_weights_are_float16_again_when_the_second_try_fails():
    restorer = overflowing().to(torch.float16)
    with torch.no_grad():
        restorer.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="for photo 0"):
        DAARestorationPipeline(restorer)(photo(4, 4))
    assert {parameter.dtype for parameter in restorer.parameters()} == {torch.float16}


def test_the_predictor_and_the_scheduler_come_along_when_asked_for(tmp_path):
    unet = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
    scheduler = DDPMScheduler(beta_start=1e-6, beta_end=1e-2)
    DAARestorationPipeline(RestorationUNet(width=4, depth=1), unet, scheduler).save_pretrained(tmp_path)
    plain = DAARestorationPipeline.from_pretrained(tmp_path)
    assert plain.unet is None and plain.scheduler is None
    whole = DAARestorationPipeline.from_pretrained(tmp_path, load_noise_predictor=True)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), whole.unet.parameters(), strict=True))
    assert isinstance(whole.scheduler, DDPMScheduler) and whole.scheduler.config.beta_start == 1e-6
    mine = DAARestorationPipeline.from_pretrained(tmp_path, unet=unet)
    assert mine.unet is unet and mine.scheduler is None


def test_the_example_of_the_docstring_runs():
    result = doctest.testmod(pipeline_daa_restoration)
    assert (result.attempted, result.failed) == (4, 0)
