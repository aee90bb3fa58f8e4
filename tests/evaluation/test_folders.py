"""Measuring over folders: the right photos, the right numbers, every broken one named."""

import logging
import math

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation import bootstrap_interval, evaluate_folder, paired_bootstrap, psnr, ssim
from daa_diffusers.photos import read_photo, to_float


class Smoothing(nn.Module):
    """A denoiser without weights."""

    def forward(self, x):
        return nn.functional.avg_pool2d(nn.functional.pad(x, (1,) * 4, mode="reflect"), 3, stride=1)


class BrokenOnBright(nn.Module):
    def forward(self, x):
        return x / (x.mean() < 0.9).to(x)


def pipeline(module):
    return DAARestorationPipeline(module)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo(number, size=64):
    left = 150 + 20 * number
    return skimage.data.astronaut()[60 : 60 + size, left : left + size]


def noisy(pixels, sigma, seed=0):
    drawn = np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return (pixels + drawn).clip(0, 255).round().astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Four pairs; the noise grows from one to the next."""
    for number in range(4):
        save(tmp_path / "clean" / f"p{number}.png", photo(number))
        save(tmp_path / "noisy" / f"p{number}.png", noisy(photo(number), 5 + 15 * number, number))
    return tmp_path / "noisy", tmp_path / "clean"


def test_scores_are_those_of_single_photos_and_identity_is_the_first_row(folders):
    unet = pipeline(RestorationUNet(width=4, depth=2))
    settings = dict(unet._progress_bar_config)
    result = evaluate_folder({"unet": unet, "smooth": pipeline(Smoothing())}, *folders)
    assert result.rows == ("identity", "unet", "smooth")
    assert result.photos == ("p0.png", "p1.png", "p2.png", "p3.png") and not result.skipped
    for index, name in enumerate(result.photos):
        degraded, clean = (to_float(read_photo(folder / name)) for folder in folders)
        restored = unet(degraded, output_type="pt").images[0]
        for row, image in (("identity", degraded), ("unet", restored)):
            assert result.scores[row]["psnr"][index] == float(psnr(image, clean, as_uint8=True))
            assert result.scores[row]["ssim"][index] == float(ssim(image, clean, as_uint8=True))
    smooth = result.scores["smooth"]["psnr"]
    assert result.mean("smooth", "psnr") == pytest.approx(sum(smooth) / 4)
    assert result.interval("smooth", "psnr") == bootstrap_interval(smooth)
    assert result.difference("smooth", "psnr", "unet") == paired_bootstrap(smooth, result.scores["unet"]["psnr"])
    assert unet._progress_bar_config == settings


def test_space_depth_border_and_shift_reach_the_metrics_and_the_protocol(folders):
    options = {"space": "y", "as_uint8": False, "crop_border": 4, "metrics": ["psnr", "psnr_shift"], "shift": 2}
    result = evaluate_folder({}, *folders, **options)
    degraded, clean = (to_float(read_photo(folder / "p1.png"))[:, 4:-4, 4:-4] for folder in folders)
    assert result.scores["identity"]["psnr"][1] == pytest.approx(float(psnr(degraded, clean, color="y")), abs=1e-9)
    assert result.rows == ("identity",)
    for part in ("the Y channel", "floating point", "without 4 pixels of border", "shift of at most 2"):
        assert part in result.protocol
    assert "RGB, rounded to 8 bit, with the border" in evaluate_folder({}, *folders).protocol


def test_broken_photos_and_unequal_sizes_are_reported_and_count_in_no_row(folders, caplog):
    degraded, clean = folders
    (degraded / "p0.png").write_bytes(b"no photo")
    (clean / "p1.png").write_bytes((clean / "p1.png").read_bytes()[:300])
    save(clean / "p2.png", photo(2, 48))
    with caplog.at_level(logging.WARNING):
        result = evaluate_folder({"smooth": pipeline(Smoothing())}, degraded, clean)
    assert result.photos == ("p3.png",) and list(result.skipped) == ["p0.png", "p1.png", "p2.png"]
    assert f"{degraded.name}/p0.png" in result.skipped["p0.png"]
    assert f"{clean.name}/p1.png" in result.skipped["p1.png"]
    assert result.skipped["p2.png"] == "64 x 64 pixels, but its clean counterpart has 48 x 48"
    assert [len(values) for row in result.scores.values() for values in row.values()] == [1] * 4
    assert result.interval("smooth", "psnr") is None and result.difference("smooth", "psnr", "identity") is None
    assert "skipping p2.png" in caplog.text and str(degraded) not in " ".join(result.skipped.values())
    save(clean / "p3.png", photo(3, 48))
    with pytest.raises(ConfigurationError, match=r"none of the 4 photos can be scored, e\.g\. p0\.png: cannot read"):
        evaluate_folder({}, degraded, clean)


def test_a_photo_that_a_restorer_or_metric_cannot_take_is_left_out_of_every_row(folders):
    degraded, clean = folders
    for folder in folders:
        save(folder / "bright.png", np.full((64, 64, 3), 250, np.uint8))
        save(folder / "tiny.png", photo(0, 9))
    result = evaluate_folder({"broken": pipeline(BrokenOnBright())}, degraded, clean)
    assert len(result.photos) == 4 == len(result.scores["identity"]["psnr"])
    assert "NaN or infinite" in result.skipped["bright.png"] and "at least 11 x 11" in result.skipped["tiny.png"]


def test_identical_and_constant_photos_count_as_100_db(folders):
    degraded, clean = folders
    for folder in folders:
        save(folder / "gray.png", np.full((64, 64), 128, np.uint8))
    result = evaluate_folder({"smooth": pipeline(Smoothing())}, degraded, clean)
    index = result.photos.index("gray.png")
    assert result.scores["identity"]["psnr"][index] == math.inf and result.scores["identity"]["ssim"][index] == 1.0
    assert result.values("identity", "psnr")[index] == 100.0
    finite = [score for score in result.scores["identity"]["psnr"] if score < math.inf]
    assert result.mean("identity", "psnr") == pytest.approx((sum(finite) + 100) / 5)
    assert np.isfinite(result.interval("identity", "psnr")).all()
    assert result.gains("smooth", result.main)[index] == 0
    assert "counts as 100 dB" in result.protocol


def test_without_ground_truth_residuals_are_looked_at_and_noise_is_estimated(tmp_path):
    clean = skimage.data.chelsea()[:256, :256]
    for number in range(2):
        save(tmp_path / f"p{number}.png", noisy(clean, 20, number))
    result = evaluate_folder({"smooth": pipeline(Smoothing())}, tmp_path)
    names = ["noise_left", "signal_correlation", "residual_whiteness", "colour_drift"]
    assert [column.name for column in result.columns] == names and result.main.name == "noise_left"
    assert [result.mean("identity", name) for name in names] == [1, 0, 1, 0]
    smoothed = [to_float(read_photo(tmp_path / f"p{number}.png")) for number in range(2)]
    truth = to_float(np.ascontiguousarray(clean))
    errors = [float((Smoothing()(x[None])[0] - truth).square().mean() / (x - truth).square().mean()) for x in smoothed]
    assert result.mean("smooth", "noise_left") == pytest.approx(sum(errors) / 2, rel=0.3)
    gain, score = result.label_free_scores("smooth")
    assert gain == pytest.approx(-10 * math.log10(result.mean("smooth", "noise_left"))) and score <= gain
    assert result.label_free_scores("identity") == (0.0, 0.0)
    again = evaluate_folder({"smooth": pipeline(Smoothing())}, tmp_path)
    assert again.scores == result.scores
    assert evaluate_folder({"smooth": pipeline(Smoothing())}, tmp_path, seed=1).scores != result.scores


def test_label_free_values_come_beside_metrics_for_other_channels_and_ranges(folders):
    degraded, clean = folders
    for folder in folders:
        save(folder / "gray.png", np.asarray(Image.open(folder / "p3.png").convert("L")))
    gray = RestorationUNet(width=4, depth=2, channels=1)
    signed = RestorationUNet(width=4, depth=2, value_range=(-1.0, 1.0)).train()
    rows = {"gray": pipeline(gray), "signed": pipeline(signed)}
    result = evaluate_folder(rows, degraded, clean, label_free=True)
    assert len(result.photos) == 5 and signed.training
    assert [column.name for column in result.columns[:3]] == ["psnr", "ssim", "noise_left"]
    assert all(math.isfinite(value) for row in rows for value in result.scores[row]["noise_left"])


def test_gray_meets_color_repeated(tmp_path):
    save(tmp_path / "noisy" / "a.png", photo(0)[..., 0])
    save(tmp_path / "clean" / "a.png", np.repeat(photo(0)[..., :1], 3, axis=2))
    result = evaluate_folder({}, tmp_path / "noisy", tmp_path / "clean")
    assert result.scores["identity"]["psnr"] == [math.inf]


def test_photos_pair_by_a_pattern_where_names_differ(tmp_path):
    for image in (1, 2):
        save(tmp_path / "clean" / f"im{image}.png", photo(image))
        for kernel in (1, 2):
            save(tmp_path / "blurry" / f"{image}_{kernel}.png", photo(image))
    folders = tmp_path / "blurry", tmp_path / "clean"
    result = evaluate_folder({}, *folders, clean_name=(r"(\d+)_\d+", r"im\1"))
    assert result.photos == ("1_1.png", "1_2.png", "2_1.png", "2_2.png")
    assert result.scores["identity"]["psnr"] == [math.inf] * 4
    with pytest.raises(ConfigurationError, match=r"without a clean photo: \['1_1 \(as i1\)'.*degraded one: \['im1'"):
        evaluate_folder({}, *folders, clean_name=(r"(\d+)_\d+", r"i\1"))
    for bad in (("(", "x"), ("x",), (r"(\d)_\d", r"\7")):
        with pytest.raises(ConfigurationError, match="`clean_name` must be a regular expression and its replacement"):
            evaluate_folder({}, *folders, clean_name=bad)


def test_unequal_numbers_of_files_are_listed(folders):
    degraded, clean = folders
    (clean / "p1.png").unlink()
    save(clean / "extra.png", photo(0))
    with pytest.raises(ConfigurationError, match=r"without a clean photo: \['p1'\].*degraded one: \['extra'\]"):
        evaluate_folder({}, degraded, clean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["pnsr"]}, "`metrics` must be from psnr, .*got 'pnsr' .did you mean 'psnr'"),
        ({"metrics": [3]}, "`metrics` must be from psnr, .*got 3"),
        ({"metrics": "psnr"}, "`metrics` must be a list of different names, got 'psnr'"),
        ({"metrics": ["psnr", "psnr"]}, "different names"),
        ({"metrics": []}, "nothing would be measured"),
        ({"metrics": ["ssim"], "clean": None}, "ssim compare with clean photos, and `clean` is not given"),
        ({"space": "lab"}, '`space` must be "rgb" or "y", got \'lab\''),
        ({"crop_border": -1}, "`crop_border` must be a whole number of pixels"),
        ({"crop_border": 32}, "none of the 4 photos can be scored.*too few for a `crop_border` of 32"),
        ({"metrics": ["psnr_shift"], "shift": -1}, "`shift` must be a whole number of pixels"),
        ({"restorers": {"identity": "smooth"}}, "the row 'identity' is the untouched input"),
        ({"restorers": {"a": "smooth"}}, r"`restorers\['a'\]` must be a DAARestorationPipeline or None, got str"),
        ({"restorers": ["a"]}, "`restorers` must map row names to pipelines, got list"),
        ({"degraded": "nowhere"}, "`degraded` must be an existing folder"),
        ({"clean": "empty"}, "`clean` must hold photos .*has nothing"),
    ],
)
def test_bad_arguments_are_named(folders, changes, message):
    degraded, clean = folders
    (clean.parent / "empty").mkdir()
    arguments = {"restorers": {}, "degraded": degraded, "clean": clean, **changes}
    for name in ("degraded", "clean"):
        if isinstance(arguments[name], str):
            arguments[name] = clean.parent / arguments[name]
    with pytest.raises(ConfigurationError, match=message):
        evaluate_folder(**arguments)


def test_one_photo_is_in_memory_at_a_time(folders, monkeypatch):
    import weakref

    from daa_diffusers.evaluation.photo_pairs import PhotoPairs

    read, alive, most = PhotoPairs.read, [], []

    def counted(self, index):
        pair = read(self, index)
        alive.extend(weakref.ref(image) for image in pair)
        most.append(sum(ref() is not None for ref in alive))
        return pair

    monkeypatch.setattr(PhotoPairs, "read", counted)
    evaluate_folder({"smooth": pipeline(Smoothing())}, *folders)
    assert max(most) <= 4  # a pair, and the one before it


def test_training_mode_and_gradients_are_left_alone(folders):
    unet = RestorationUNet(width=4, depth=2).train()
    evaluate_folder({"unet": pipeline(unet)}, *folders, label_free=True)
    assert all(module.training for module in unet.modules())
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert torch.is_grad_enabled()
