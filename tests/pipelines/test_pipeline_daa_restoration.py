"""The pipeline over every kind of restorer, and what only it does: errors, alpha, bit depth, float16."""

import doctest
import logging

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.callbacks import PipelineCallback
from diffusers.utils.logging import enable_progress_bar, is_progress_bar_enabled
from torch import nn

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, FastRestorationUNet, RestorationUNet
from daa_diffusers.errors import CheckpointError
from daa_diffusers.pipelines import pipeline_daa_restoration
from daa_diffusers.pipelines.image_processor import Photo, pad_to_multiple
from daa_diffusers.pipelines.run import DEFAULT_BATCH_PIXELS, plan_batches

from .contract import PipelineContract, photo


def gentle(restorer: RestorationUNet) -> RestorationUNet:
    """Scales the residual down: random weights would restore every photo to black and white."""
    with torch.no_grad():
        restorer.conv_out.weight.mul_(0.1)
    return restorer


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


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    pipe = DAARestorationPipeline(gentle(RestorationUNet(width=4, depth=3)).eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- bad input ---


BAD_PHOTOS = {
    "empty list": ([], ValueError, r"`image` must hold at least one photo, got an empty list"),
    "file name": ("photo.png", TypeError, r"`image` must be a PIL image.*got builtins.str; open the file first"),
    "None": (None, TypeError, r"`image` must be .*NoneType"),
    "None in a list": ([photo(4, 4), None], TypeError, r"`image\[1\]` must be"),
    "mixed kinds": ([photo(4, 4), torch.rand(3, 4, 4)], TypeError, "one kind, got numpy arrays and torch tensors"),
    "rank 1": (np.zeros(3, np.uint8), ValueError, r"\(H, W\), \(H, W, C\) or \(B, H, W, C\), got shape \(3,\)"),
    "rank 2 tensor": (torch.rand(4, 4), ValueError, r"\(C, H, W\) or \(B, C, H, W\), got shape \(4, 4\)"),
    "rank 5": (torch.rand(1, 1, 3, 4, 4), ValueError, r"`image` must be a tensor \(C, H, W\)"),
    "channels first array": (
        np.zeros((3, 8, 9), np.uint8),
        ValueError,
        r"1 or 3 channels on its last axis.*\(3, 8, 9\)",
    ),
    "channels last tensor": (torch.rand(8, 9, 3), ValueError, r"1 or 3 channels on its third last axis"),
    "five channels": (np.zeros((8, 9, 5), np.uint8), ValueError, r"`image` must have 1 or 3 channels"),
    "two channel tensor": (torch.rand(2, 2, 8, 9), ValueError, r"1 or 3 channels .*without alpha.*\(2, 2, 8, 9\)"),
    "four channel tensor": (torch.rand(4, 8, 9), ValueError, r"1 or 3 channels"),
    "no height": (np.zeros((0, 4, 3), np.uint8), ValueError, r"`image` must have pixels, got .*\(0, 4, 3\)"),
    "no photos": (torch.rand(0, 3, 4, 4), ValueError, r"`image` must have pixels, got .*\(0, 3, 4, 4\)"),
    "PIL without pixels": (
        PIL.Image.new("RGB", (0, 4)),
        ValueError,
        r"must have pixels, got a PIL image of size \(0, 4\)",
    ),
    "NaN": (np.full((4, 4, 3), np.nan, np.float32), ValueError, r"`image` must be finite, got NaN or infinite"),
    "infinity in a list": (
        [torch.rand(3, 4, 4), torch.full((3, 4, 4), torch.inf)],
        ValueError,
        r"`image\[1\]` must be finite",
    ),
    "above one": (
        torch.full((3, 4, 4), 1.5),
        ValueError,
        r"`image` of floating point must lie in \[0, 1\], got 1.5 to 1.5",
    ),
    "0 to 255 as float": (photo(4, 4).astype(np.float32), ValueError, r"must lie in \[0, 1\]"),
    "below zero": (np.full((4, 4), -0.01), ValueError, r"must lie in \[0, 1\], got -0.01 to"),
    "alpha above one": (
        np.dstack([np.ones((4, 4, 3)), np.full((4, 4), 2.0)]),
        ValueError,
        "alpha of `image`.*got 2 to 2",
    ),
    "int64": (np.zeros((4, 4, 3), np.int64), TypeError, r"`image` must be uint8, uint16 or floating point.*got int64"),
    "bool": (np.zeros((4, 4, 3), bool), TypeError, r"got bool"),
    "int32 tensor": (torch.zeros(3, 4, 4, dtype=torch.int32), TypeError, r"got torch.int32"),
    "complex": (np.zeros((4, 4), complex), TypeError, r"got complex128"),
    "CMYK": (PIL.Image.new("CMYK", (4, 4)), ValueError, r"PIL modes .*got CMYK; convert it first.*ImageCms"),
    "float PIL": (PIL.Image.new("F", (4, 4)), ValueError, r"PIL modes .*got F"),
    "too deep PIL": (
        PIL.Image.new("I", (4, 4), 70000),
        ValueError,
        r"mode I must hold 16-bit values, got 70000 to 70000",
    ),
}


@pytest.mark.parametrize("case", BAD_PHOTOS)
def test_a_bad_photo_is_named_with_what_would_be_right(pipe, case):
    image, error, message = BAD_PHOTOS[case]
    with pytest.raises(error, match=message):
        pipe(image, output_type="np")


def test_nothing_is_restored_before_every_photo_is_checked(pipe):
    calls = []
    with pytest.raises(ValueError, match=r"`image\[2\]` must be finite"):
        pipe(
            [np.ones((4, 4)), np.ones((4, 4)), np.full((4, 4), np.inf)],
            callback_on_step_end=lambda *arguments: calls.append(arguments),
        )
    assert calls == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_type": "latent"}, ValueError, r"`output_type` must be one of \['pil', 'np', 'pt'\], got 'latent'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a positive integer or None, got 0"),
        ({"batch_size": 1.5}, ValueError, "`batch_size` must be a positive integer"),
        ({"strength": 1.5}, ValueError, r"`strength` must be a number from 0 \(the photo itself\) to 1, got 1.5"),
        ({"strength": float("nan")}, ValueError, "`strength` must be a number"),
        ({"strength": "half"}, ValueError, "`strength` must be a number"),
        ({"callback_on_step_end": 3}, TypeError, "`callback_on_step_end` must be callable, got int"),
        (
            {"callback_on_step_end_tensor_inputs": ["latents"]},
            ValueError,
            r"`callback_on_step_end_tensor_inputs` must be of \['restored', 'indices'\], got \['latents'\]",
        ),
    ],
)
def test_a_bad_option_is_named_with_what_would_be_right(pipe, options, error, message):
    with pytest.raises(error, match=message):
        pipe(photo(4, 4), **options)


def test_a_restorer_must_be_a_module_that_keeps_the_shape():
    with pytest.raises(TypeError, match="`restorer` must be a torch.nn.Module, got function"):
        DAARestorationPipeline(gentle)
    for wrong in (nn.MaxPool2d(2), nn.LSTM(4, 4)):
        pipe = DAARestorationPipeline(nn.Sequential(nn.Flatten(0, 1), wrong) if isinstance(wrong, nn.LSTM) else wrong)
        with pytest.raises(
            ValueError, match=r"`restorer` must return a tensor of its input's shape \(1, 3, 4, 4\), got"
        ):
            pipe(photo(4, 4))


def test_a_restorer_that_gives_nan_is_reported_with_the_photo():
    restorer = RestorationUNet(width=4, depth=1)
    with torch.no_grad():
        restorer.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="`restorer` gave NaN or infinite pixels for photo 0, 1$"):
        DAARestorationPipeline(restorer)([photo(4, 4)] * 2)


# --- PIL modes, alpha and bit depth ---


def pil(mode: str) -> PIL.Image.Image:
    image = PIL.Image.fromarray(photo(20, 28))
    if mode == "I;16":
        return PIL.Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("I;16B", "I"):
        return pil("I;16").convert("I") if mode == "I" else PIL.Image.frombytes("I;16B", (28, 20), _big_endian())
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(PIL.Image.linear_gradient("L").resize((28, 20)))
        return image
    return image.convert(mode)


def _big_endian() -> bytes:
    return np.array(pil("I;16")).astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("mode", "restored_mode"),
    [
        ("L", "L"),
        ("1", "L"),
        ("RGB", "RGB"),
        ("P", "RGB"),
        ("YCbCr", "RGB"),
        ("LA", "LA"),
        ("RGBA", "RGBA"),
        ("RGBa", "RGBA"),
        ("I;16", "I;16"),
        ("I;16B", "I;16"),
        ("I", "I;16"),
    ],
)
def test_a_pil_mode_keeps_its_meaning(pipe, mode, restored_mode):
    image = pil(mode)
    restored = pipe(image).images[0]
    assert (restored.mode, restored.size) == (restored_mode, image.size)
    reference = image if mode in ("I", "I;16B") else image.convert(restored_mode)
    difference = np.array(restored).astype(float) - np.array(reference).astype(float)
    top = 65535 if restored_mode == "I;16" else 255
    assert 0 < np.abs(difference).mean() < 0.2 * top
    array = pipe(image, output_type="np", as_float=False).images[0]
    assert np.array_equal(array, np.array(restored))
    floats = pipe(image, output_type="np").images[0]
    assert floats.dtype == np.float32 and np.abs(floats - array / top).max() <= 0.5 / top + 1e-6


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_comes_back_untouched(pipe, mode):
    image = pil(mode)
    alpha = np.array(image)[:, :, -1]
    assert np.ptp(alpha) > 100
    assert np.array_equal(np.array(pipe(image).images[0])[:, :, -1], alpha)
    array = np.array(image).astype(np.float32) / 255
    assert np.array_equal(pipe(array, output_type="np").images[0][:, :, -1], array[:, :, -1])
    deep = np.array(image).astype(np.uint16) * 257
    assert np.array_equal(pipe(deep, output_type="np").images[0][:, :, -1], deep[:, :, -1])
    as_tensor = pipe(image, output_type="pt", as_float=False).images
    assert as_tensor.shape[1] == len(mode) and np.array_equal(as_tensor[0, -1].numpy(), alpha)
    # alpha is no input: the colors are those of the photo without it
    opaque = pipe(np.array(image)[:, :, :-1], output_type="np").images[0]
    assert np.array_equal(pipe(np.array(image), output_type="np").images[0][:, :, :-1], opaque)


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_color_becomes_alpha(pipe, mode, tmp_path):
    image = PIL.Image.new(mode, (8, 8))
    if mode == "P":
        image.putpalette([200, 100, 50, 1, 1, 1])
    image.paste(1 if mode != "RGB" else (1, 1, 1), (0, 0, 4, 8))
    image.save(tmp_path / "key.png", transparency=1 if mode != "RGB" else (1, 1, 1))
    restored = pipe(PIL.Image.open(tmp_path / "key.png")).images[0]
    assert restored.mode == ("LA" if mode == "L" else "RGBA")
    alpha = np.array(restored)[:, :, -1]
    assert (alpha[:, :4] == 0).all() and (alpha[:, 4:] == 255).all()
    restored.save(tmp_path / "restored.png")
    assert np.array_equal(np.array(PIL.Image.open(tmp_path / "restored.png")), np.array(restored))


def test_profile_and_exif_stay_with_a_pil_image(pipe, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x010F] = "A camera"
    pil("RGB").save(tmp_path / "photo.png", icc_profile=b"a profile", exif=exif, dpi=(300, 300))
    restored = pipe(PIL.Image.open(tmp_path / "photo.png")).images[0]
    restored.save(tmp_path / "restored.png", exif=restored.getexif())
    again = PIL.Image.open(tmp_path / "restored.png")
    assert again.info["icc_profile"] == b"a profile"
    assert again.getexif()[0x010F] == "A camera"


def test_sixteen_bits_are_not_eight(pipe):
    """Neighboring 16-bit levels stay apart, as they could not in 8 bits."""
    ramp = np.arange(30000, 30000 + 32 * 32, dtype=np.uint16).reshape(32, 32)
    restored = np.array(pipe(PIL.Image.fromarray(ramp)).images[0])
    assert restored.dtype == np.uint16 and len(np.unique(restored)) > 200
    assert len(np.unique(restored // 257)) < 60


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colors_do_not_fit_a_pil_image(pipe, channels):
    with pytest.raises(ValueError, match='`output_type` "pil" has 8 bits for colors.*choose "np" or "pt"'):
        pipe(np.zeros((4, 4, channels), np.uint16))


def test_bfloat16_pixels_become_float32_where_numpy_has_no_such_type(pipe):
    degraded = torch.rand(3, 8, 8).bfloat16()
    assert pipe(degraded, output_type="pt").images.dtype == torch.bfloat16
    assert pipe(degraded, output_type="np").images.dtype == np.float32


@pytest.mark.parametrize("change", ["flipped", "read-only", "big-endian", "strided"])
def test_unusual_memory_of_an_array_makes_no_difference(pipe, change):
    array = photo(16, 20).astype(np.uint16) * 257
    expected = pipe(array, output_type="np").images
    if change == "flipped":
        array = np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    elif change == "read-only":
        array = array.copy()
        array.flags.writeable = False
    elif change == "big-endian":
        array = array.astype(">u2")
    else:
        array = np.repeat(array, 2, axis=1)[:, ::2]
    assert np.array_equal(pipe(array, output_type="np").images, expected)


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


# --- saving in place ---


@pytest.fixture
def trained(tmp_path):
    """The folder of a pipeline with its noise predictor."""
    unet = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
    DAARestorationPipeline(RestorationUNet(width=4, depth=2), unet, DDPMScheduler()).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saving_in_place_keeps_the_noise_predictor_that_was_not_loaded(trained, tmp_path):
    pipe = DAARestorationPipeline.from_pretrained(trained)
    with torch.no_grad():
        pipe.restorer.conv_out.bias.add_(1)
    pipe.save_pretrained(trained)
    again = DAARestorationPipeline.from_pretrained(trained, load_noise_predictor=True)
    assert again.unet is not None and isinstance(again.scheduler, DDPMScheduler)
    assert torch.equal(again.restorer.conv_out.bias, pipe.restorer.conv_out.bias)
    again.unet = None  # taken away on purpose
    again.save_pretrained(trained)
    with pytest.raises(CheckpointError, match="holds no noise predictor"):
        DAARestorationPipeline.from_pretrained(trained, load_noise_predictor=True)
    pipe.save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="holds no noise predictor"):
        DAARestorationPipeline.from_pretrained(tmp_path / "elsewhere", load_noise_predictor=True)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_a_single_file_replace_each_other(tmp_path, variant):
    for seed, size in enumerate(("10GB", "4KB", "10GB")):
        torch.manual_seed(seed)
        pipe = DAARestorationPipeline(RestorationUNet(width=8, depth=2))
        pipe.save_pretrained(tmp_path, max_shard_size=size, variant=variant)
        loaded = DAARestorationPipeline.from_pretrained(tmp_path, variant=variant)
        saved = pipe.restorer.state_dict()
        assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.restorer.state_dict().items())


def test_a_restorer_stored_in_eight_bits_restores_in_float32():
    torch.manual_seed(0)
    pipeline = DAARestorationPipeline(RestorationUNet(width=8, depth=2))
    before = pipeline(torch.full((3, 33, 35), 0.4), output_type="pt").images
    pipeline.restorer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert pipeline.dtype == torch.float32
    after = pipeline(torch.full((3, 33, 35), 0.4), output_type="pt").images
    torch.testing.assert_close(after, before, atol=0.2, rtol=0)  # three bits of mantissa


def test_diffusers_own_class_loads_a_folder_or_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    pipeline = DAARestorationPipeline.from_pretrained("daa-denoise")
    pipeline.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path / "saved")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert type(loaded) is DAARestorationPipeline and loaded.restorer.weights_record.training
    torch.testing.assert_close(dict(loaded.restorer.state_dict()), dict(pipeline.restorer.state_dict()))
    code = tmp_path / "saved/pipeline.py"
    code.write_text(code.read_text().replace("from daa_diffusers", "from daa_diffusers_that_is_absent"))
    with pytest.raises(ImportError, match="pip install daa-diffusers"):
        DiffusionPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True)


def test_loading_shows_no_progress_bar_and_leaves_the_setting(trained, capfd):
    enable_progress_bar()  # a command that ran in this process has turned it off
    DAARestorationPipeline.from_pretrained(trained, load_noise_predictor=True)
    assert "Loading pipeline components" not in capfd.readouterr().err
    assert is_progress_bar_enabled()


def test_from_pipe_takes_no_foreign_unet_and_shares_the_adapters(pipe):
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (4,)}
    other = UNet2DModel(sample_size=8, norm_num_groups=2, layers_per_block=1, **blocks)
    foreign = DDPMPipeline(other.eval(), DDPMScheduler())
    made = DAARestorationPipeline.from_pipe(foreign, restorer=pipe.restorer)
    assert made.unet is None and made.restorer is pipe.restorer
    adapters = pipe._adapters
    assert DAARestorationPipeline.from_pipe(pipe)._adapters is adapters
