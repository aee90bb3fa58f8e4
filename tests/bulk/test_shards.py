"""One shard: what is in its tar file and its records, and what a death in the middle leaves."""

import dataclasses
import errno
import hashlib
import os

import numpy as np
import pytest

from daa_diffusers.bulk import ShardResult, restore_shard
from daa_diffusers.bulk import shards as module
from daa_diffusers.bulk.shards import AttemptLog
from daa_diffusers.photos import open_photo
from daa_diffusers.sources.tar_shards import ShardSource

from .conftest import lines, png, tar_files, write_tar


class Killed(BaseException):
    """What no handler of errors stops: as far as files go, the process ends here."""


@pytest.fixture
def killed_at(monkeypatch):
    """Makes processes die when they have a photo of this name in hand."""
    real = module.restore_one
    restored = []

    def arrange(name):
        restored.clear()

        def restore(pipeline, job, options):
            if name is not None and os.path.basename(job.source) == name:
                raise Killed
            restored.append(os.path.basename(job.source))
            return real(pipeline, job, options)

        monkeypatch.setattr(module, "restore_one", restore)
        return restored

    return arrange


def visible(folder):
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def test_photos_come_back_in_their_own_format_with_their_metadata(album, plan, pipeline, tmp_path):
    job = plan(album, photos_per_shard=7)
    result = restore_shard(job, 0, pipeline)
    assert (result.shard, result.restored, result.failed, result.error) == (0, 5, 2, "")
    files = tar_files(job.tar_path(0))
    assert list(files) == ["0.png", "1.png", "2.png", "day 1/b_v2.jpg", "day 1/c.tif"]
    for name, original in (("day 1/b_v2.jpg", "day 1/b.v2.jpg"), ("day 1/c.tif", "day 1/c.tif")):
        (tmp_path / "restored").write_bytes(files[name])
        before, after = open_photo(album / original), open_photo(tmp_path / "restored")
        assert after.format == before.format and after.pixels.dtype == before.pixels.dtype
        assert after.metadata.exif == before.metadata.exif and after.metadata.icc == before.metadata.icc
        wanted = pipeline(before.pixels, output_type="np").images[0]
        if after.bits == 16:  # lossless
            np.testing.assert_array_equal(after.pixels, wanted)


def test_every_photo_has_one_record_that_finds_it_again(album, plan, pipeline):
    job = plan(album, photos_per_shard=7)
    restore_shard(job, 0, pipeline)
    records = lines(job.manifest_path(0))
    assert [record["key"] for record in records] == [one.key for one in job.inputs(0)]
    assert len({tuple(record) for record in records}) == 1  # the same names in every line
    files = tar_files(job.tar_path(0))
    for record in records:
        assert record["shard"] == "000000.tar" and record["source"].startswith(str(album))
        if record["status"] == "restored":
            content = files.pop(record["member"])
            assert record["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}" and record["error"] is None
        else:
            assert record["member"] is None and record["checksum"] is None
    assert not files
    errors = {record["key"]: record["error"] for record in records if record["status"] == "failed"}
    assert set(errors) == {"bad", "cut"} and "not a photo in a known format" in errors["bad"]


def test_a_shard_of_bad_photos_is_an_empty_tar_file(tmp_path, plan, pipeline):
    job = plan(write_tar(tmp_path / "in.tar", {"0.png": b"", "1.png": b"no photo"}))
    assert restore_shard(job, 0, pipeline).failed == 2
    assert tar_files(job.tar_path(0)) == {}


def test_tar_shards_and_datasets_keep_keys_and_can_be_read_again(tmp_path, plan, pipeline):
    job = plan(write_tar(tmp_path / "in.tar", {"a/01.clean.png": png(1), "a/02.clean.png": png(2)}), format="webp")
    restore_shard(job, 0, pipeline)
    again = ShardSource([job.tar_path(0)], column="clean.webp")
    assert [again.pair_key(k) for k in range(2)] == ["0/a/01", "0/a/02"]
    assert again.photo(0).shape == (3, 48, 64)
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": png(1), "path": None}]}, features=features)
    rows.to_parquet(tmp_path / "p.parquet")
    job = plan(f"hf:{tmp_path}/p.parquet", folder="of dataset")
    restore_shard(job, 0, pipeline)
    assert list(tar_files(job.tar_path(0))) == ["000000.png"]


def test_a_finished_shard_is_never_done_again(album, plan, pipeline, killed_at):
    restored = killed_at(None)
    job = plan(album)
    first = restore_shard(job, 0, pipeline)
    before = job.tar_path(0).stat()
    assert restored == ["0.png", "1.png", "2.png"]
    assert restore_shard(job, 0, pipeline) == dataclasses.replace(first, seconds=0)
    assert len(restored) == 3 and job.tar_path(0).stat() == before


def test_a_killed_shard_is_invisible_and_done_again_whole(album, plan, pipeline, killed_at):
    job = plan(album)
    restored = killed_at("2.png")
    with pytest.raises(Killed):
        restore_shard(job, 0, pipeline)
    assert restored == ["0.png", "1.png"] and job.unfinished() == [0, 1, 2]
    assert visible(job.folder) == ["attempts", "inputs", "job.json", "manifest"]
    restored = killed_at(None)
    assert restore_shard(job, 0, pipeline).restored == 3
    assert restored == ["0.png", "1.png", "2.png"]
    undisturbed = plan(album, folder="undisturbed")
    restore_shard(undisturbed, 0, pipeline)
    assert job.tar_path(0).read_bytes() == undisturbed.tar_path(0).read_bytes()
    assert os.listdir(job.folder / "attempts") == []


def test_a_death_between_the_tar_file_and_its_records_changes_nothing(album, plan, pipeline, monkeypatch):
    job = plan(album)

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", die)
        with pytest.raises(Killed):
            restore_shard(job, 0, pipeline)
    assert job.tar_path(0).exists() and job.unfinished() == [0, 1, 2]
    before = job.tar_path(0).read_bytes()
    assert restore_shard(job, 0, pipeline).restored == 3
    assert job.tar_path(0).read_bytes() == before and len(lines(job.manifest_path(0))) == 3


def test_a_photo_that_kills_every_process_is_recorded_after_three(album, plan, pipeline, killed_at):
    job = plan(album)
    killed_at("1.png")
    for _ in range(3):
        with pytest.raises(Killed):
            restore_shard(job, 0, pipeline)
    result = restore_shard(job, 0, pipeline)
    assert (result.restored, result.failed) == (2, 1)
    record = lines(job.manifest_path(0))[1]
    assert record["key"] == "1" and record["error"] == "3 processes died while they restored it"


def test_only_processes_that_died_count(tmp_path):
    path = tmp_path / "0.log"
    log = AttemptLog(path)
    log.begin("0")
    log.begin("1")
    log = AttemptLog(path)  # the first one died of 1, this one of 0
    assert log.deaths["1"] == 1 and log.deaths["0"] == 0
    log.begin("0")
    log = AttemptLog(path)
    assert log.deaths["1"] == 1 and log.deaths["0"] == 1
    log.begin("2")
    log.close()  # an error of its own
    assert AttemptLog(path).deaths["2"] == 0
    assert AttemptLog(path).deaths.total() == 3 and path.read_text().count(f":{os.getpid()}") == 5


def test_a_full_disk_is_no_photos_fault(album, plan, pipeline, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    job = plan(album)
    with monkeypatch.context() as patch:
        patch.setattr(module, "restore_one", full)
        with pytest.raises(OSError, match="the disk of .*out' is full: '000000.tar' needs more"):
            restore_shard(job, 0, pipeline)
    assert job.unfinished() == [0, 1, 2] and visible(job.folder) == ["attempts", "inputs", "job.json", "manifest"]
    assert restore_shard(job, 0, pipeline).restored == 3


def test_a_photo_that_vanished_is_recorded(album, plan, pipeline):
    job = plan(album)
    (album / "1.png").unlink()
    assert restore_shard(job, 0, pipeline).failed == 1
    assert "no such file" in lines(job.manifest_path(0))[1]["error"]


def test_names_that_are_no_utf8_come_through(tmp_path, plan, pipeline):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (tmp_path / "album").mkdir()
    try:
        (tmp_path / "album" / name).write_bytes(png(0))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    job = plan(tmp_path / "album")
    assert restore_shard(job, 0, pipeline).restored == 1
    assert list(tar_files(job.tar_path(0))) == [name] and lines(job.manifest_path(0))[0]["key"] == name[:-4]


def test_a_result_counts_what_the_records_say():
    records = [{"status": "restored"}, {"status": "failed"}, {"status": "restored"}]
    assert ShardResult.of(4, records, 1.23456) == ShardResult(4, 2, 1, 1.235, "")
