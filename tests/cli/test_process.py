"""Ctrl-C of a command: one line, exit status 130, also where the exception of the signal is lost."""

import os
import signal
import subprocess
import sys
import weakref

import pytest

from daa_diffusers.cli import process
from daa_diffusers.restoring import stages

from ..conftest import PROJECT_ROOT, TAKES_CTRL_C
from .conftest import files


@pytest.fixture
def ctrl_c():
    """Presses Ctrl-C; in a test run in the background, which ignores it, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


class _Freed:
    pass


def lose(press):
    """Presses Ctrl-C in a finalizer, where Python reports the exception and goes on."""
    freed = _Freed()
    weakref.finalize(freed, press)


def test_a_command_that_loses_the_exception_ends_as_interrupted(ctrl_c, capsys):
    def command():
        lose(ctrl_c)
        return 0

    assert process.run(command, is_last=False) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert process.run(lambda: 0, is_last=False) == 0


def test_restoring_ends_with_the_photo_that_loses_the_exception(ctrl_c, album, tmp_path, restore, capsys, monkeypatch):
    original = stages.restore

    def losing(*arguments):
        lose(ctrl_c)
        return original(*arguments)

    monkeypatch.setattr(stages, "restore", losing)
    assert restore(album, "-o", tmp_path / "out") == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted; ") and said.endswith(" restored; the same command resumes\n")
    assert 0 < len(files(tmp_path / "out")) < len(files(album))


def test_a_command_in_the_background_of_a_script_ignores_ctrl_c_as_before(ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert process.run(lambda: ctrl_c() or 0, is_last=False) == 0


@pytest.mark.parametrize(
    "program",
    [
        "from daa_diffusers.cli.app import main; sys.exit(main())",
        "sys.path.insert(0, 'examples'); import train_daa; sys.exit(train_daa.main())",
    ],
    ids=["daa", "train_daa.py"],
)
def test_ctrl_c_in_the_first_imports_is_one_line(program):
    # the first import that a command makes after its start presses Ctrl-C
    press = "import signal, sys; sys.argv[1:] = ['info', 'daa-denoise']\nclass Press:\n"
    press += "    def find_spec(self, name, *more):\n        name == 'torch' and signal.raise_signal(signal.SIGINT)\n"
    done = subprocess.run(
        [sys.executable, "-c", press + "sys.meta_path.insert(0, Press())\n" + program],
        cwd=PROJECT_ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, **TAKES_CTRL_C,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
