"""What all commands share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("words", "offered"),
    [("daa re", ["restore"]), ("daa restore --gu", ["--guard"]), ("daa e", ["evaluate"]), ("daa zz", [])],
)
def test_the_shell_completes_commands_and_options(words, offered):
    asked = {"_DAA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    daa = Path(sys.executable).with_name("daa")  # beside the interpreter, whether or not that is on the PATH
    done = subprocess.run([daa], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == offered and done.stderr == ""
