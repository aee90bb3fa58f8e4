"""Bulk restoration on a Ray cluster of this machine: nothing twice, nothing left out, whoever dies."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from daa_diffusers.bulk import read_manifest, restore_job
from daa_diffusers.bulk.cluster import ShardWorker, _fitting_workers
from daa_diffusers.bulk.job import sole_writer
from daa_diffusers.bulk.shards import MAX_DEATHS, AttemptLog, restorer_fingerprint
from daa_diffusers.errors import CheckpointError, ConfigurationError

from .conftest import lines, png, tar_files

PHOTOS, PHOTOS_PER_SHARD = 36, 6


def test_without_ray_the_error_names_the_extra(monkeypatch, album, plan):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'daa-diffusers\[ray\]'"):
        next(restore_job(plan(album)))


@pytest.mark.parametrize(
    ("cpus", "gpus", "wanted"), [(1, 0, 16), (4, 0, 4), (1, 1, 2), (1, 0.25, 8), (4, 0.25, 4), (0, 0.5, 4)]
)
def test_the_cluster_says_how_many_workers_it_holds(cpus, gpus, wanted):
    assert _fitting_workers({"CPU": 16, "GPU": 2}, cpus, gpus) == wanted


@pytest.mark.parametrize(
    ("cpus", "gpus", "message"),
    [(17, 0, "a worker needs 17 CPUs"), (1, 3, "and 3 GPUs"), (0, 0, "needs CPUs or GPUs"), (-1, 0, "got -1")],
)
def test_a_cluster_that_is_too_small_is_said_to_be(cpus, gpus, message):
    with pytest.raises(ConfigurationError, match=message):
        _fitting_workers({"CPU": 16, "GPU": 2}, cpus, gpus)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999"]
)
def test_a_wrong_address_is_said_at_once(album, plan, address):
    pytest.importorskip("ray")
    with pytest.raises(ConfigurationError, match=f"`address`: no Ray cluster at '{address}'"):
        next(restore_job(plan(album), address=address))


def test_a_worker_restores_shards_with_the_pipeline_of_the_job(album, plan, pipeline, tmp_path, monkeypatch):
    job = plan(album, fingerprint=restorer_fingerprint(pipeline))
    monkeypatch.chdir(tmp_path)  # back, afterwards
    worker = ShardWorker(str(job.folder), "cpu", 1)
    assert os.getcwd() == job.working_folder
    result = worker({"shard": [1]})
    assert (result["restored"], result["failed"], result["error"], result["stops"]) == ([1], [2], [""], [False])
    assert job.unfinished() == [0, 2]


def test_a_machine_with_other_weights_is_refused(album, plan, monkeypatch, tmp_path):
    job = plan(album, fingerprint="0123456789abcdef")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="has other weights here than where the job was planned"):
        ShardWorker(str(job.folder), "cpu", 1)


def test_what_is_no_photos_fault_leaves_the_shard_and_says_why(album, plan, monkeypatch, tmp_path):
    job = plan(album)
    monkeypatch.chdir(tmp_path)
    job.tar_path(1).mkdir()  # nothing can be renamed to it
    result = ShardWorker(str(job.folder), "cpu", 1)({"shard": [1]})
    assert result["error"][0].startswith("IsADirectoryError") and result["restored"] == [0]
    assert job.unfinished() == [0, 1, 2]


def fill(disk, *, but):
    """Fills a disk of which `but` bytes stay free."""
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - but))


def test_a_full_disk_is_said_and_stops_the_job_and_no_photo_is_blamed(small_disk, album, plan, monkeypatch, tmp_path):
    job = plan(album, folder="small disk/out")
    monkeypatch.chdir(tmp_path)
    worker = ShardWorker(str(job.folder), "cpu", 1)
    fill(small_disk, but=12_288)  # less than the shard
    for _ in range(MAX_DEATHS + 1):
        result = worker({"shard": [0]})
        assert result["stops"] == [True] and result["restored"] == [0]
        assert f"the disk of '{job.folder}' is full: '000000.tar' needs more than the " in result["error"][0]
        with open(small_disk / "ballast", "ab") as file, contextlib.suppress(OSError):
            file.write(bytes(2**20))  # not even a line of the log fits now
    (small_disk / "ballast").unlink()
    assert {**worker({"shard": [0]}), "seconds": 0}["restored"] == [3]


def test_a_log_that_no_line_fits_into_blames_no_photo(small_disk):
    path = small_disk / "0.log"
    log = AttemptLog(path)
    log.begin("1" * (os.sysconf("SC_PAGE_SIZE") - path.stat().st_size - 1))
    fill(small_disk, but=0)
    log.close()
    assert AttemptLog(path).deaths.total() == 0


def test_a_job_is_not_planned_on_a_disk_without_room(small_disk, album, plan, tmp_path):
    fill(small_disk, but=4096)
    with pytest.raises(OSError, match=r"the disk of .* is full"):
        plan(album, folder="small disk/out", photos_per_shard=1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="is read-only: choose another folder"), sole_writer(small_disk / "new"):
        pass


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # 15 unless said otherwise: too low for a test on a busy machine
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
        yield ray
        ray.shutdown()


def kill_a_worker(job, killed):
    """Waits until a process has photos of a shard behind it, and kills it."""
    while not killed:
        for path in (job.folder / "attempts").glob("*.log"):
            try:
                who, *begun = path.read_text().splitlines()[-1].split(" ")
            except (FileNotFoundError, IndexError):  # the shard is finished, or just begun
                continue
            if len(begun) >= 2 and begun[-1] not in ("-", "end"):
                os.kill(int(who.rpartition(":")[2]), signal.SIGKILL)
                killed.append(path.stem)
                return
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_killed_worker_and_a_restarted_job_leave_each_photo_once(cluster, tmp_path, plan, pipeline):
    album = tmp_path / "album"
    album.mkdir()
    for number in range(PHOTOS - 1):
        (album / f"{number:03}.png").write_bytes(png(number))
    (album / "999.png").write_bytes(b"no photo")
    fingerprint = restorer_fingerprint(pipeline)
    job = plan(album, photos_per_shard=PHOTOS_PER_SHARD, fingerprint=fingerprint)
    killed = []
    killer = threading.Thread(target=kill_a_worker, args=(job, killed), daemon=True)
    killer.start()
    first = []
    for result in restore_job(job):
        first.append(result)
        if killed and len(first) >= 3:
            break  # the job is stopped in the middle
    assert len(killed) == 1 and 3 <= len(first) <= 6
    done = set(range(job.shards)) - set(job.unfinished())
    assert {result.shard for result in first} <= done
    kept = {number: job.tar_path(number).stat().st_mtime_ns for number in done}

    time.sleep(1)
    job = plan(album, photos_per_shard=PHOTOS_PER_SHARD, fingerprint=fingerprint)
    second = list(restore_job(job))
    assert not any(result.error for result in [*first, *second])
    assert not {result.shard for result in second} & done and job.unfinished() == []
    assert {number: job.tar_path(number).stat().st_mtime_ns for number in done} == kept
    records = lines(job.join_manifest())
    assert [record["key"] for record in records] == [f"{k:03}" for k in range(PHOTOS - 1)] + ["999"]
    assert [record["status"] for record in records] == ["restored"] * (PHOTOS - 1) + ["failed"]
    assert list(read_manifest(job.folder)) == records
    written = [name for number in range(job.shards) for name in tar_files(job.tar_path(number))]
    assert written == [f"{k:03}.png" for k in range(PHOTOS - 1)]
    assert list(restore_job(job)) == []  # nothing is left
