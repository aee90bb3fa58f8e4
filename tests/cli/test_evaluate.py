"""`daa evaluate`, run as people run it."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.checkpoints import bundled_path
from daa_diffusers.cli.app import main
from daa_diffusers.cli.evaluate import row_names
from daa_diffusers.hub.description import describe


@pytest.fixture
def folders(tmp_path):
    draws = np.random.default_rng(0)
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
    for number in range(3):
        photo = data.coffee()[40 * number : 40 * number + 72, 100:180]
        Image.fromarray(photo).save(tmp_path / "clean" / f"{number}.png")
        noisy = (photo + draws.normal(0, 25, photo.shape)).clip(0, 255).round().astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / "noisy" / f"{number}.png")
    (tmp_path / "noisy" / "broken.png").write_bytes(b"no photo")
    (tmp_path / "clean" / "broken.png").write_bytes(b"no photo")
    return tmp_path


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(str(tmp_path / "mine" / "pipeline"))
    return str(tmp_path / "mine" / "pipeline")


def test_pairs_are_scored_beside_the_untouched_input_and_a_broken_photo_is_named(folders, checkpoint, capsys):
    chosen = ("--checkpoint", "daa-denoise", "--checkpoint", checkpoint, "--baseline", "daa-denoise")
    options = ("--clean", str(folders / "clean"), *chosen, "--output", str(folders / "report"))
    assert main(["evaluate", str(folders / "noisy"), *options]) == 0
    said = capsys.readouterr()
    assert all(f"| {row} " in said.out for row in ("identity", "daa-denoise", "mine/pipeline"))
    assert "skipped: broken" in said.err and "PSNR" in said.out
    with open(folders / "report" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["row"] for row in rows} == {"identity", "daa-denoise", "mine/pipeline"}
    means = {
        name: np.mean([float(r["psnr"]) for r in rows if r["row"] == name]) for name in ("identity", "daa-denoise")
    }
    assert means["daa-denoise"] > means["identity"] + 3
    assert (folders / "report" / "report.md").exists() and len(list((folders / "report").glob("sheet-*.png"))) == 1


def test_photos_without_ground_truth_are_judged_without_it(folders, capsys):
    assert main(["evaluate", str(folders / "noisy"), "--checkpoint", "daa-denoise"]) == 0
    said = capsys.readouterr().out
    assert "Label-free" in said and "PSNR" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--space", "lab"), "`--space` must be rgb or y"),
        (("--baseline", "plain"), "`--baseline` must be one of identity, daa-denoise"),
        (("--metrics", "psnr"), "`--clean` is not given"),
        (("--checkpoint", "daa-denois"), "did you mean 'daa-denoise'"),
        (("--checkpoint", "daa-denoise", "--checkpoint", "daa-denoise"), "is given twice"),
        (("--clean", "nowhere"), "nowhere"),
    ],
)
def test_wrong_arguments_are_named_without_a_traceback(folders, capsys, options, message):
    assert main(["evaluate", str(folders / "noisy"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_bursts_are_scored_without_ground_truth(tmp_path, checkpoint, capsys):
    draws, photo = np.random.default_rng(0), data.coffee()[40:136, 100:228]
    (tmp_path / "bursts" / "cup").mkdir(parents=True)
    for frame in range(2):
        noisy = (photo + draws.normal(0, 10, photo.shape)).clip(0, 255).round().astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / "bursts" / "cup" / f"{frame}.png")
    options = ("--bursts", str(tmp_path / "bursts"), "--checkpoint", checkpoint)
    assert main(["evaluate", *options, "--output", str(tmp_path / "report")]) == 0
    assert "| identity " in capsys.readouterr().out and (tmp_path / "report" / "report.md").exists()
    assert main(["evaluate", str(tmp_path), *options]) == 2
    assert "give either a folder of photos or `--bursts`" in capsys.readouterr().err


def test_rows_are_named_by_what_tells_checkpoints_apart():
    assert list(row_names(["daa-denoise", "runs/a/pipeline", "runs/b/pipeline", "x/daa-denoise"])) == [
        "daa-denoise",
        "a/pipeline",
        "b/pipeline",
        "x/daa-denoise",
    ]


def test_numbers_can_be_recorded_for_the_card(tmp_path, capsys):
    DAARestorationPipeline(RestorationUNet(width=8, depth=2)).save_pretrained(tmp_path / "mine")
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    photos, mine = str(tmp_path / "photos"), str(tmp_path / "mine")
    command = ["evaluate", photos, "--clean", photos, "--record", "my camera", "--checkpoint"]
    assert main([*command, "daa-denoise"]) == 2
    assert "`--record` needs" in capsys.readouterr().err
    (tmp_path / "mine" / "evaluation.json").write_text("{}")  # holds no protocol yet
    assert main([*command, mine]) == 0
    assert describe(tmp_path / "mine").evaluation["sets"][0]["set"] == "my camera"
    capsys.readouterr()
    assert main([*command, mine, "--space", "y"]) == 2  # and nothing was measured
    said = capsys.readouterr()
    assert "all entries must have the same protocol" in said.err and "| identity" not in said.out
    assert main([*command, mine, "--metrics", "ssim"]) == 2
    assert "must include a PSNR" in capsys.readouterr().err


def test_the_folder_of_a_run_stands_for_its_pipeline(folders, checkpoint, capsys):
    run = checkpoint.removesuffix("/pipeline")
    options = ("--clean", str(folders / "clean"), "--checkpoint", run, "--record", "my camera")
    assert main(["evaluate", str(folders / "noisy"), *options]) == 0
    said = capsys.readouterr()
    assert "| mine " in said.out and "noisy/broken.png" in said.err
    assert describe(folders / "mine" / "pipeline").evaluation["sets"][0]["photos"] == 3


def test_nothing_is_recorded_into_a_bundled_checkpoint(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "daa-denoise").mkdir()  # of the same name, but the name means the bundled one
    options = ("--clean", str(folders / "clean"), "--checkpoint", "daa-denoise", "--record", "my camera")
    assert main(["evaluate", str(folders / "noisy"), *options]) == 2
    said = capsys.readouterr()
    assert "`folder` must be the folder of a pipeline, got 'daa-denoise'" in said.err and "| identity" not in said.out
    assert "my camera" not in str(describe(bundled_path("daa-denoise")).evaluation)
