"""`daa adapt`, run as people run it: a folder of photos, a minute or less."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.cli.app import main
from daa_diffusers.training import memory_need, safeguard, setup


@pytest.fixture
def photos(noisy_folder):
    (noisy_folder / "broken.jpg").write_bytes(b"no photo")
    return noisy_folder


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(0)
    restorer = RestorationUNet(width=4, depth=2)
    torch.nn.init.zeros_(restorer.conv_out.weight)  # removes nothing yet, so that the estimate of noise does not use it
    torch.nn.init.zeros_(restorer.conv_out.bias)
    DAARestorationPipeline(restorer).save_pretrained(str(tmp_path / "start"))
    return str(tmp_path / "start")


def test_a_folder_of_photos_is_all_it_takes(photos, start, opened, tmp_path, capsys):
    output = tmp_path / "adapted"
    command = ["adapt", str(photos), "--checkpoint", start, "--output", str(output), "--minutes", "0.02"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert (
        "scikit-image's" in said
        and "broken.jpg: its content is not a photo" in said
        and f"--checkpoint {output / 'pipeline'}" in said
    )
    assert "chosen: the preset" in said
    pipeline = str(output / "pipeline")
    assert opened == [start, str(photos), f"{output}_clean_photos", start, pipeline]  # the last two for the sheet
    with Image.open(output / "before_after.png") as sheet:
        assert sheet.width > 3 * 200
    restored = DAARestorationPipeline.from_pretrained(str(output / "pipeline"))
    assert restored(Image.open(photos / "0.png")).images[0].size == (200, 160)
    shutil.copytree(output / "pipeline", tmp_path / "moved")  # the guard protects it wherever it lies
    moved = DAARestorationPipeline.from_pretrained(str(tmp_path / "moved"))
    assert moved.task == "denoise" and moved(Image.open(photos / "0.png"), guard=True).guard is not None
    options = yaml.safe_load((output / "options.yaml").read_text())
    assert options["fit_noise"] == 0.75 and options["pseudo_clean"] and options["minutes"] == 0.02
    assert main(command) == 0  # again: it is done already
    assert json.loads((output / "run.json").read_text())["steps"] == options["steps"]


def test_a_run_that_gains_nothing_says_so_and_has_a_status_of_its_own(photos, start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(safeguard, "TOLERATED", -100.0)  # nothing is good enough
    output = tmp_path / "adapted"
    assert main(["adapt", str(photos), "--checkpoint", start, "--output", str(output), "--minutes", "0.02"]) == 3
    said = capsys.readouterr().out
    assert f"no trained weights restore better than {start}" in said and "unchanged" in said
    before, after = (DAARestorationPipeline.from_pretrained(str(p)).restorer for p in (start, output / "pipeline"))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_alarms_name_the_options_of_this_command(photos, start, tmp_path, capsys, caplog):
    command = ["adapt", str(photos), "--checkpoint", start, "--output", str(tmp_path / "adapted"), "--minutes", "0.02"]
    main(command)
    said = capsys.readouterr().out + caplog.text
    assert "only 4 real photos" in said and "Add photos to `photos`" in said and "`steps`" not in said


@pytest.mark.parametrize("task", ["derain", "deblur"])
def test_rain_and_shake_are_fitted_and_noise_is_not(photos, start, tmp_path, capsys, task):
    command = ["adapt", str(photos), "--checkpoint", start, "--output", str(tmp_path / "out"), "--task", task]
    assert main([*command, "--clean", str(photos), "--dry-run"]) == 2  # the real photos are no clean ones
    assert "clean" in capsys.readouterr().err
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "fit_noise: 0.0" in said and "pseudo_clean: false" in said
    assert ("fit_rain: 0.43" in said) == ("transplant: 0.43" in said) == (task == "derain")
    assert ("fit_shake: 0.5" in said) == (task == "deblur")
    assert main(["adapt", str(photos), "--output", str(tmp_path / "out"), "--task", task, "--dry-run"]) == 0
    bundled = {"derain": "daa-derain", "deblur": "daa-deblur"}[task]
    assert f"init_from: {bundled}\n" in capsys.readouterr().out
    assert not (tmp_path / "out" / "pipeline").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "dehaze"), "`--task` must be one of denoise, derain, deblur"),
        (("--minutes", "0"), "`--minutes` must be above 0"),
        (("--checkpoint", "daa-denois"), "did you mean"),
    ],
)
def test_wrong_arguments_are_named_without_a_traceback(photos, tmp_path, capsys, options, message):
    assert main(["adapt", str(photos), "--output", str(tmp_path / "out"), "--dry-run", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    for more in ([], ["--dry-run"]):
        assert main(["adapt", str(tmp_path / "none"), "--output", str(tmp_path / "out"), *more]) == 2
        assert "`photos` must be an existing folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_clean_photos_that_are_not_there_are_named(photos, tmp_path, capsys, more):
    before = sorted(tmp_path.rglob("*"))
    command = ["adapt", str(photos), "--clean", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert main([*command, *more]) == 2
    assert "`--clean` must be an existing folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_writes_nothing(photos, start, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    command = ["adapt", str(photos), "--checkpoint", start, "--output", str(tmp_path / "out"), "--dry-run"]
    assert main(command) == 0
    assert f"clean:\n- {tmp_path / 'out_clean_photos'}\n" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_says_its_own_task(photos, tmp_path, capsys):
    command = ["adapt", str(photos), "--checkpoint", "daa-derain", "--output", str(tmp_path / "out"), "--dry-run"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "type: rain" in said.out and "warning" not in said.err
    assert main([*command, "--task", "denoise"]) == 0
    said = capsys.readouterr()
    assert (
        "type: camera" in said.out and "daa-derain was trained for task derain, but is adapted to denoise" in said.err
    )


def test_errors_name_the_options_of_this_command(photos, start, tmp_path, capsys, caplog):
    command = ["adapt", str(photos), "--checkpoint", start, "--output", str(tmp_path / "out"), "--minutes", "0.01"]
    assert main(command) == 0
    assert re.search(r"took all of the 0.01 minutes, so that .*; with `--minutes` [0-9.]+, half", caplog.text)
    assert main([*command, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert "`--output`" in error and "resume_with_changes" not in error and "seed: 0 there, 1 now" in error


def test_clean_photos_are_nothing_to_adapt_to_and_nothing_is_written(start, tmp_path, capsys):
    folder = tmp_path / "clean ones"
    folder.mkdir()
    ramp = np.tile(np.linspace(50, 200, 96).round().astype(np.uint8)[:, None, None], (1, 96, 3))
    for number in range(4):
        Image.fromarray(np.rot90(ramp, number)).save(folder / f"{number}.png")
    before = sorted(tmp_path.rglob("*"))
    assert main(["adapt", str(folder), "--checkpoint", start, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "there is nothing to adapt to: in 4 of 4 photos no noise can be measured" in error
    assert "3.png: no noise" in error and "`photos`" in error
    assert sorted(tmp_path.rglob("*")) == before


def test_names_of_this_command_are_given_to_logs_while_it_runs_and_no_longer(caplog):
    from daa_diffusers.cli.option_names import adapt_option_names

    logger = logging.getLogger("daa_diffusers.sources.folders")
    with adapt_option_names():
        logger.warning("`real`: skipped")
    logger.warning("`real`: skipped")
    assert caplog.messages == ["`photos`: skipped", "`real`: skipped"]


def test_too_few_photos_are_said_before_anything_is_written(tmp_path, start, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(photos / "one.png")
    assert main(["adapt", str(photos), "--checkpoint", start, "--output", str(tmp_path / "out")]) == 2
    assert "`photos` must hold at least 3 photos to fit noise, got 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out_clean_photos").exists()


@pytest.fixture
def opened(monkeypatch):
    """What is opened: checkpoints, and sources of photos."""
    names: list[str] = []
    for module, name in ((setup, "open_source"), (DAARestorationPipeline, "from_pretrained")):
        real = getattr(module, name)

        def counting(what, real=real, **options):
            names.append(str(what))
            return real(what, **options)

        monkeypatch.setattr(module, name, counting)
    return names


def test_the_method_is_printed_when_all_checks_have_passed(photos, start, opened, tmp_path, capsys, monkeypatch):
    command = ["adapt", str(photos), "--checkpoint", start, "--output"]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    assert main([*command, str(tmp_path / "foreign")]) == 2
    assert "`--output` must be a new or empty folder" in capsys.readouterr().err and not opened
    monkeypatch.setattr(memory_need, "free_memory", lambda device: 1)  # checked by the trainer
    assert main([*command, str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "activations" in said.err and "chosen:" not in said.out and not (tmp_path / "out").exists()
