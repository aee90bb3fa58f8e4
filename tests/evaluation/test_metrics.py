"""PSNR and SSIM against scikit-image and torchmetrics, on real photos, over kinds, shapes and dtypes."""

import math

import numpy as np
import pytest
import skimage.color
import skimage.data
import skimage.metrics
import torch
import torchmetrics.functional.image as tmf
from hypothesis import given, settings
from hypothesis import strategies as st

from daa_diffusers.evaluation import psnr, ssim


def photo(height=60, width=84):
    return skimage.data.astronaut()[40 : 40 + height, 180 : 180 + width]  # (H, W, 3) uint8


def noisy(clean, sigma=20.0, seed=0):
    drawn = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return (clean + drawn).clip(0, 255).round().astype(np.uint8)


def as_tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def skimage_ssim(restored, clean, data_range, channel_axis=-1):
    return skimage.metrics.structural_similarity(
        clean,
        restored,
        data_range=data_range,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=channel_axis,
    )


@pytest.mark.parametrize("size", [(11, 11), (60, 84), (97, 33)])
@pytest.mark.parametrize("sigma", [0.5, 20.0, 90.0])
def test_uint8_arrays_equal_skimage(size, sigma):
    clean = photo(*size)
    restored = noisy(clean, sigma)
    assert float(psnr(restored, clean)) == pytest.approx(
        skimage.metrics.peak_signal_noise_ratio(clean, restored, data_range=255), abs=1e-4
    )
    assert float(ssim(restored, clean)) == pytest.approx(skimage_ssim(restored, clean, 255), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_float_tensors_equal_skimage(dtype):
    clean = photo()
    pair = [(as_tensor(image).double() / 255).to(dtype) for image in (noisy(clean), clean)]
    arrays = [one.double().numpy() for one in pair]
    expected = skimage.metrics.peak_signal_noise_ratio(arrays[1], arrays[0], data_range=1.0)
    assert float(psnr(*pair)) == pytest.approx(expected, abs=1e-4)
    assert float(ssim(*pair)) == pytest.approx(skimage_ssim(*arrays, 1.0, channel_axis=0), abs=1e-4)


def test_batches_equal_torchmetrics_and_single_images():
    clean = torch.stack([as_tensor(photo()), as_tensor(skimage.data.coffee()[:60, :84])]).double() / 255
    restored = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    ours = psnr(restored, clean)
    expected = tmf.peak_signal_noise_ratio(restored, clean, data_range=1.0, reduction="none", dim=(1, 2, 3))
    assert ours.shape == (2,) and ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    similar = ssim(restored, clean)
    for index in range(2):
        assert psnr(restored[index], clean[index]).shape == ()
        torch.testing.assert_close(psnr(restored[index], clean[index]), ours[index], atol=1e-9, rtol=0)
        torch.testing.assert_close(ssim(restored[index], clean[index]), similar[index], atol=1e-9, rtol=0)


def test_uint16_and_big_endian_arrays_count_as_the_same_photo():
    clean, restored = photo(), noisy(photo())
    deep = [image.astype(np.uint16) * 257 for image in (restored, clean)]
    swapped = [image.astype(">u2") for image in deep]
    for pair in (deep, swapped):
        assert float(psnr(*pair)) == pytest.approx(float(psnr(restored, clean)), abs=1e-9)


def test_gray_images_of_either_kind():
    clean, restored = photo()[..., 0], noisy(photo())[..., 0]
    expected = skimage.metrics.peak_signal_noise_ratio(clean, restored, data_range=255)
    assert float(psnr(restored, clean)) == pytest.approx(expected, abs=1e-4)
    assert float(psnr(as_tensor(restored[..., None]), as_tensor(clean[..., None]))) == pytest.approx(expected, abs=1e-4)
    assert float(ssim(restored, clean)) == pytest.approx(skimage_ssim(restored, clean, 255, None), abs=1e-4)


def test_y_is_matlabs_studio_range_luma():
    clean, restored = photo(), noisy(photo())
    luma = [skimage.color.rgb2ycbcr(image)[..., 0] for image in (restored, clean)]  # 16..235
    expected = skimage.metrics.peak_signal_noise_ratio(luma[1], luma[0], data_range=255)
    assert float(psnr(restored, clean, color="y")) == pytest.approx(expected, abs=1e-4)
    assert float(ssim(restored, clean, color="y")) == pytest.approx(skimage_ssim(*luma, 255, None), abs=1e-4)
    black, white = np.zeros((4, 4, 3)), np.ones((4, 4, 3))
    assert float(psnr(white, black, color="y")) == pytest.approx(-20 * math.log10(219 / 255), abs=1e-6)


def test_values_outside_the_range_are_clamped_in_restored():
    clean = as_tensor(photo()).double() / 255
    restored = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert float(psnr(restored, clean)) == float(psnr(restored.clamp(0, 1), clean))
    assert float(psnr(torch.full_like(clean, math.inf), clean)) == float(psnr(torch.ones_like(clean), clean))


def test_as_uint8_scores_what_a_saved_file_would():
    clean = as_tensor(photo()).double() / 255
    restored = clean + 0.01 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    saved = (restored.clamp(0, 1) * 255).round().to(torch.uint8)
    original = (clean * 255).round().to(torch.uint8)
    for metric in (psnr, ssim):
        assert float(metric(restored, clean, as_uint8=True)) == pytest.approx(float(metric(saved, original)), abs=1e-6)
    assert float(psnr(restored, clean)) != pytest.approx(float(psnr(saved, original)), abs=1e-4)


def test_data_range_names_white():
    clean, restored = photo().astype(np.float32), noisy(photo()).astype(np.float32)
    assert float(psnr(restored, clean, data_range=255)) == pytest.approx(
        float(psnr(restored / 255, clean / 255)), abs=1e-4
    )


@pytest.mark.filterwarnings("error")
def test_read_only_and_mirrored_arrays():
    clean, restored = photo().copy(), noisy(photo())
    clean.setflags(write=False)  # as np.asarray gives it for a PIL image
    assert float(psnr(restored[::-1], clean[::-1])) == pytest.approx(float(psnr(restored, clean)), abs=1e-9)


def test_identical_images():
    clean = photo()
    assert float(psnr(clean, clean)) == math.inf
    assert float(ssim(clean, clean)) == 1.0
    assert psnr(np.stack([clean, noisy(clean)]), np.stack([clean, clean])).isinf().tolist() == [True, False]


def test_ssim_is_right_where_float32_cancels_most():
    clean = np.full((40, 40, 3), 0.999) - 1e-3 * np.random.default_rng(0).random((40, 40, 3))
    restored = clean - 1e-3 * np.random.default_rng(1).random((40, 40, 3))
    assert float(ssim(restored, clean)) == pytest.approx(skimage_ssim(restored, clean, 1.0), abs=1e-4)


def test_scores_keep_no_graph_and_leave_the_inputs_alone():
    clean = as_tensor(photo()).float() / 255
    restored = (clean + 0.1).requires_grad_()
    before = restored.detach().clone()
    assert not psnr(restored, clean).requires_grad and not ssim(restored, clean).requires_grad
    assert torch.equal(restored.detach(), before)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 20), width=st.integers(1, 20), offset=st.integers(1, 200), channels=st.sampled_from([1, 3])
)
def test_a_constant_offset_has_the_psnr_of_its_size(height, width, offset, channels):
    clean = np.zeros((height, width, channels), np.uint8)
    assert float(psnr(clean + np.uint8(offset), clean)) == pytest.approx(20 * math.log10(255 / offset), abs=1e-9)


GRAY = np.zeros((16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("restored", "clean", "options", "error", "message"),
    [
        (GRAY[:8], GRAY, {}, ValueError, r"one shape, got \(8, 16, 3\) and \(16, 16, 3\)"),
        (GRAY[None], GRAY, {}, ValueError, "one shape"),
        (GRAY, GRAY[..., 0], {}, ValueError, "one shape"),
        (GRAY / 255.0, GRAY, {}, ValueError, "of one type, got torch.float64, torch.uint8"),
        (GRAY, GRAY.astype(np.uint16), {}, ValueError, "of one type"),
        (GRAY.astype(np.int64), GRAY, {}, TypeError, "`restored` must be uint8, uint16 or floating point"),
        (GRAY, GRAY > 0, {}, TypeError, "`clean` must be uint8, uint16 or floating point"),
        (GRAY, [[0, 1]], {}, TypeError, "`clean` must be a torch tensor or numpy array, got list"),
        (np.zeros((16, 16, 4)), np.zeros((16, 16, 4)), {}, ValueError, r"`restored` must be \(H, W\).*\(16, 16, 4\)"),
        (torch.zeros(16, 16, 3), torch.zeros(16, 16, 3), {}, ValueError, r"\(C, H, W\) or \(B, C, H, W\)"),
        (torch.zeros(16, 16), torch.zeros(16, 16), {}, ValueError, r"\(C, H, W\)"),
        (GRAY[:0], GRAY[:0], {}, ValueError, "at least one pixel"),
        (np.full((16, 16, 3), np.nan), GRAY / 1.0, {}, ValueError, "`restored` must not hold NaN, got 768 of 768"),
        (GRAY / 1.0, np.full((16, 16, 3), np.nan), {}, ValueError, "`clean` must not hold NaN"),
        (GRAY / 1.0, GRAY - 1.0, {}, ValueError, r"`clean` must lie in \[0, 1\], got \[-1, -1\]"),
        (GRAY / 1.0, GRAY + 200.0, {}, ValueError, "value of white with `data_range`"),
        (GRAY, GRAY + 9, {"data_range": 1.0}, ValueError, r"`clean` must lie in \[0, 1\], got \[9, 9\]"),
        (GRAY, GRAY, {"data_range": 0}, ValueError, "`data_range` must be positive"),
        (GRAY, GRAY, {"data_range": math.nan}, ValueError, "`data_range` must be positive"),
        (GRAY, GRAY, {"color": "lab"}, ValueError, "`color` must be"),
        (GRAY[..., 0], GRAY[..., 0], {"color": "y"}, ValueError, "three channels"),
    ],
)
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_input_is_named(metric, restored, clean, options, error, message):
    with pytest.raises(error, match=message):
        metric(restored, clean, **options)


@pytest.mark.parametrize("size", [(10, 40), (40, 10)])
def test_ssim_needs_room_for_its_window(size):
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        ssim(photo(*size), photo(*size))


def test_ssim_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics.functional.image", None)
    with pytest.raises(ImportError, match="pip install torchmetrics"):
        ssim(GRAY, GRAY)
    assert float(psnr(GRAY, GRAY)) == math.inf
