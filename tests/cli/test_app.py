"""What all commands share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

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
        (["restor", "in"], ("'restor'", "'restore'")),
        (["restore", "in", "-o", ""], ("`-o` is empty", "variable of the shell")),
        (["restore", "", "-o", "out"], ("an argument is empty",)),
        (["info", "--revision="], ("`--revision` is empty",)),
    ],
)
def test_wrong_arguments_are_one_line_with_what_came(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert all(word in said.err for word in words)


def test_a_hub_that_is_not_reached_is_one_line_with_what_was_asked_for(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["info", "org/nothing"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: the Hub cannot be reached: 'org/nothing' (no folder or file here): ")
    assert "\n" not in said
