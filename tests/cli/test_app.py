"""What all commands share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from daa_diffusers.cli.app import COMMANDS, app, main


@pytest.mark.parametrize(
    ("words", "offered"),
    [("daa re", ["restore"]), ("daa restore --gu", ["--guard"]), ("daa e", ["evaluate"]), ("daa zz", [])],
)
def test_the_shell_completes_commands_and_options(words, offered):
    asked = {"_DAA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    daa = Path(sys.executable).with_name("daa")  # beside the interpreter, whether or not that is on the PATH
    done = subprocess.run([daa], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == offered and done.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_output_has_the_same_short_form_in_every_command(name):
    command = typer.main.get_command(app).get_command(None, name)
    options = [parameter.opts for parameter in command.params if "--output" in parameter.opts]
    assert all(names == ["--output", "-o"] for names in options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["restore", "in", "-o", "out", "--strength", "abc"], ("'--strength'", "valid number", "'abc'")),
        (["restore", "in", "-o", "out", "--bits=x"], ("'--bits'", "valid integer", "'x'")),
        (["rank", "in", "--checkpoint", "x", "--top", "0"], ("'--top'", "greater than or equal to 1", "'0'")),
        (["restore", "in"], ("'--output'", "daa restore -h")),
        (["restore", "in", "--guar"], ("--guar", "--guard")),
        (["restore", "in", "-o"], ("'-o'", "requires an argument")),
        (["restore", "--", "in", "-o", "out"], ("Missing option '--output' / '-o' (daa restore -h",)),
        (["restor", "in"], ("'restor'", "'restore'")),
        (["restore", "in", "-o", ""], ("`-o` is empty", "is a shell variable unset")),
        (["restore", "", "-o", "out"], ("an argument is empty",)),
        (["info", "--revision="], ("`--revision` is empty",)),
    ],
)
def test_wrong_arguments_are_one_line_with_what_came(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert all(word in said.err for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fit album album/ -o n.yaml", "`photos` has 'album/' twice"),
        ("fit album -o /proc/n.yaml", "nothing can be written in '/proc'"),
        ("fit album --task derain --checkpoint none -o n.yaml", "`--checkpoint` 'none' is not a bundled checkpoint"),
        ("fit album --task", "(daa fit -h lists the arguments)"),
        ("fit-noise album --spread 0", "`--spread` must be a number in [1, 10], got 0.0"),
        ("adapt album album", "`photos` has 'album' twice"),
        ("bulk album album -o job", "`sources` has 'album' twice"),
        ("bulk album -o album", "must be new, empty or that of a job, but holds 'a.png'"),
        ("rank album --checkpoint none", "`--checkpoint` 'none' is not a bundled checkpoint"),
        ("rank album --checkpoint daa-denoise -o /proc/x.csv", "nothing can be written in '/proc'"),
        ("evaluate album --clean album -o album/a.png", "a.png' is not a folder"),
        ("evaluate album -o /proc/x", "nothing can be written in '/proc'"),
        ("convert daa-denoise none/x.onnx", "`output` must be in an existing folder, got 'none/x.onnx'"),
        ("convert daa-denoise /proc/x.onnx", "nothing can be written in '/proc'"),
        ("info album", "'album' is not a pipeline folder: model_index.json is missing; the folder has"),
        ("push album org/name", "the folder has 1 x .png"),
    ],
)
def test_wrong_places_are_one_line_before_any_work(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("album").mkdir()
    Image.new("RGB", (8, 8)).save("album/a.png")
    assert main(arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err
    assert [str(path) for path in Path().rglob("*")] == ["album", "album/a.png"]


def test_a_hub_that_is_not_reached_is_one_line_with_what_was_asked_for(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["info", "org/nothing"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: the Hub cannot be reached: 'org/nothing' (no folder or file here): ")
    assert "\n" not in said
