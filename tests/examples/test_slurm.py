"""The batch script: its options exist, and at its time limit the run saves and the job is queued again."""

import os
import re
import shlex
import subprocess
import sys
import time

import pytest

from daa_diffusers.training.config.command_line import typed_options

from ..conftest import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "examples" / "slurm" / "adapt.sbatch"
QUICK = "--log_every 1 --patch 16 --batch_size 2 --threads 1 --report_to none --no_health --validate_every 0 "
QUICK += "--predictor_warmup_steps 1 --fit_noise 0 --no_pseudo_clean --no_probe_learning_rate --no_hold_to_start"


def test_the_script_is_valid_and_names_options_that_exist():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    text = SCRIPT.read_text()
    command = re.search(r"^python examples/train_daa.py (.*?) \"\$@\" &$", text, re.DOTALL | re.MULTILINE)[1]
    typed = typed_options(shlex.split(command.replace("\\\n", " ")))
    assert {"preset", "init_from", "clean", "real", "output_dir"} <= set(typed)
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert re.fullmatch(r"B:TERM@\d+", asked["signal"]) and "requeue" in asked and asked["open-mode"] == "append"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_at_the_time_limit_the_run_saves_and_the_job_is_queued_again(photo_folders, tmp_path):
    """Slurm itself is not there: its signal goes to the shell, as with `B:`, and `scontrol` writes down what it got."""
    programs = {"python": f'exec "{sys.executable}" "$@"', "scontrol": f'echo "$@" >> "{tmp_path}/asked"'}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    output = tmp_path / "run"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT_ROOT)}
    environment |= {
        "SLURM_JOB_ID": "7",
        "CLEAN": str(photo_folders / "clean"),
        "REAL": str(photo_folders / "real"),
        "OUTPUT": str(output),
    }

    def run(steps):
        command = ["bash", SCRIPT, *QUICK.split(), "--steps", str(steps), "--resume_with_changes"]
        return subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    job = run(100_000)
    while not (output / "log.jsonl").exists() and job.poll() is None:
        time.sleep(0.1)
    job.terminate()
    assert job.wait(timeout=800) == 143, job.stderr.read()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    (saved,) = (output / "checkpoints").glob("step-*")
    job = run(int(saved.name.split("-")[1]) + 2)
    assert job.wait(timeout=800) == 0, job.stderr.read()
    assert (output / "pipeline" / "model_index.json").is_file()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
