"""Photos whose noise can be measured, and those of which none can be: clean, textured, coded, clipped."""

import io
import re
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers.degradations.camera_noise import CameraNoise
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.fitting.earlier_coding import earlier_quality, other_codec
from daa_diffusers.degradations.fitting.noise import TooStrongError, fit_noise
from daa_diffusers.degradations.fitting.suitability import Signs, share_of_impulses, signs_of, without_impulses
from daa_diffusers.degradations.jpeg_coding import chroma_sampling, jpeg, jpeg_quality

CLEAN = [
    torch.from_numpy(photo()).permute(2, 0, 1).float() / 255 for photo in (data.astronaut, data.chelsea, data.coffee)
]


def white(photo, number=0):
    return torch.randn(photo.shape, generator=generator_for(0, "test", number))


def rounded(photo):
    return (photo.clamp(0, 1) * 255).round() / 255


def write(folder, photos, suffix=".png", **options):
    folder.mkdir(exist_ok=True)
    for number, photo in enumerate(photos):
        pixels = (photo.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number:02d}{suffix}", **options)
    return folder


def noisy(sigma=15):
    return [rounded(clean + sigma / 255 * white(clean, n)) for n, clean in enumerate(CLEAN)]


@pytest.mark.parametrize("sigma", [2, 5, 25])
def test_noise_is_measured(sigma):
    for photo in noisy(sigma):
        assert signs_of(photo).unfit is None


def test_camera_noise_of_low_level_is_measured():
    camera = CameraNoise(shot=(1e-3, 1e-3), read=(1e-3, 1e-3), jpeg_probability=0)
    for number, clean in enumerate(CLEAN):
        assert signs_of(camera(clean[None], generator_for(0, number))[0]).unfit is None


def test_without_noise_nothing_is_measured():
    slope = torch.linspace(-1, 1, 128)[:, None] ** 2
    ramp = rounded(torch.linspace(0.2, 0.6, 128).expand(3, 128, 128) + 0.3 * slope)
    assert "nearly clean: noise of 0." in signs_of(rounded(ramp + 0.4 / 255 * white(ramp))).unfit
    assert signs_of(rounded(torch.linspace(0.2, 0.8, 128).expand(3, 128, 128))).unfit == "no noise"


def test_texture_has_quiet_places_and_common_colors():
    texture = Signs(7.0, 0.25, 0.9, 0.05, is_coarse=False, is_hidden=False, impulses=0.0, bands=None)
    assert "texture" in texture.unfit
    assert replace(texture, floor=0.6).unfit is None  # noise, which is everywhere
    assert "texture" in replace(texture, colors=0.45).unfit  # as in cloth, whose colors differ
    assert replace(texture, colors=0.45, floor=0.4).unfit is None
    assert replace(texture, colors=0.2).unfit is None  # noise of each color apart, whose level follows the brightness
    assert replace(texture, level=3.0, is_coarse=True).unfit is None  # coding silences weak noise in quiet places
    assert replace(texture, impulses=0.05).not_additive == "salt and pepper"
    hidden = replace(texture, floor=0.6, is_hidden=True)
    assert hidden.unfit is None and "JPEG" in hidden.not_additive


@pytest.mark.parametrize("quality", [10, 20])
def test_noise_that_coding_has_removed_is_not_measured(quality):
    reasons = [signs_of(jpeg(photo, quality, 0, 0), quality).unfit for photo in noisy(5)]
    assert all(reason and "JPEG coding has removed its noise" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("folder", "least", "most"),
    [
        ("real_noise/renoir/train/noisy", 1.0, 1.0),
        ("real_noise/sidd_small/train/noisy", 1.0, 1.0),
        ("real_noise/polyu/train/noisy", 0.75, 1.0),
        ("clean/bsds", 0.0, 0.45),
        ("real_noise/polyu/train/clean", 0.0, 0.3),
    ],
)
def test_real_noise_is_measured_and_clean_photos_are_recognized(data_root, folder, least, most):
    paths = sorted(path for path in (data_root / folder).iterdir() if path.suffix in (".png", ".jpg", ".JPG"))
    paths = paths[:: -(-len(paths) // 9)]
    reasons = []
    for path in paths:
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
        reasons.append(signs_of(pixels, jpeg_quality(path.read_bytes())).unfit)
    share = sum(reason is None for reason in reasons) / len(reasons)
    print(f"\n{folder}: noise measured in {share:.0%} of {len(reasons)} photos")
    assert least <= share <= most, reasons


# --- what is special about the noise ---


def test_salt_and_pepper_is_found_and_left_out(tmp_path):
    photos = noisy(10)
    for number, photo in enumerate(photos):
        hit = torch.rand(photo.shape[1:], generator=generator_for(0, "hit", number))
        photo[:, hit < 0.02], photo[:, hit > 0.98] = 0.0, 1.0
    assert share_of_impulses(noisy(10)[1]) < 0.001
    assert share_of_impulses(photos[1]) == pytest.approx(0.04, rel=0.2)
    profile = fit_noise(write(tmp_path / "photos", photos))
    assert profile.impulses == pytest.approx(0.04, rel=0.25)
    green = [v for v, count in zip(profile.degradation.deviation[1], profile.observed[1], strict=True) if count]
    assert np.median(green) == pytest.approx(10, rel=0.15)
    assert "Salt and pepper: " in profile.describe() and "has none" in profile.describe()
    assert share_of_impulses(without_impulses(photos[1])) < 0.01


def test_a_starry_sky_or_a_white_wall_is_no_salt():
    wall = torch.ones(3, 64, 64)
    wall[:, 20:40, 20:40] = 0.2
    assert share_of_impulses(wall) == 0


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_bands_are_found(tmp_path, along):
    photos = []
    for number, clean in enumerate(CLEAN):
        bands = white(clean[:, :, :1], number) if along == "rows" else white(clean[:, :1], number)
        photos.append(rounded(clean + 3 / 255 * white(clean, number) + 8 / 255 * bands))
    profile = fit_noise(write(tmp_path / "photos", photos))
    assert profile.bands == along and f"bands along {along}" in profile.describe()
    assert fit_noise(write(tmp_path / "plain", noisy())).bands is None


def test_a_folder_of_which_half_is_clean_is_fitted_to_the_other_half(tmp_path):
    ramp = rounded(torch.linspace(0.2, 0.8, 128).expand(3, 128, 128) ** 1.2)
    profile = fit_noise(write(tmp_path / "photos", [*noisy(), ramp, ramp.flip(2), ramp.mT]))
    assert len(profile.unfit) == 3 and set(profile.unfit.values()) == {"no noise"}
    green = [v for v, count in zip(profile.degradation.deviation[1], profile.observed[1], strict=True) if count]
    assert np.median(green) == pytest.approx(15, rel=0.15)
    assert "cannot be measured in 3 of them: no noise (3)" in profile.describe()


def test_a_folder_with_little_and_much_noise_is_told(tmp_path):
    profile = fit_noise(write(tmp_path / "photos", [*noisy(2)[:3], *noisy(20)[:3]]))
    assert re.search(r"Photos with the least noise, [12]\.\d/255, may be clean", profile.describe())
    assert "may be clean" not in fit_noise(write(tmp_path / "alike", noisy())).describe()


def test_noise_that_is_clipped_everywhere_is_too_strong(tmp_path):
    photos = [(0.5 + 3 * white(torch.zeros(3, 96, 96), n)).clamp(0, 1).round() for n in range(3)]
    with pytest.raises(TooStrongError, match="clipped"):
        fit_noise(write(tmp_path / "photos", photos))


# --- before JPEG coding ---


@pytest.mark.parametrize(("quality", "tolerance"), [(95, 0.10), (75, 0.20)])
@pytest.mark.parametrize("kind", ["independent colors", "one for all colors"])
def test_the_level_before_coding_is_found_with_colors_at_half_the_size(tmp_path, quality, tolerance, kind):
    photos = []
    for number, clean in enumerate(CLEAN):
        noise = white(clean, number)
        noise = noise if kind.startswith("ind") else noise.mean(0, keepdim=True) * 3**0.5
        photos.append(clean + 15 / 255 * noise)
    profile = fit_noise(write(tmp_path / "photos", photos, ".jpg", quality=quality, subsampling=2))
    levels = [
        np.median([v for v, count in zip(row, seen, strict=True) if count])
        for row, seen in zip(profile.degradation.deviation, profile.observed, strict=True)
    ]
    print(f"\n{kind}, quality {quality}: {np.round(levels, 1)}, neighbors {profile.lag:.2f}, colors {profile.colors}")
    assert levels == pytest.approx([15] * 3, rel=tolerance)
    assert abs(profile.lag) < 0.1
    apart = np.array(profile.colors) - (0 if kind.startswith("ind") else 1)
    assert np.abs(apart).max() < (0.15 if quality == 95 else 0.3)
    assert not profile.is_bound and "those before coding" in profile.describe()
    assert profile.degradation.jpeg_half_chroma


def test_the_level_before_coding_is_found_with_colors_at_half_the_width(tmp_path):
    folder = write(tmp_path / "photos", noisy(), ".jpg", quality=75, subsampling=1)
    assert chroma_sampling((folder / "00.jpg").read_bytes()) == 1
    profile = fit_noise(folder)
    for row, seen in zip(profile.degradation.deviation, profile.observed, strict=True):
        assert np.median([v for v, count in zip(row, seen, strict=True) if count]) == pytest.approx(15, rel=0.15)
    assert np.abs(profile.colors).max() < 0.15


def test_where_coding_hides_the_level_a_bound_is_said(tmp_path):
    profile = fit_noise(write(tmp_path / "photos", noisy(), ".jpg", quality=50, subsampling=2))
    assert profile.is_bound and "before coding is unknown: at least" in profile.describe()
    whole = write(tmp_path / "whole", noisy(), ".jpg", quality=95, subsampling=0)
    assert chroma_sampling((whole / "00.jpg").read_bytes()) == 0
    assert fit_noise(whole).degradation.jpeg_half_chroma is False


def pixels_of(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


def recoded(folder, quality):
    for path in folder.iterdir():
        Image.open(path).save(path, quality=quality)
    return folder


def test_a_coarser_coding_before_that_of_the_file_is_found_and_undone(tmp_path):
    twice = recoded(write(tmp_path / "twice", noisy(), ".jpg", quality=75, subsampling=2), 95)
    profile = fit_noise(twice)
    assert profile.coded_twice == profile.photos == len(CLEAN)
    assert f"{len(CLEAN)} of them were coded twice" in profile.describe()
    assert abs(profile.degradation.jpeg_quality[0] - 75) <= 2
    row, seen = profile.degradation.deviation[1], profile.observed[1]
    assert np.median([v for v, count in zip(row, seen, strict=True) if count]) == pytest.approx(15, rel=0.2)


@pytest.mark.parametrize(("first", "second"), [(50, 90), (75, 95), (85, 95), (75, 98)])
def test_an_earlier_coding_shows_in_the_coefficients(tmp_path, first, second):
    folder = write(tmp_path / "photos", noisy(), ".jpg", quality=first, subsampling=2)
    (path, *_) = sorted(folder.iterdir())
    assert earlier_quality(pixels_of(path), first) is None  # coded once
    assert abs(earlier_quality(pixels_of(recoded(folder, second) / path.name), second) - first) <= 2
    fine = write(tmp_path / "fine", noisy(), ".jpg", quality=95, subsampling=2)
    assert earlier_quality(pixels_of(recoded(fine, 80) / path.name), 80) is None  # the file's own is the coarser one


def test_lossy_files_of_other_codecs_are_said_to_hold_less_noise(tmp_path):
    profile = fit_noise(write(tmp_path / "photos", noisy(), ".webp", quality=90))
    assert profile.codecs == {"WebP": len(CLEAN)}
    assert f"({len(CLEAN)} WebP): their levels are those after coding" in profile.describe()
    (whole, *_) = write(tmp_path / "whole", noisy()[:1], ".webp", lossless=True).iterdir()
    assert other_codec(whole.read_bytes()) is None
    pixels = np.ascontiguousarray((noisy()[0][:, :64, :64] * 255).round().byte().permute(1, 2, 0).numpy())
    assert other_codec(imagecodecs.avif_encode(pixels, level=90)) == "AVIF"
    assert other_codec(imagecodecs.avif_encode(pixels, level=100)) is None  # RGB as it is
    assert other_codec(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom") is None  # Canon's raw, of the same family
    pillow_heif = pytest.importorskip("pillow_heif")
    file = pillow_heif.from_bytes("RGB", pixels.shape[1::-1], pixels.tobytes())
    for options, codec in (
        ({"quality": 90}, "HEIC"),
        ({"quality": -1, "chroma": "444", "matrix_coefficients": 0}, None),
    ):
        stream = io.BytesIO()
        file.save(stream, **options)
        assert other_codec(stream.getvalue()) == codec
