"""`daa` and `daa fit-noise`, run as people run them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from daa_diffusers.cli.app import COMMANDS, main
from daa_diffusers.degradations.base import degradation_from_config
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training.config import parse_arguments

from ..conftest import PROJECT_ROOT


def test_help_lists_the_commands_and_loads_nothing_heavy():
    program = (
        "import json, sys\nfrom daa_diffusers.cli.app import main\nstatus = main(['--help'])\n"
        "print(json.dumps([status, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert not {"torch", "numpy", "diffusers", "PIL", "yaml", "matplotlib"} & set(modules)


def test_a_folder_becomes_a_degradation_file_and_a_picture(noisy_folder, tmp_path, capsys):
    output, plot = tmp_path / "noise.yaml", tmp_path / "noise.png"
    assert main(["fit-noise", str(noisy_folder), "--output", str(output), "--plot", str(plot), "--spread", "1.1"]) == 0
    said = capsys.readouterr().out
    assert "3 photos used" in said and "white" in said and str(output) in said
    noise = degradation_from_config(yaml.safe_load(output.read_text()))
    assert noise.spread == 1.1
    assert noise.deviation_of(torch.full((1, 3, 1, 1), 0.4)).mean() * 255 == pytest.approx(15, rel=0.15)
    assert output.read_text().startswith("# 3 photos used")
    assert Image.open(plot).size[0] > 500
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my photos", "noise.png", "noise.yaml"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: ["fit-noise", str(f / "none")], "must be an existing folder"),
        (lambda f: ["fit-noise", str(f), "--output", str(f / "noise.txt")], "must end in .yaml"),
        (lambda f: ["fit-noise", str(f), "--output", str(f / "no" / "noise.yaml")], "there is no "),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_without_traceback(change, message, noisy_folder, capsys):
    assert main(change(noisy_folder)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_debug_shows_where(noisy_folder):
    with pytest.raises(ValueError, match="must be an existing folder"):
        main(["fit-noise", str(noisy_folder / "none"), "--debug"])


def test_photos_without_noise_write_nothing(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    ramp = np.tile(np.linspace(50, 200, 96).round().astype(np.uint8)[:, None], (1, 96))
    for number in range(3):
        Image.fromarray(np.rot90(ramp, number)).save(folder / f"{number}.png")
    assert main(["fit-noise", str(folder), "--output", str(tmp_path / "noise.yaml")]) == 2
    said = capsys.readouterr()
    assert "No noise found" in said.out and "no noise to synthesize" in said.err
    assert not (tmp_path / "noise.yaml").exists()


def test_an_unknown_command_and_no_command_are_answered(capsys):
    assert main(["fit-nois"]) == 2
    assert "fit-nois" in capsys.readouterr().err
    assert main([]) in (0, 2)
    assert "fit-noise" in "".join(capsys.readouterr())


def test_the_file_is_the_degradation_of_a_training_run(noisy_folder, tmp_path, monkeypatch):
    assert main(["fit-noise", str(noisy_folder), "--output", str(tmp_path / "noise.yaml")]) == 0
    found = yaml.safe_load((tmp_path / "noise.yaml").read_text())
    needed = ["--variant", "vanilla", "--clean", str(noisy_folder)]
    assert parse_arguments([*needed, "--degradation", str(tmp_path / "noise.yaml")]).degradation == found
    monkeypatch.setenv("NOISE", str(tmp_path))
    (tmp_path / "run.yaml").write_text("degradation: $NOISE/noise.yaml")
    assert parse_arguments([*needed, "--config", str(tmp_path / "run.yaml")]).degradation == found
    assert parse_arguments([*needed, "--degradation", "camera"]).degradation == {"type": "camera"}
    with pytest.raises(ConfigurationError, match="`degradation` must be a readable YAML or JSON file"):
        parse_arguments([*needed, "--degradation", str(tmp_path / "none.yaml")])
