"""Rain: streaks as long, wide, bright, many and slanted as asked for, and a veil, measured."""

import json
import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.blur import MotionBlur
from daa_diffusers.degradations.camera_noise import CameraNoise
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.filtered_rain import FilteredRain
from daa_diffusers.degradations.gaussian import BlindGaussian
from daa_diffusers.degradations.mixture import Mixture
from daa_diffusers.degradations.rain import RainStreaks, Streaks, render_streaks
from daa_diffusers.degradations.sequence import DegradationSequence
from daa_diffusers.errors import ConfigurationError

PLAIN = {
    "across_probability": 0.0,
    "screen_probability": 0.0,
    "veil_probability": 0.0,
    "layers": (1, 1),
    "lens": (0.3, 0.3),
    "clip": False,
}
VARIANTS = [
    RainStreaks(),
    RainStreaks(cover=(0.1, 0.2), layers=(2, 2), across_probability=0.25, clip=False),
    DegradationSequence([RainStreaks(veil_probability=1.0), CameraNoise()]),
    FilteredRain(),
    FilteredRain(layers=(3, 3), across_probability=0.5, cover=(0.4, 0.6), lens=(0, 0)),
    Mixture([(1, RainStreaks()), (2, MotionBlur()), (1, BlindGaussian())]),
]


def photo(batch=1, level=0.2, side=96, channels=3):
    return torch.full((batch, channels, side, side), level)


def rain(batch=4, side=96, **options):
    """The light of the streaks alone, (B, H, W)."""
    clean = photo(batch, 0.0, side, channels=1)
    return RainStreaks(**{**PLAIN, **options})(clean, generator_for(0, "rain"))[:, 0]


def streak(**fields):
    """One streak in the middle of 65 x 65 pixels."""
    given = {"y": 32.0, "x": 32.0, "length": 30.0, "width": 3.0, "angle": 0.0, "brightness": 0.5, "lens": 0.3, **fields}
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in given.items()}
    return render_streaks(Streaks(sample=torch.zeros(1, dtype=torch.long), **values), (1, 65, 65))[0]


def direction(light):
    """Of the lines in (H, W), degrees from vertical (right at the top is positive): the structure tensor's."""
    # Gaussian derivatives: differences of pixels favor some directions
    down, right = (gaussian_filter(light.numpy(), 1.0, order=order) for order in ((1, 0), (0, 1)))
    angle = 0.5 * math.atan2(2 * (down * right).sum().item(), ((right**2).sum() - (down**2).sum()).item())
    return math.degrees(angle)


@pytest.mark.parametrize("degradation", VARIANTS, ids=lambda d: type(d).__name__)
class TestContract:
    def test_configs_are_plain_and_rebuild_an_equal_degradation(self, degradation):
        rebuilt = degradation_from_config(json.loads(json.dumps(degradation.to_config())))
        assert rebuilt == degradation and rebuilt.to_config() == degradation.to_config()
        assert torch.equal(rebuilt(photo(), generator_for(0)), degradation(photo(), generator_for(0)))

    def test_the_generator_decides_everything(self, degradation):
        clean = torch.rand(4, 3, 24, 24, generator=generator_for(5))
        kept = clean.clone()
        first = degradation(clean, generator_for(1))
        torch.manual_seed(3)
        assert torch.equal(degradation(clean, generator_for(1)), first) and torch.equal(clean, kept)
        assert not torch.equal(degradation(clean, generator_for(2)), first)

    @pytest.mark.parametrize("shape", [(1, 3, 7, 5), (3, 1, 16, 16), (2, 3, 2, 2), (2, 3, 64, 3)], ids=str)
    def test_shape_and_dtype_stay(self, degradation, shape):
        for dtype in (torch.float32, torch.float64):
            degraded = degradation(torch.rand(shape, dtype=dtype, generator=generator_for(0)), generator_for(1))
            assert degraded.shape == shape and degraded.dtype == dtype and degraded.isfinite().all()


def test_a_streak_has_its_length_width_and_brightness():
    light = streak()
    across = light[32]  # a row through a vertical streak
    assert light.max().item() == pytest.approx(0.5, rel=0.1)
    variance = (across * (torch.arange(65) - 32) ** 2).sum() / across.sum()
    # of the profile cut at 2.5 deviations (0.911 of its variance), of the lens and of the pixel's hat (1 / 6)
    assert variance.item() == pytest.approx(0.911 * ((3 / 2.355) ** 2 + 0.3**2) + 1 / 6, rel=0.03)
    lit = light.sum(1)
    assert ((lit > 0.05 * lit.max()).sum().item()) == pytest.approx(30, abs=1)
    assert lit[32 - 10 : 32 + 11].min() > 0.7 * lit.max()  # and an even middle


def test_a_streak_is_the_same_light_wherever_it_falls_between_pixels_and_however_it_leans():
    total = streak().sum()
    for moved in ({"x": 32.37}, {"y": 31.5, "x": 30.1}, {"angle": 0.4}, {"angle": 1.3}):
        assert streak(**moved).sum().item() == pytest.approx(total.item(), rel=1e-3)
    columns = streak(x=32.4).sum(0)
    assert ((columns * torch.arange(65)).sum() / columns.sum()).item() == pytest.approx(32.4, abs=1e-6)


def test_the_lens_spreads_a_thin_streak_and_keeps_its_light():
    sharp, soft = streak(width=1.0), streak(width=1.0, lens=1.5)
    assert soft.sum().item() == pytest.approx(sharp.sum().item(), rel=0.02)
    assert soft.max() < 0.5 * sharp.max()


@pytest.mark.parametrize("angle", [-30, 0, 25])
def test_streaks_lean_as_asked(angle):
    light = rain(batch=1, angle=(angle, angle), angle_spread=(0, 0), cover=(0.1, 0.1), length=(30, 30))
    assert direction(light[0]) == pytest.approx(angle, abs=4)


def test_rain_across_is_rain_turned_by_a_quarter():
    light = rain(batch=1, angle=(10, 10), angle_spread=(0, 0), cover=(0.1, 0.1), across_probability=1.0)
    assert direction(light[0]) % 180 == pytest.approx(100, abs=4)


def test_streaks_cover_their_share_with_their_brightness():
    # the mean over a streak of 1 - u**4 is 0.8, of a Gaussian of peak 1 over its width at half maximum 1.064
    options = {"cover": (0.2, 0.2), "brightness": (0.3, 0.3), "length": (20, 20), "width": (2.5, 2.5)}
    for layers in (1, 3):
        light = rain(batch=16, side=128, layers=(layers, layers), distance=(1, 2), **options)
        assert light.mean().item() == pytest.approx(0.2 * 0.3 * 0.8 * 1.064, rel=0.08), layers
    # as many at the borders as in the middle
    light = rain(batch=32, side=96, **options)
    assert light[:, :12].mean().item() == pytest.approx(light.mean().item(), rel=0.2)


def test_far_layers_have_smaller_streaks():
    options = {"cover": (0.2, 0.2), "length": (40, 40), "width": (4, 4), "layers": (8, 8), "angle": (0, 0)}

    def detail(light):
        return (light.diff(dim=2) ** 2).mean() / light.var()

    assert detail(rain(distance=(3, 3), **options)) > 1.5 * detail(rain(distance=(1, 1), **options))


def test_added_rain_ignores_the_photo_and_screened_rain_fades_on_bright_ones():
    def change(screened, level):
        degradation = RainStreaks(**{**PLAIN, "screen_probability": screened, "brightness": (0.3, 0.3)})
        return (degradation(photo(2, level), generator_for(0)) - level).mean().item()

    assert change(0.0, 0.8) == pytest.approx(change(0.0, 0.0), rel=1e-4) and change(0.0, 0.8) > 0
    assert change(1.0, 0.8) == pytest.approx(0.2 * change(1.0, 0.0), rel=1e-4)
    assert (RainStreaks(screen_probability=1.0, brightness=(1, 1))(photo(2, 0.5), generator_for(0)) <= 1).all()


def test_the_veil_takes_contrast_and_moves_photos_toward_its_gray():
    clean = torch.rand(8, 3, 32, 32, generator=generator_for(3))
    options = {**PLAIN, "cover": (1e-4, 1e-4), "veil_probability": 1.0, "veil_grey": (0.8, 0.8)}
    even = RainStreaks(**options, veil=(0.4, 0.4))(clean, generator_for(0))
    torch.testing.assert_close(even.median(), (0.6 * clean + 0.4 * 0.8).median(), rtol=0, atol=1e-3)
    ratio = (even.std((1, 2, 3)) / clean.std((1, 2, 3))).median().item()
    assert ratio == pytest.approx(0.6, abs=0.02)
    uneven = RainStreaks(**options, veil=(0.0, 0.8))(photo(8, 0.0, 32), generator_for(0))
    assert (uneven.amax((1, 2, 3)) - uneven.amin((1, 2, 3)) > 0.05).float().mean() > 0.5


def test_streaks_are_gray_and_differ_between_samples():
    change = RainStreaks(**PLAIN)(photo(2), generator_for(0)) - 0.2
    torch.testing.assert_close(change[:, 0], change[:, 2])
    assert not torch.allclose(change[0], change[1])


def filtered(batch=4, side=128, **options):
    """The light of filtered rain alone, (B, H, W)."""
    given = {"angle_spread": (0, 0), "layers": (1, 1), "screen_probability": 0, "brightness": (1, 1), **options}
    return FilteredRain(**given)(photo(batch, 0.0, side, channels=1), generator_for(0, "filtered"))[:, 0]


@pytest.mark.parametrize("density", [0.003, 0.3], ids=["few grains", "many grains"])
@pytest.mark.parametrize("angle", [-30, 0, 20])
def test_filtered_rain_leans_and_covers_as_asked(density, angle):
    given = {"density": (density, density), "length": (30, 30), "width": (3, 3), "taper": (0, 0), "lens": (0, 0)}
    light = filtered(cover=(0.1, 0.1), angle=(angle, angle), contrast=(0.3, 0.3), **given)
    assert sum(map(direction, light)) / len(light) == pytest.approx(angle, abs=4)
    assert 0.06 < (light > 1e-4).float().mean().item() < 0.11


def test_few_grains_become_streaks_of_one_length():
    sparse = {"density": (1e-4, 1e-4), "length": (40, 40), "width": (1, 1), "taper": (0, 0)}
    light = filtered(side=256, **sparse, angle=(0, 0), contrast=(20, 20), lens=(0, 0))
    columns = (light > 0.5).sum(1).flatten()  # of an upright streak, but where two meet or borders cut one off
    columns = columns[columns > 0]
    assert ((columns > 36) & (columns < 45)).float().mean() > 0.6 and len(columns) > 10


def test_contrast_turns_soft_streaks_into_hard_ones():
    hard, soft = (filtered(contrast=(value, value), lens=(0, 0)) for value in (5.0, 0.25))
    assert (hard > 0.95).sum() > 0.5 * (hard > 0.01).sum() and (soft > 0.95).sum() < 0.05 * (soft > 0.01).sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cover": 0.3}, "`cover`.*pair"),
        ({"cover": [0, 0.3]}, "`cover`.*0.0001"),
        ({"length": [30, 10]}, "`length`.*low <= high"),
        ({"length": [10, 1000]}, "`length`.*200"),
        ({"layers": [1, 2.5]}, "`layers`.*whole"),
        ({"layers": [0, 2]}, "`layers`"),
        ({"screen_probability": 2}, "`screen_probability`"),
        ({"clip": 1}, "`clip`.*true or false"),
        ({"color": 1}, "no field 'color'"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        degradation_from_config({"type": "rain", **options})


def test_a_sequence_applies_its_parts_in_order():
    noise, blur = BlindGaussian(50, 50), MotionBlur(length=(20, 20), defocus=(3, 3), tone_probability=0.0)
    noise_last, noise_first = (
        DegradationSequence(parts)(photo(2, 0.5), generator_for(0)).std() for parts in ([blur, noise], [noise, blur])
    )
    assert noise_last.item() == pytest.approx(50 / 255, rel=0.05)
    assert noise_first < 0.3 * noise_last


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"parts": []}, "at least one"),
        ({"parts": "rain"}, "list of degradations"),
        ({}, "list of degradations"),
        ({"parts": [{"type": "rian"}]}, "did you mean 'rain'"),
        ({"part": []}, "did you mean 'parts'"),
    ],
    ids=str,
)
def test_wrong_sequences_are_named(config, message):
    with pytest.raises(ConfigurationError, match=message):
        degradation_from_config({"type": "sequence", **config})
