"""What a run takes from its real photos before the first step: their noise, and clean photos that look like them."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.degradations.blur import MotionBlur
from daa_diffusers.degradations.config_files import read_degradation
from daa_diffusers.degradations.fitting import shake
from daa_diffusers.degradations.fitting.rain import RainProfile
from daa_diffusers.degradations.fitting.shake import ShakeProfile
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.photos.pixels import crop_patch
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.specs import open_source
from daa_diffusers.training import preparation, setup, validation
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.preparation import prepare_files, use_files
from daa_diffusers.training.real_photos import inspect_all
from daa_diffusers.training.run_state import list_checkpoints
from daa_diffusers.training.verification import read_log

from ..photo_folders import write_photos

SIGMA = 20


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """Four photos with white noise of sigma 20, and a broken one."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(0)
    cat = skimage.data.chelsea()
    for index in range(4):
        cut = cat[40 * index : 40 * index + 160, 60 * index : 60 * index + 200].astype(float)
        photo = np.clip(cut + rng.normal(0, SIGMA, cut.shape), 0, 255).round().astype(np.uint8)
        Image.fromarray(photo).save(folder / f"{index}.png")
    (folder / "9.png").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A restorer to start from, which changes photos a little."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start") / "restorer"
    RestorationUNet(width=4, depth=2).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tiny_config, noisy, start):
    def make(**changes):
        return tiny_config(
            **{"real": [str(noisy)], "init_from": start, "fit_noise": 0.5, "pseudo_clean": True, **changes}
        )

    return make


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder, "pseudo_clean").glob("*"))}


def test_the_noise_and_the_content_of_the_real_photos_reach_the_samples(config, photo_folders):
    given = config()
    trainer = Trainer(given, progress_bar=False)
    dataset = trainer.dataset
    folder = Path(given.output_dir)
    assert list(files(folder)) == [f"00-{index:06d}.png" for index in range(4)]  # the broken one is left out
    assert dataset.clean[-1].location == str(folder / "pseudo_clean")
    (share, fitted), (rest, before) = dataset.degradation.parts
    assert (share, rest) == (0.5, 0.5) and before.to_config()["type"] == "gaussian"
    flat = torch.full((1, 3, 64, 64), 0.5)
    levels = [(fitted(flat, torch.Generator().manual_seed(seed)) - flat).std() * 255 for seed in range(30)]
    assert float(torch.stack(levels).mean()) == pytest.approx(SIGMA, rel=0.25)
    trainer.folder.release()


def test_the_restored_photos_are_those_of_the_start_not_of_a_resumed_step(config):
    whole, cut = config(output_dir=config().output_dir + "-whole"), config()
    train(whole, progress_bar=False)
    Trainer(cut, progress_bar=False).train(stop_after=4)
    expected = files(whole.output_dir)
    (Path(cut.output_dir) / "pseudo_clean" / "00-000002.png").unlink()  # as if it had been interrupted there
    train(cut, progress_bar=False)
    assert files(cut.output_dir) == expected
    assert read_log(Path(cut.output_dir)) == read_log(Path(whole.output_dir))


def test_a_spent_budget_prepares_with_the_fewest_photos_and_a_resumed_run_uses_the_same(config, tmp_path, caplog):
    """The first half of the budget is over: each stage takes what it must, and the rest is left for training."""
    caplog.set_level("INFO", logger="daa_diffusers")
    photo = (skimage.data.chelsea() + np.random.default_rng(0).normal(0, SIGMA, (300, 451, 3))).clip(0, 255)
    many = write_photos(tmp_path / "many", 12, height=96, width=96, photo=photo.astype(np.uint8))
    given = config(real=[str(many)], minutes=1.0)
    trainer = Trainer(given, progress_bar=False, begun=time.time() - 31)
    assert "noise is inspected in 6 of 12 photos" in caplog.text and "noise is fitted to 3 of 12" in caplog.text
    assert "pseudo_clean: 3 of 12 photos" in caplog.text
    prepared, noise = files(given.output_dir), (Path(given.output_dir) / "noise.yaml").read_bytes()
    assert len(prepared) == 3 and trainer.folder.record["prepared"] == {
        "fitted": ["noise.yaml"],
        "pseudo_clean": [[0, 4, 8]],
    }
    trainer.train(stop_after=1)
    caplog.clear()
    again = Trainer(given, progress_bar=False)  # the whole minute is left
    assert files(given.output_dir) == prepared and (Path(given.output_dir) / "noise.yaml").read_bytes() == noise
    assert "photos; a larger time budget" not in caplog.text and "estimating" not in caplog.text
    again.folder.release()


def test_a_generous_budget_prepares_as_no_budget_does(config, tmp_path):
    results = []
    for number, minutes in enumerate((None, 60.0)):
        given = config(minutes=minutes, output_dir=str(tmp_path / str(number)))
        Trainer(given, progress_bar=False).folder.release()
        results.append((files(given.output_dir), (tmp_path / str(number) / "noise.yaml").read_bytes()))
    assert results[0] == results[1] and len(results[0][0]) == 4


def test_the_vanilla_variant_can_have_both(config):
    given = config(variant="vanilla", fit_noise=1.0, steps=2)
    result = train(given, progress_bar=False)
    assert result.steps == 2
    record = json.loads((result.pipeline.parent / "run.json").read_text())
    assert [source["folder"] for source in record["photos"]["clean"]] == ["clean", "pseudo_clean"]
    assert [source["folder"] for source in record["photos"]["real"]] == [Path(given.real[0]).name]  # the fit read them


def test_without_either_nothing_is_written_or_changed(config):
    given = config(fit_noise=0.0, pseudo_clean=False)
    dataset = setup.build_dataset(given, setup.open_all_sources(given, 3), 4)
    before = dataset[3]["synthetic"]
    folder = Path(given.output_dir)
    prepare_files(given, RestorationUNet(width=4, depth=2), folder, [])
    use_files(given, dataset, folder)
    assert not folder.exists() and torch.equal(dataset[3]["synthetic"], before)


def test_what_the_start_removes_from_real_photos_degrades_clean_ones(config, noisy, start):
    given = config(fit_noise=0.25, transplant=0.75, pseudo_clean=False)
    trainer = Trainer(given, progress_bar=False)
    (share, _), (transplanted, transplant) = trainer.dataset.degradation.parts  # nothing is left for --degradation
    assert (share, transplanted) == (0.25, 0.75)
    residuals = PhotoFolder(transplant.folder)
    assert len(residuals) == 4
    photo = np.asarray(Image.open(noisy / "1.png")).astype(np.float32) / 255
    with torch.no_grad():
        restored = RestorationUNet.from_pretrained(start)(torch.from_numpy(photo).permute(2, 0, 1)[None])[0].clamp(0, 1)
    expected = torch.from_numpy(photo).permute(2, 0, 1) - restored
    assert (2 * (residuals.photo(1).float() / 65535) - 1 - expected).abs().max() < 1e-4
    trainer.folder.release()


def test_streaks_are_what_was_brighter_than_its_surroundings(tmp_path):
    real = torch.full((3, 64, 64), 0.5)
    restored = real - 0.2  # darker as a whole, which is no streak
    restored[:, :, 32] -= 0.25  # a bright line removed
    restored[:, 20, :20] += 0.25  # and a dark one
    preparation._write_streaks(real, restored, tmp_path / "0.png")
    streaks = 2 * PhotoFolder(tmp_path).photo(0).float() / 65535 - 1
    assert streaks[:, 40, 32] == pytest.approx(torch.full((3,), 0.25), abs=0.02)
    assert streaks[:, 20, 5].abs().max() < 1e-4 and streaks[:, 40, 60].abs().max() < 0.01


def test_the_log_of_a_time_limit_gives_no_total_for_a_stream(tmp_path, caplog):
    caplog.set_level("INFO", logger="daa_diffusers")
    photo = (skimage.data.chelsea() + np.random.default_rng(0).normal(0, SIGMA, (300, 451, 3))).clip(0, 255)
    folder = write_photos(tmp_path / "stream", 8, height=96, width=96, photo=photo.astype(np.uint8))
    inspect_all([open_source(f"hf:{folder}?streaming=1&window=7")], seconds=0)
    assert "noise is inspected in 6 photos of a stream; a larger" in caplog.text


def test_a_stream_that_is_shorter_than_what_is_asked_for_gives_what_it_has(config, tmp_path):
    folder = tmp_path / "stream"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(skimage.data.chelsea()[30 * index : 30 * index + 64, :64]).save(folder / f"{index}.png")
    given = config(real=[f"hf:{folder}?streaming=1"], fit_noise=0.0)
    trainer = Trainer(given, progress_bar=False)
    assert len(files(given.output_dir)) == 3
    trainer.folder.release()


@pytest.mark.parametrize("count", [2, 20])
def test_a_stream_shorter_than_a_batch_or_a_grid_runs_to_the_end(config, tmp_path, count):
    folder = write_photos(tmp_path / "stream", count, photo=skimage.data.chelsea())
    given = config(real=[f"hf:{folder}?streaming=1"], fit_noise=0.0, pseudo_clean=True, health=True, steps=2)
    assert train(given, progress_bar=False).steps == 2
    assert len(files(given.output_dir)) == count


@pytest.mark.parametrize("variant", ["hybrid", "vanilla"])
def test_every_source_is_opened_once(config, noisy, tmp_path, monkeypatch, variant):
    opened = []
    original = setup.open_source

    def counting(spec, **options):
        opened.append(spec)
        return original(spec, **options)

    for module in (setup, validation):
        monkeypatch.setattr(module, "open_source", counting)
    given = config(variant=variant, fit_noise=0.5, pseudo_clean=True, health=True, steps=1)
    train(given, progress_bar=False)
    assert sorted(opened) == sorted([*given.clean, *given.real])


def test_every_source_has_its_own_noise_unless_it_has_few_photos(config, noisy, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(noisy / "0.png", few)
    for folders, kind, parts in (([noisy, noisy], "mixture", 2), ([noisy, few], "fitted", 1)):
        given = config(real=[str(f) for f in folders], output_dir=str(tmp_path / kind), pseudo_clean=False)
        trainer = Trainer(given, progress_bar=False)
        fitted = trainer.dataset.degradation.parts[0][1]
        assert fitted.to_config()["type"] == kind and len(getattr(fitted, "parts", [fitted])) == parts
        trainer.folder.release()


def test_the_weights_kept_lie_between_the_start_and_the_moving_average(config, start):
    given = config(blend=0.25, steps=4, checkpoint_every=2, ema_decay=0.5)
    Trainer(given, progress_bar=False).train(stop_after=2)
    saved = DAARestorationPipeline.from_pretrained(train(given, progress_bar=False).pipeline).restorer
    first = RestorationUNet.from_pretrained(start)
    newest = list_checkpoints(Path(given.output_dir) / "checkpoints")[-1]
    average = load_file(newest / "ema.safetensors")
    for index, (a, b) in enumerate(zip(first.parameters(), saved.parameters(), strict=True)):
        torch.testing.assert_close(b, a + 0.25 * (average[str(index)] - a))
        assert not torch.equal(average[str(index)], a)


def test_options_that_do_not_fit(config, tmp_path, noisy):
    two = {"type": "sequence", "parts": [{"type": "motion_blur"}, {"type": "motion_blur"}]}
    for changes, message in (
        ({"blend": 0.0}, "`blend` must be above 0 and at most 1"),
        ({"blend": 0.5, "init_from": None, "pseudo_clean": False}, "`blend` 0.5 needs a restorer to start from"),
        ({"fit_noise": 1.5}, "`fit_noise` must be at least 0 and at most 1"),
        ({"transplant_kind": "rain"}, "`transplant_kind` must be one of residual, streaks"),
        ({"transplant": 0.6}, "`transplant` must be a share of at most 1 - `fit_noise`"),
        ({"transplant": 0.5, "init_from": None}, "`transplant` needs a restorer to start from"),
        ({"init_from": None}, "`pseudo_clean` needs a restorer to start from"),
        ({"fit_shake": 0.5, "degradation": two}, "one motion_blur of `degradation`, got 2"),
        ({"real": [], "variant": "vanilla"}, "`fit_noise` needs `real` photos"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            config(**changes).check()
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(noisy / "0.png", few)
    with pytest.raises(ConfigurationError, match="at least 3 photos to fit noise, got 1"):
        train(config(real=[str(few)]), progress_bar=False)


def test_photos_without_noise_are_left_out_of_a_run_and_of_its_resumption(config, noisy, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(noisy, mixed)
    ramp = np.tile(np.linspace(50, 200, 160).round().astype(np.uint8)[:, None, None], (1, 160, 3))
    for number in range(2):
        Image.fromarray(np.rot90(ramp, number)).save(mixed / f"clean{number}.png")
    for _ in range(2):  # the second time as a resumed run, which fits nothing
        trainer = Trainer(config(real=[str(mixed)]), progress_bar=False)
        (source,) = trainer.dataset.real
        left_out = {path.name: reason for path, reason in source.skipped.items()}
        assert {name for name, reason in left_out.items() if reason == "no noise"} == {"clean0.png", "clean1.png"}
        trainer.folder.release()


def test_noise_too_strong_to_be_measured_is_adapted_to_without_the_fit(config, tmp_path, caplog):
    folder = tmp_path / "strong"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(draws.choice([0, 255], (96, 96, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    given = config(real=[str(folder)], pseudo_clean=False)
    caplog.set_level("WARNING", logger="daa_diffusers")
    for said in (True, False):  # a resumed run does not fit again: with other photos it might find a noise
        trainer = Trainer(given, progress_bar=False)
        assert ("too strong to be measured; the run uses `degradation` alone" in caplog.text) == said
        trainer.train(stop_after=1)
        caplog.clear()
    trainer = Trainer(given, progress_bar=False)
    assert trainer.dataset.degradation.to_config()["type"] == "gaussian"
    assert not (Path(given.output_dir) / "noise.yaml").exists()
    trainer.folder.release()


def test_the_fitted_shake_has_tone_curve_and_noise_of_the_motion_blur_in_the_degradation(
    tiny_config, tmp_path, caplog, monkeypatch
):
    for name, value in {"MAX_PHOTOS": 3, "SHAKEN": 0.0, "PSF_CROP": 64}.items():  # sharp photos count, too
        monkeypatch.setattr(shake, name, value)
    for number in range(4):
        cut = skimage.data.astronaut()[100 * number : 100 * number + 96, :96]
        Image.fromarray(cut).save(tmp_path / f"{number}.png")
    blur, real = {"type": "motion_blur", "tone_probability": 0.0}, [open_source(str(tmp_path))]
    for folder, degradation in (("with", {"type": "sequence", "parts": [{"type": "rain"}, blur]}), ("without", None)):
        (tmp_path / folder).mkdir()
        given = tiny_config(real=["photos"], fit_shake=0.8, **({"degradation": degradation} if degradation else {}))
        preparation.prepare_files(given, torch.nn.Identity(), tmp_path / folder, real)
        (_, fitted), (_, random) = degradation_from_config(read_degradation(tmp_path / folder / "shake.yaml")).parts
        assert random == (MotionBlur(tone_probability=0.0) if degradation else MotionBlur())
        assert len(fitted.psfs) == 3 and fitted.tone_probability == random.tone_probability
        assert ("`degradation` has no motion_blur" in caplog.text) == (folder == "without")


def test_rain_and_shake_of_the_real_photos_reach_the_samples(tiny_config, start, caplog):
    given = tiny_config(real=["photos"], init_from=start, fit_rain=0.5, fit_shake=0.25)
    folder = Path(given.output_dir)
    folder.mkdir(parents=True)
    rain = {"cover": (0.1, 0.2), "length": (20, 30), "width": (1, 2), "brightness": (0.3, 0.5), "angle": (-5, 5)}
    preparation._write_fit(RainProfile(rain, rain, None, None, 3, 3), folder / "rain.yaml", "rain")
    preparation._write_fit(ShakeProfile(3, 0), folder / "shake.yaml", "camera shake")
    assert "no shake to synthesize" in caplog.text and not (folder / "shake.yaml").exists()
    unprepared = replace(given, real=[], fit_rain=0.0, fit_shake=0.0)
    dataset = setup.build_dataset(unprepared, setup.open_all_sources(unprepared, 3), 4)
    before = dataset.degradation
    use_files(given, dataset, folder)
    assert [share for share, _ in dataset.degradation.parts] == [0.5, 0.5]
    (_, fitted), (_, rest) = dataset.degradation.parts
    assert fitted.parts[1][1].length == (20, 30) and rest == before


def test_a_run_that_fails_before_its_first_step_leaves_none_of_its_fits_and_weights(tiny_config):
    folder = Trainer(tiny_config(), progress_bar=False).folder
    for name in (preparation.RAIN_FILE, preparation.SHAKE_FILE):
        (folder.path / name).write_text("{}")
    folder.best.mkdir()
    folder.withdraw()
    assert not folder.path.exists()


def test_without_quarter_turns_upright_lines_stay_upright():
    photo = torch.zeros(3, 40, 40)
    photo[:, :, ::4] = 1
    for seed in range(8):
        patch = crop_patch(photo, 16, torch.Generator().manual_seed(seed), quarter_turns=False)
        assert torch.equal(patch[:, :1].expand_as(patch), patch)
