"""The noise of photos from the photos alone: known noise on photos with texture is found again, and made again."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.camera_noise import apply_tone, invert_tone, tone_bend
from daa_diffusers.degradations.config_files import read_degradation
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.filters import gaussian_filter
from daa_diffusers.degradations.fitted import FittedNoise
from daa_diffusers.degradations.fitting.noise import NoiseProfile, fit_noise
from daa_diffusers.degradations.fitting.photo_noise import FlatBlocks, removed_noise
from daa_diffusers.degradations.jpeg_coding import blockiness, jpeg_quality
from daa_diffusers.degradations.mixture import Mixture
from daa_diffusers.errors import ConfigurationError

WHITE = {f"white {sigma}": (lambda clean, white, s=sigma: s / 255 * white) for sigma in (5, 15, 30, 50)}


def signal_dependent(clean, white):
    return (0.008 * clean + 0.0003).sqrt() * white


def correlated(clean, white):
    smooth = gaussian_filter(white[None], 0.7, radius=3)[0]
    return 15 / 255 * smooth / smooth.std()


KINDS = {**WHITE, "signal": signal_dependent, "correlated": correlated, "jpeg 75": WHITE["white 15"]}


@pytest.fixture(scope="module")
def clean_photos():
    """Three photos with texture: a face with hair, a cat, a table."""
    return [
        torch.from_numpy(photo()).permute(2, 0, 1).float() / 255
        for photo in (data.astronaut, data.chelsea, data.coffee)
    ]


def pixels(photo):
    return (photo.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def write(folder, photos, suffix=".png", **options):
    folder.mkdir(exist_ok=True)
    for number, photo in enumerate(photos):
        Image.fromarray(pixels(photo)).save(folder / f"{number}{suffix}", **options)
    return folder


def noisy(clean_photos, kind):
    return [c + KINDS[kind](c, white(c, n)) for n, c in enumerate(clean_photos)]


def white(photo, number):
    return torch.randn(photo.shape, generator=generator_for(0, "test", number))


def neighbor(noise):
    """Correlation with the next pixel to the right."""
    return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())


@pytest.fixture(scope="module")
def profiles(clean_photos, tmp_path_factory):
    found: dict[str, NoiseProfile] = {}
    for kind in KINDS:
        options = {"suffix": ".jpg", "quality": 75} if "jpeg" in kind else {}
        found[kind] = fit_noise(write(tmp_path_factory.mktemp("noisy"), noisy(clean_photos, kind), **options))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_known_noise_is_found_within_15_percent_at_several_brightnesses(kind, profiles):
    """What the degradation makes on flat photos, against the known noise on them, both as coded where they are."""
    noise = replace(profiles[kind].degradation, level=(1.0,), clip=False)
    ratios, levels = [], (0.15, 0.25, 0.35, 0.5, 0.65, 0.75)
    for number, level in enumerate(levels):
        flat = torch.full((3, 64, 64), level)
        true = flat + KINDS[kind](flat, white(flat, number))
        true = coded(true, 75) if "jpeg" in kind else true
        made = noise(flat[None], generator_for(0, "made", number))[0]
        ratios.append(float((made - flat).std() / (true - flat).std()))
    print(f"\n{kind:11} found / true at " + ", ".join(f"{b}: {r:.2f}" for b, r in zip(levels, ratios, strict=True)))
    assert ratios == pytest.approx([1] * len(levels), abs=0.15)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "jpeg" not in kind])
def test_correlation_between_neighbors_and_colors_is_found(kind, profiles, clean_photos):
    true = neighbor(KINDS[kind](clean_photos[0], white(clean_photos[0], 0)))
    profile = profiles[kind]
    print(f"\n{kind:11} next pixel {profile.lag:.2f}, true {true:.2f}; colors {np.round(profile.colors, 2)}")
    assert profile.lag == pytest.approx(true, abs=0.09)  # 15 % of 0.58
    assert np.abs(profile.colors).max() < 0.15


def test_the_degradation_makes_noise_like_that_of_the_photos(profiles, clean_photos):
    for kind in ("white 15", "correlated", "jpeg 75"):
        photo, clean = noisy(clean_photos, kind)[2].clamp(0, 1), clean_photos[2]
        photo = coded(photo, 75) if "jpeg" in kind else photo
        true, ours = photo - clean, profiles[kind].degradation(clean[None], generator_for(0, "made"))[0] - clean
        assert float(ours.std()) == pytest.approx(float(true.std()), rel=0.15), kind
        assert neighbor(ours) == pytest.approx(neighbor(true), abs=0.1), kind


def coded(photo, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels(photo)).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1).float() / 255


def test_shot_and_read_noise_are_found_where_they_describe_it(profiles):
    profile = profiles["signal"]
    assert profile.shot == pytest.approx(0.008, rel=0.3)
    assert profile.poisson_error < 0.15
    assert "Shot noise" in profile.describe()


def test_colors_that_share_their_noise_are_recognized(clean_photos, tmp_path):
    gray = [c + 10 / 255 * white(c, n).mean(0, keepdim=True) * 3**0.5 for n, c in enumerate(clean_photos)]
    profile = fit_noise(write(tmp_path / "photos", gray))
    assert min(profile.colors) > 0.85
    made = profile.degradation(torch.full((1, 3, 64, 64), 0.5), generator_for(0, "x"))[0] - 0.5
    assert float((made[0] * made[2]).mean() / made[0].square().mean()) > 0.85


def test_photos_of_different_levels_give_a_spread_of_levels(clean_photos, tmp_path):
    sigmas = (5, 10, 20)
    photos = [c + s / 255 * white(c, n) for n, (s, c) in enumerate(zip(sigmas, clean_photos, strict=True))]
    noise = fit_noise(write(tmp_path / "photos", photos)).degradation
    assert noise.level[0] == pytest.approx(0.5, rel=0.2)
    assert noise.level[-1] == pytest.approx(2, rel=0.2)


def test_jpeg_coding_is_read_from_the_files(profiles):
    assert profiles["jpeg 75"].degradation.jpeg_quality == (75, 75)
    assert profiles["white 15"].degradation.jpeg_quality is None
    for quality in (30, 60, 95):
        stream = io.BytesIO()
        Image.fromarray(data.chelsea()).save(stream, "JPEG", quality=quality)
        assert jpeg_quality(stream.getvalue()) == quality
    stream = io.BytesIO()
    Image.fromarray(data.chelsea()).save(stream, "PNG")
    assert jpeg_quality(stream.getvalue()) is None


def test_photos_that_were_coded_once_are_known_by_their_blocks(clean_photos, tmp_path):
    assert blockiness(coded(clean_photos[0], 40)) > 1.2
    assert blockiness(clean_photos[0]) < 1.15
    once = [coded(photo, 40) for photo in noisy(clean_photos, "white 15")]
    assert fit_noise(write(tmp_path / "photos", once)).blocky == 3


def test_photos_without_noise_are_said_to_have_none(tmp_path):
    ramp = torch.linspace(0.2, 0.8, 96).expand(3, 96, 96)
    profile = fit_noise(write(tmp_path / "photos", [ramp, ramp.flip(2), ramp.mT]))
    assert profile.degradation is None and profile.noise_free == 3
    assert "No noise" in profile.describe()
    with pytest.raises(ConfigurationError, match="no noise to synthesize"):
        profile.save(tmp_path / "noise.yaml")
    assert not (tmp_path / "noise.yaml").exists()


def test_what_is_of_no_use_is_left_out_with_its_reason(clean_photos, tmp_path):
    folder = write(tmp_path / "photos", noisy(clean_photos, "white 15"))
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(folder / "constant.png")
    Image.fromarray(np.full((16, 64, 3), 99, np.uint8)).save(folder / "tiny.png")
    burned = pixels(torch.ones(3, 96, 96))
    burned[:, 90:] = 0
    Image.fromarray(burned).save(folder / "burned.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:500])
    profile = fit_noise(folder)
    reasons = {name.rsplit("/")[-1]: reason for name, reason in profile.skipped.items()}
    assert set(reasons) == {"constant.png", "tiny.png", "burned.png", "broken.png"}
    assert reasons["constant.png"] == "constant" and "clipped" in reasons["burned.png"]
    assert "smaller than 32" in reasons["tiny.png"] and "truncated" in reasons["broken.png"]
    assert profile.photos == 3


def test_fewer_than_three_photos_are_refused_and_the_others_named(clean_photos, tmp_path):
    folder = write(tmp_path / "photos", clean_photos[:2])
    (folder / "broken.png").write_bytes(b"no photo")
    with pytest.raises(ConfigurationError, match=r"at least 3 usable photos, got 2(.|\n)*broken.png"):
        fit_noise(folder)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_file_gives_the_same_degradation_again(suffix, mixed, profiles, tmp_path):
    profile = profiles["correlated"]
    path = profile.save(tmp_path / f"noise{suffix}", mixed=mixed, spread=1.5)
    read = degradation_from_config(read_degradation(path))
    assert read == profile.to_degradation(mixed=mixed, spread=1.5)
    assert isinstance(read, Mixture if mixed else FittedNoise)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_samples_draw_their_own_level_and_depend_on_the_generator_alone():
    noise = FittedNoise((0.0, 1.0), ((0, 20), (0, 20), (0, 20)), level=(0.5, 1.0, 2.0), spread=1.2)
    clean = torch.full((64, 3, 32, 32), 0.5)
    made = noise(clean, generator_for(0, "a"))
    torch.testing.assert_close(made, noise(clean, generator_for(0, "a")), rtol=0, atol=0)
    deviation = (made - clean).std((1, 2, 3)) * 255
    assert deviation.min() < 7 and deviation.max() > 15  # 10 times 0.5 / 1.2 to 2 * 1.2
    assert deviation.min() > 4 and deviation.max() < 25
    assert deviation.median() == pytest.approx(10, rel=0.25)


@pytest.mark.parametrize("level", [0.15, 0.3, 0.6])
def test_noise_through_a_tone_curve_darkens_and_is_skewed(level):
    clean = torch.full((1, 3, 256, 256), level)
    through, plain = (FittedNoise((0.5,), ((4,), (4,), (4,)), gamma=gamma) for gamma in (2.4, None))
    noise = through(clean, generator_for(0, "bent")) - level
    variance = (4 / 255) ** 2
    expected = -0.7 / (level + 0.055) * variance  # (1 - gamma) / 2 over (level + offset of sRGB)
    assert float(noise.mean()) == pytest.approx(expected, rel=0.25)
    assert float(noise.std()) == pytest.approx(4 / 255, rel=0.05)
    assert float(noise.sub(noise.mean()).pow(3).mean()) == pytest.approx(6 * expected * variance, rel=0.25)
    assert float((plain(clean, generator_for(0, "bent")) - level).mean()) == pytest.approx(0, abs=1e-4)


def test_skewness_tells_what_the_noise_came_through(clean_photos, tmp_path):
    curve = FittedNoise((0.5,), ((12,), (12,), (12,)), gamma=2.4)
    bent = [curve(c[None], generator_for(0, "bent", n))[0] for n, c in enumerate(clean_photos)]
    profile = fit_noise(write(tmp_path / "bent", bent))
    assert profile.bend == pytest.approx(1, abs=0.2) and profile.degradation.gamma == 2.4
    assert "skewed as by a tone curve" in profile.describe()
    generator = generator_for(0, "photons")
    light = [invert_tone(c, torch.tensor(2.4)) for c in clean_photos]
    photons = [apply_tone(torch.poisson(x / 3e-3, generator) * 3e-3, torch.tensor(2.4)) for x in light]
    profile = fit_noise(write(tmp_path / "photons", photons))  # light's own skewness is against that of the curve
    assert profile.bend == pytest.approx(0.43, abs=0.12) and profile.degradation.gamma == 2.4
    profile = fit_noise(write(tmp_path / "straight", noisy(clean_photos, "white 15")))
    assert profile.bend == pytest.approx(0, abs=0.1) and profile.degradation.gamma is None
    assert "skewed" not in profile.describe() and "is unknown" not in profile.describe()
    profile = fit_noise(write(tmp_path / "coded", noisy(clean_photos, "white 15"), ".jpg", quality=75))
    assert "JPEG coding hides the skewness" in profile.describe() and profile.degradation.gamma is None


@pytest.mark.parametrize(("photos", "gamma"), [("sidd_small", 2.4), ("renoir", None)])
def test_strong_noise_of_real_photos_darkens_where_its_skewness_says_so(data_root, photos, gamma):
    folder = data_root / "real_noise" / photos / "train"
    profile = fit_noise(folder / "noisy")
    assert profile.degradation.gamma == gamma
    darker, expected = [], []
    for path in sorted((folder / "noisy").iterdir())[:30]:  # the ground truth, which no fit has seen
        clean, degraded = (
            torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
            for file in (folder / "clean" / path.name, path)
        )
        means = torch.nn.functional.avg_pool2d(torch.stack([clean, degraded - clean, (degraded - clean) ** 2]), 16)
        variance, usable = means[2] - means[1] ** 2, (means[0] > 0.06) & (means[0] < 0.95)
        darker.append(means[1][usable])
        expected.append((tone_bend(means[0], 2.4) * variance)[usable])
    darker, expected = torch.cat(darker), torch.cat(expected)
    share = float((darker * expected).sum() / expected.square().sum())
    assert share == pytest.approx(1 if gamma else 0, abs=0.25)


def test_a_gray_photo_gets_the_luma_of_the_noise():
    noise = FittedNoise((0.5,), ((10,), (10,), (10,)))
    made = noise(torch.full((4, 1, 64, 64), 0.5), generator_for(0, "gray")) - 0.5
    assert float(made.std()) * 255 == pytest.approx(10 * (0.299**2 + 0.587**2 + 0.114**2) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 2}, "`version` of fitted noise must be 1, got 2"),
        ({"brightness": [0.5, 0.5]}, "`brightness` must increase"),
        ({"deviation": [[1], [1]]}, "three lists"),
        ({"deviation": [[1], [1], [1, 2]]}, "must hold 1 numbers per color"),
        ({"deviation": [[1], [1], [-1]]}, "`deviation` must be a number in"),
        ({"level": [2, 1]}, "do not decrease"),
        ({"spread": 0.5}, "`spread` must be a number in"),
        ({"correlation": [[[1.0]]] * 5}, "6 squares"),
        ({"correlation": [[[0.5]]] * 6}, "must be 1 at the center"),
        ({"correlation": [[[1.0, 1.0]]] * 6}, "got sides"),
        ({"jpeg_quality": [50, 60.5]}, "whole numbers"),
        ({"gamma": 1}, "`gamma` must be a number in"),
        ({"sharpness": 1}, "no field 'sharpness'"),
    ],
)
def test_a_file_that_was_edited_wrongly_is_refused(options, message):
    config = {"type": "fitted", "brightness": [0.5], "deviation": [[1], [1], [1]], **options}
    with pytest.raises(ConfigurationError, match=message):
        degradation_from_config(config)


def test_a_missing_or_strange_file_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="must be a readable YAML or JSON file"):
        read_degradation(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigurationError, match="a mapping with a `type`"):
        read_degradation(tmp_path / "list.yaml")


def test_a_denoiser_tells_noise_from_texture():
    """Fur has no flat part; what a denoiser removes of it is the noise all the same."""
    from daa_diffusers import DAARestorationPipeline

    pipeline = DAARestorationPipeline.from_pretrained("daa-denoise")
    pipeline.set_progress_bar_config(disable=True)
    clean = torch.from_numpy(data.chelsea()[100:228, 180:308].copy()).permute(2, 0, 1) / 255
    noisy = (clean + 8 / 255 * white(clean, 0)).clamp(0, 1)
    alone = 255 * float(FlatBlocks.of(noisy).variance.sqrt().median())
    generator = torch.Generator().manual_seed(0)
    _, variance = removed_noise(noisy, lambda p: pipeline(p, output_type="pt").images[0], generator)
    helped = 255 * float(variance.sqrt().median())
    print(f"noise of 8/255 in fur: {alone:.1f} by flat parts, {helped:.1f} with a denoiser")
    assert abs(helped / 8 - 1) < 0.2 < alone / 8 - 1


def test_a_restorer_that_removes_no_noise_tells_nothing(clean_photos):
    noisy = clean_photos[0] + 8 / 255 * white(clean_photos[0], 0)
    for useless in (lambda photo: photo, lambda photo: 0.7 * photo + 0.3 * photo.roll(1, 2)):
        assert removed_noise(noisy.clamp(0, 1), useless, torch.Generator().manual_seed(0)) is None
