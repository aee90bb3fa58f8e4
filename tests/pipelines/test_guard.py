"""The guard: noise is taken out, detail stays; the verdict says so, photo by photo, through every kind of photo."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.photos.reading import list_photos, read_photo
from daa_diffusers.pipelines.guard import (
    HARMLESS,
    MAX_WINDOWS,
    WINDOW,
    Verdict,
    judge,
    neighbor_correlation,
    sample_windows,
)

from .contract import photo


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def verdict_on(residual: torch.Tensor) -> Verdict:
    """Of a gray photo from which a restorer takes this out (N, C, H, W), in 1/255."""
    gray = torch.full_like(residual, 0.5)
    return judge(gray + residual / 255, gray)


def demosaiced(rms: float) -> torch.Tensor:
    """Noise of each color apart, smoothed alike."""
    noise = draw(1, 3, 130, 130)
    smooth = noise[..., 1:, :] + noise[..., :-1, :]
    smooth = smooth[..., 1:] + smooth[..., :-1]
    return smooth * rms / smooth.std()


def detail(rms: float) -> torch.Tensor:
    """Brightness that alternates from pixel to pixel, under colors that vary slowly."""
    brightness = draw(1, 1, 128, 128) * torch.tensor([1.0, -1.0]).repeat(64)
    colors = nn.functional.interpolate(draw(1, 3, 32, 32, seed=1), scale_factor=4, mode="bilinear")
    mixed = brightness / brightness.std() + 0.5 * colors / colors.std()
    return mixed * rms / mixed.std()


# --- the verdict ---


@pytest.mark.parametrize("rms", [2.0, 6.0, 30.0])
def test_noise_of_any_camera_is_taken_out(rms):
    for noise in (rms * draw(1, 3, 128, 128), demosaiced(rms)):
        verdict = verdict_on(noise)
        assert verdict.strength == 1 and verdict.reason == "the change is like noise"
        assert verdict.change == pytest.approx(rms, rel=0.03)
        assert abs(verdict.brightness - verdict.colour) < 0.05


@pytest.mark.parametrize(("rms", "reason"), [(3.0, "clean"), (7.0, "unsuited to the restorer"), (15.0, "unsuited")])
def test_of_detail_only_a_little_is_taken_out(rms, reason):
    verdict = verdict_on(detail(rms))
    assert verdict.strength * verdict.change == pytest.approx(HARMLESS, rel=1e-3)
    assert verdict.reason.startswith(reason) and verdict.colour > 0.4 > verdict.brightness


def in_jpeg(noise: torch.Tensor, quality: int) -> torch.Tensor:
    """What is left of noise (1, 3, H, W) on gray, in 1/255, in a JPEG that stores color at half the size."""
    pixels = (128 + noise[0].permute(1, 2, 0)).clamp(0, 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as image:
        return torch.from_numpy(np.asarray(image, np.float32) - 128).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("rms", "quality"), [(12.0, 92), (30.0, 92), (30.0, 75)])
def test_noise_whose_colors_were_stored_at_half_the_size_is_taken_out(rms, quality):
    for noise in (rms * draw(1, 3, 128, 128), demosaiced(rms)):
        verdict = verdict_on(in_jpeg(noise, quality))
        assert verdict.strength == 1 and verdict.reason == "the change is like noise"


def test_where_colors_were_stored_at_half_the_size_small_changes_are_held_back():
    colors = nn.functional.interpolate(draw(1, 3, 64, 64, seed=1), scale_factor=2, mode="bilinear")
    mixed = draw(1, 1, 128, 128) + colors / colors.std()
    for rms in (2.0, 3.3):
        verdict = verdict_on(mixed * rms / mixed.std())
        assert 0.6 < verdict.colour < 0.85 and verdict.reason == "clean: the change is like detail"
        assert verdict.strength * verdict.change == pytest.approx(HARMLESS, rel=1e-3)
    assert verdict_on(mixed * 6 / mixed.std()).strength == 1


def test_between_noise_and_detail_the_strength_is_between():
    shares = [verdict_on(5 * (1 - a) * draw(1, 3, 128, 128, seed=2) + a * detail(5.0)).strength for a in (0, 0.5, 1)]
    assert shares[0] == 1 and shares[0] > shares[1] > shares[2]


def test_streaks_are_not_noise():
    streaks = nn.functional.avg_pool2d(draw(1, 1, 128, 200), (1, 41), stride=1).expand(-1, 3, -1, -1)
    streaks = streaks * 9 / streaks.std() + 0.5 * draw(1, 3, 128, 160)
    assert verdict_on(streaks).strength < 0.2


def test_a_small_change_is_harmless_whatever_it_is():
    verdict = verdict_on(detail(1.2))
    assert verdict.strength == 1 and verdict.reason == "hardly any change"
    nothing = verdict_on(torch.zeros(1, 3, 64, 64))
    assert (nothing.strength, nothing.change, nothing.colour) == (1, 0, 0)


def test_without_colors_small_changes_are_held_back():
    noise = draw(1, 1, 128, 128)
    assert verdict_on(2 * noise).strength < 0.7 and verdict_on(8 * noise).strength == 1
    assert verdict_on((2 * noise).expand(-1, 3, -1, -1)).strength == verdict_on(2 * noise).strength


def test_a_photo_of_a_few_pixels_is_restored():
    assert verdict_on(detail(3.0)[..., :31, :33]).reason == "too small to judge"
    assert verdict_on(torch.ones(1, 3, 1, 1)).strength == 1


def test_neighbors_of_smoothed_noise_hang_together_as_they_should():
    noise = draw(4, 3, 64, 4000)
    assert abs(neighbor_correlation(noise)) < 0.005
    assert neighbor_correlation(noise[..., 1:] + noise[..., :-1]) == pytest.approx(0.5, abs=0.005)
    assert neighbor_correlation(torch.ones(1, 3, 8, 8)) == 0


@pytest.mark.parametrize("size", [(1, 1), (300, 400), (5000, 9000), (100, 20_000), (513, 512)])
def test_windows_lie_in_the_photo_and_are_few(size):
    windows = sample_windows(size)
    assert len(windows) in (1, MAX_WINDOWS)
    assert len({(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in windows}) == 1
    area = 0
    for rows, columns in windows:
        assert 0 <= rows.start < rows.stop <= size[0] and 0 <= columns.start < columns.stop <= size[1]
        area += (rows.stop - rows.start) * (columns.stop - columns.start)
    assert area <= MAX_WINDOWS * WINDOW**2


# --- in the pipeline ---


class TakesOut(nn.Module):
    """Takes a given residual (1, 3, H, W), in 1/255, out of every photo."""

    def __init__(self, residual: torch.Tensor):
        super().__init__()
        self.register_buffer("residual", residual.float() / 255)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x - self.residual[..., : x.shape[2], : x.shape[3]]


def quiet(restorer: nn.Module) -> DAARestorationPipeline:
    pipe = DAARestorationPipeline(restorer.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_each_photo_gets_its_own_share_and_verdict():
    pipe = quiet(TakesOut(detail(5.0)))
    gray = np.full((128, 128, 3), 0.5, np.float32)
    result = pipe([gray, gray[:16, :16]], output_type="np", guard=True, strength=0.5)
    assert [verdict.reason[:9] for verdict in result.guard] == ["unsuited ", "too small"]
    for verdict, restored in zip(result.guard, result.images, strict=True):
        change = 255 * np.sqrt(np.square(restored - 0.5).mean())
        assert change == pytest.approx(0.5 * verdict.strength * verdict.change, rel=0.01)
    without = pipe(gray, output_type="np")
    assert without.guard is None and "guard" not in without
    images = pipe(gray, output_type="np", guard=True, return_dict=False)
    assert len(images) == 1


def test_the_guard_changes_nothing_about_noise():
    pipe = quiet(TakesOut(demosaiced(6.0)))
    degraded = photo(100, 120)
    with_guard = pipe(degraded, output_type="np", guard=True)
    assert with_guard.guard[0].strength == 1
    assert np.array_equal(with_guard.images, pipe(degraded, output_type="np").images)


@pytest.mark.parametrize(
    ("degradation", "task"), [("rain", "derain"), ("motion_blur", "deblur"), ("camera", "denoise"), (None, None)]
)
def test_what_removes_neither_noise_nor_rain_is_not_judged(tmp_path, degradation, task):
    torch.manual_seed(0)
    DAARestorationPipeline(RestorationUNet(width=8, depth=2)).save_pretrained(tmp_path)
    if degradation:
        (tmp_path / "training.json").write_text(json.dumps({"options": {"degradation": {"type": degradation}}}))
    pipe = DAARestorationPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.task == task
    assert (pipe(photo(64, 64), guard=True).guard is None) == (task == "deblur")


def test_a_damaged_record_keeps_nobody_from_restoring(tmp_path):
    DAARestorationPipeline(RestorationUNet(width=8, depth=2)).save_pretrained(tmp_path)
    (tmp_path / "training.json").write_text("{")
    pipe = DAARestorationPipeline.from_pretrained(tmp_path)
    assert pipe.task is None and len(pipe(photo(32, 32), guard=True).guard) == 1


def test_no_strength_needs_no_restorer_beyond_the_guard():
    restorer = TakesOut(detail(5.0))
    quiet(restorer)(photo(64, 64), strength=0)
    assert restorer.calls == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["color", "gray", "uint16", "alpha", "one pixel"])
def test_every_kind_of_photo_is_judged(channels, kind):
    torch.manual_seed(0)
    pipe = quiet(RestorationUNet(channels=channels, width=4, depth=2, value_range=[-1, 1]))
    array = photo(70, 90)
    given = {
        "color": array,
        "gray": array[:, :, 0],
        "uint16": array.astype(np.uint16) * 257,
        "alpha": np.dstack([array, array[:, :, 0]]),
        "one pixel": array[:1, :1],
    }[kind]
    result = pipe(given, output_type="np", guard=True)
    assert result.images[0].shape == given.shape and result.images[0].dtype == given.dtype
    verdict = result.guard[0]
    assert 0 < verdict.strength <= 1 and verdict.change > 1
    assert (verdict.colour == 0) == (kind in ("gray",)) or kind == "one pixel"


# --- the bundled restorers on real photos ---


@pytest.mark.parametrize("checkpoint", ["daa-denoise", "daa-denoise-research"])
def test_noisy_photos_are_restored_and_clean_ones_kept(data_root, checkpoint):
    pipe = DAARestorationPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    noisy = read_photo(list_photos(data_root / "real_noise/renoir/val/noisy")[0])[:192, :192]
    clean = read_photo(list_photos(data_root / "clean/bsds")[1])[:192, :192]
    result = pipe([noisy, clean], output_type="np", guard=True)
    assert result.guard[0].strength == 1
    assert psnr(result.images[1], clean) > 45


@pytest.mark.parametrize("sigma", [12, 20])
def test_noisy_jpegs_of_telephones_are_restored(data_root, sigma):
    pipe = DAARestorationPipeline.from_pretrained("daa-denoise")
    pipe.set_progress_bar_config(disable=True)
    clean = read_photo(list_photos(data_root / "clean/highres")[1])[:256, :256]
    noise = sigma * np.random.default_rng(0).standard_normal(clean.shape)
    file = io.BytesIO()
    Image.fromarray((clean + noise).clip(0, 255).round().astype(np.uint8)).save(
        file, "JPEG", quality=92, subsampling="4:2:0"
    )
    with Image.open(file) as image:
        noisy = np.asarray(image)
    restored = pipe(noisy, output_type="np", guard=True).images[0]
    assert psnr(restored, clean) > psnr(noisy, clean) + 4
    assert psnr(restored, clean) > psnr(pipe(noisy, output_type="np").images[0], clean) - 0.1
