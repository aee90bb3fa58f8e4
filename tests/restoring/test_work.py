"""Photos are read ahead and written behind while others are restored; what is reported stays in order."""

import errno
import threading
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from daa_diffusers.restoring import stages
from daa_diffusers.restoring.options import Options
from daa_diffusers.restoring.outputs import find_jobs
from daa_diffusers.restoring.quiet import without_warnings
from daa_diffusers.restoring.work import restore_all

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)


class Pipeline:
    """Adds one to each value; `before` is called with the number of the photo."""

    def __init__(self, before=lambda number: None, device="cpu"):
        self.device, self.before, self.calls = torch.device(device), before, 0

    def __call__(self, photo, **options):
        self.calls += 1
        self.before(self.calls - 1)
        return types.SimpleNamespace(images=photo[None] + 1, guard=None)


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "album").mkdir()
    for number in range(6):
        Image.fromarray(PHOTO).save(tmp_path / f"album/{number}.png")
    return find_jobs([str(tmp_path / "album")], str(tmp_path / "out")).jobs


def until(happened):
    """Waits for what another thread does; fails where it does not."""
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.001)


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]


def test_the_next_photo_is_read_and_the_last_one_written_while_one_is_restored(jobs, monkeypatch):
    begun, original = [], stages.read
    monkeypatch.setattr(stages, "read", lambda job, options: begun.append(job) or original(job, options))

    def before(number):
        until(lambda: len(begun) >= min(number + 2, len(jobs)))  # the next one
        until(lambda: number == 0 or Path(jobs[number - 1].target).exists())
        assert len(begun) <= number + 2  # no more than that: large photos take memory

    records = list(restore_all(jobs, Options(guard=False), lambda: Pipeline(before)))
    assert [record["status"] for record in records] == 6 * ["restored"] and not running()
    for job in jobs:
        assert np.array_equal(np.asarray(Image.open(job.target)), PHOTO + 1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # where more photos are under way at a time
def test_records_come_in_order_whatever_fails(jobs, device):
    Path(jobs[1].source).write_bytes(b"no photo")
    Path(jobs[4].target).parent.mkdir()
    Path(jobs[4].target).write_bytes(b"there already")

    def before(number):
        if number == 2:  # the fourth, since the second cannot be read
            raise ValueError("not this one")

    records = list(restore_all(jobs, Options(guard=False), lambda: Pipeline(before, device)))
    assert [record["input"] for record in records] == [job.source for job in jobs]
    assert [record["status"] for record in records] == [
        "restored",
        "failed",
        "restored",
        "failed",
        "skipped",
        "restored",
    ]
    assert records[3]["reason"] == "not this one"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_full_disk_ends_the_run_with_the_photo_that_it_hit(jobs, device, monkeypatch):
    original = stages.write

    def full(one, job, options):
        if job == jobs[2]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(one, job, options)

    monkeypatch.setattr(stages, "write", full)
    records = []
    with pytest.raises(OSError, match="No space"):
        for record in restore_all(jobs, Options(guard=False), lambda: Pipeline(device=device)):
            records.append(record)
    assert [record["status"] for record in records] == ["restored", "restored", "failed"] and not running()
    if device == "cpu":
        assert sorted(path.name for path in Path(jobs[0].target).parent.iterdir()) == ["0.png", "1.png"]


def test_an_interrupted_run_reports_what_it_has_written(jobs):
    def before(number):
        if number == 2:
            raise KeyboardInterrupt

    records = []
    with pytest.raises(KeyboardInterrupt):
        for record in restore_all(jobs, Options(guard=False), lambda: Pipeline(before)):
            records.append(record)
    assert [record["status"] for record in records] == 2 * ["restored"] and not running()
    assert sorted(path.name for path in Path(jobs[0].target).parent.iterdir()) == ["0.png", "1.png"]


def test_a_caller_who_stops_asking_leaves_no_thread_and_whole_files(jobs):
    records = restore_all(jobs, Options(guard=False), lambda: Pipeline())
    next(records)
    records.close()
    assert not running()
    for path in Path(jobs[0].target).parent.iterdir():
        assert np.array_equal(np.asarray(Image.open(path)), PHOTO + 1)


def test_nothing_is_loaded_where_nothing_is_to_be_restored(jobs):
    def load():
        raise AssertionError

    records = list(restore_all(jobs, Options(dry_run=True), load))
    assert [record["status"] for record in records] == 6 * ["planned"] and not running()


def test_warnings_are_heard_again_after_threads_that_overlapped():
    before = list(warnings.filters)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with without_warnings():
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with without_warnings():
        thread.start()
        entered.wait(20)
    assert warnings.filters[0][0] == "ignore"  # the other thread is still inside
    leave.set()
    thread.join()
    assert warnings.filters == before
