"""`daa rank`, run as people run it."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.cli.app import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    unet = DAAUNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8
    )
    folder = tmp_path_factory.mktemp("run") / "pipeline"
    DAARestorationPipeline(RestorationUNet(width=4, depth=2), unet).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(draws.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / f"photo {number}.png")
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


def test_a_table_a_file_and_json_say_the_same(folder, checkpoint, tmp_path, capsys):
    assert main(["rank", str(folder), "--checkpoint", checkpoint, "--output", str(tmp_path / "r.csv")]) == 0
    said = capsys.readouterr()
    lines = [line.split(maxsplit=2) for line in said.out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert {line[2] for line in lines} == {"photo 0.png", "photo 1.png", "photo 2.png"}
    assert "skipped: broken.jpg" in said.err and "r.csv" in said.err
    with open(tmp_path / "r.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == [line[2] for line in lines]

    arguments = ["rank", str(folder), "--checkpoint", checkpoint, "--json", "--top", "2"]
    assert main([*arguments, "--output", str(tmp_path / "r.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["photo"] for row in printed["photos"]] == [row["photo"] for row in rows][:2]
    assert [row["score"] for row in printed["photos"]] == [float(row["score"]) for row in rows][:2]
    assert list(printed["skipped"]) == ["broken.jpg"]
    assert len(json.loads((tmp_path / "r.json").read_text())["photos"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, c, t: [str(f / "none"), "--checkpoint", c], "must be an existing folder"),
        (lambda f, c, t: [str(f), "--checkpoint", c, "--output", "ranks.txt"], "must be a .csv or .json file"),
        (lambda f, c, t: [str(f), "--checkpoint", c, "--output", str(t / "no" / "r.csv")], "in an existing folder"),
        (lambda f, c, t: [str(f), "--checkpoint", "daa-denoise"], "holds no noise predictor"),
        (lambda f, c, t: [str(f), "--checkpoint", str(t / "nothing")], "is not a bundled checkpoint"),
        (lambda f, c, t: [str(f), "--checkpoint", c, "--restored", "--against-input"], "remove `--restored`"),
        (lambda f, c, t: [str(f)], "--checkpoint"),
    ],
)
def test_what_cannot_be_done_is_said_without_traceback(change, message, folder, checkpoint, tmp_path, capsys):
    assert main(["rank", *change(folder, checkpoint, tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and "Traceback" not in error
