"""Runs on a disk that is full, or fills: what was kept stays whole, and the message names what is needed."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.files import UnwritableError
from daa_diffusers.training import run_folder
from daa_diffusers.training import run_state as checkpoint
from daa_diffusers.training.log import RunLog
from daa_diffusers.training.loop import train
from daa_diffusers.training.run_state import list_checkpoints


def quiet(config):
    return train(config, progress_bar=False)


@pytest.fixture
def small_disk(disk_of):
    """A file system of 300 kB."""
    return disk_of("300k")


def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk):
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.Adam(model.parameters())
    ema = checkpoint.EMAModel(model.parameters())
    options = {"model": model, "ema": ema, "optimizer": optimizer, "counters": {}, "keep": 3}
    good = checkpoint.save_checkpoint(small_disk, step=1, **options)
    before = {file.name: file.read_bytes() for file in good.iterdir()}
    save_file({"ballast": torch.zeros(55_000)}, small_disk / "ballast.safetensors")
    with pytest.raises(CheckpointError, match=r"needs about 0\.0 MB.*0\.0 MB are free"):
        checkpoint.save_checkpoint(small_disk, step=2, **options)
    assert list_checkpoints(small_disk) == [good]
    assert {file.name: file.read_bytes() for file in good.iterdir()} == before
    assert not list(small_disk.glob(".*"))


def test_a_log_that_no_line_fits_into_is_named(small_disk):
    log = RunLog(Accelerator(cpu=True), small_disk / "log.jsonl")
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(UnwritableError, match=f"the disk of '{small_disk}' is full: 'log.jsonl' needs more than"):
        log.write(1, {"loss": 1.0})


def test_a_disk_full_at_the_end_leaves_the_run_to_be_saved_later(disk_of, tiny_config):
    disk = disk_of("48m")
    config = tiny_config(output_dir=str(disk / "run"), objective="supervised", real=[], steps=2, checkpoint_every=0)
    pipeline = quiet(config).pipeline
    saved = {path: path.read_bytes() for path in (disk / "run").rglob("*.safetensors")}
    shutil.rmtree(pipeline)
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 40_960))
    full = (
        rf"all steps are done and .* the disk of '{disk / 'run'}' is full: 'pipeline' needs about 2.1 MB, .* are free"
    )
    with pytest.raises(CheckpointError, match=full):
        quiet(config)
    assert {path: path.read_bytes() for path in (disk / "run").rglob("*.safetensors")}.items() <= saved.items()
    assert not pipeline.exists() and [path.name for path in pipeline.parent.glob(".*")] == [run_folder.LOCK_FILE]
    (disk / "ballast").unlink()
    quiet(config)
    assert {path: path.read_bytes() for path in (disk / "run").rglob("*.safetensors")} == saved


def test_a_disk_without_room_for_a_checkpoint_is_refused_before_the_first_step(disk_of, tiny_config):
    disk = disk_of("1m")
    with pytest.raises(
        ConfigurationError, match=r"`output_dir` .*run': a run needs about 1.* MB there, 1.0 MB are free"
    ):
        quiet(tiny_config(output_dir=str(disk / "run")))
    assert not list(disk.iterdir())
