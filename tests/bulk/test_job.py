"""The cutting of a job, what makes it go on or refuse to, and its manifest."""

import os
import shutil

import pytest

from daa_diffusers.bulk import BulkJob, BulkSettings, read_manifest
from daa_diffusers.bulk.job import plan_job, sole_writer
from daa_diffusers.errors import ConfigurationError

from .conftest import lines, png


def finish(job, number, failed=()):
    """The records of a shard, without restoring it."""
    keys = [one.key for one in job.inputs(number)]
    records = [f'{{"key": "{key}", "status": "{"failed" if key in failed else "restored"}"}}\n' for key in keys]
    job.manifest_path(number).write_text("".join(records))


def test_the_photos_are_cut_into_numbered_shards(album, plan):
    job = plan(album)
    assert (job.photos, job.shards) == (7, 3)
    assert [[one.key for one in job.inputs(k)] for k in range(3)] == [
        ["0", "1", "2"],
        ["bad", "cut", "day 1/b_v2"],
        ["day 1/c"],
    ]
    assert job.unfinished() == [0, 1, 2] and job.photos_of([0, 2]) == 4
    assert BulkJob.open(job.folder) == job
    assert plan(album, photos_per_shard=7, folder="one").shards == 1


def test_a_job_keeps_its_photos_whatever_comes_or_goes_later(album, plan):
    before = plan(album)
    inputs = [before.inputs(k) for k in range(3)]
    (album / "00.png").write_bytes(png(9))
    (album / "2.png").unlink()
    job = plan(album)
    assert job == before and [job.inputs(k) for k in range(3)] == inputs


def test_a_plan_that_was_cut_short_is_made_anew(album, plan):
    job = plan(album, photos_per_shard=1)
    (job.folder / "job.json").unlink()
    job = plan(album, photos_per_shard=4)
    assert sorted(path.name for path in (job.folder / "inputs").iterdir()) == ["000000.jsonl", "000001.jsonl"]


def test_a_later_source_that_cannot_be_listed_leaves_no_job_behind(album, tmp_path):
    settings = BulkSettings((str(album), str(tmp_path / "nowhere")), photos_per_shard=3)
    with pytest.raises(ConfigurationError, match="nowhere"):
        plan_job(tmp_path / "new" / "out", settings)
    assert not (tmp_path / "new" / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.5}, "`strength` 1.0, got 0.5"),
        ({"photos_per_shard": 4}, "`photos_per_shard` 3, got 4"),
        ({"fingerprint": "other"}, "other weights under the checkpoint's name"),
    ],
    ids=str,
)
def test_a_job_goes_on_only_as_it_began(album, plan, change, message):
    plan(album, fingerprint="ours")
    with pytest.raises(ConfigurationError, match=message):
        plan(album, **{"fingerprint": "ours", **change})
    plan(album, fingerprint="ours")


def test_other_folders_are_left_alone(album, tmp_path, plan):
    with pytest.raises(ConfigurationError, match="but holds '"):
        plan(album, folder="album")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="must be a folder"):
        plan(album, folder="file")
    with pytest.raises(ConfigurationError, match="`sources`"):
        plan(tmp_path / "no-such", folder="new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigurationError, match="job.json is missing"):
        BulkJob.open(album)
    (tmp_path / "job.json").write_text('{"layout": 99}')
    with pytest.raises(ConfigurationError, match="not a job of this version"):
        BulkJob.open(tmp_path)


@pytest.mark.parametrize("wrong", [{"photos_per_shard": 0}, {"dtype": "int8"}], ids=str)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=f"`{next(iter(wrong))}`"):
        BulkSettings(("photos",), **wrong)


def test_settings_are_plain_json_and_back(album, plan):
    settings = plan(album, format="png", tile=64).settings
    fields = settings.to_json()
    assert fields["format"] == "png" and fields["tile"] == 64 and "overwrite" not in fields
    assert BulkSettings.from_json(fields) == settings


def test_the_manifest_is_joined_when_every_photo_has_its_record(album, plan):
    job = plan(album)
    finish(job, 2)
    finish(job, 0)
    assert job.unfinished() == [1]
    assert [record["key"] for record in read_manifest(job.folder)] == ["0", "1", "2", "day 1/c"]
    with pytest.raises(ConfigurationError, match="1 of 3 shards are not finished; the first is 1"):
        job.join_manifest()
    finish(job, 1, failed=["bad"])
    keys = [record["key"] for record in lines(job.join_manifest())]
    assert keys == [one.key for k in range(3) for one in job.inputs(k)]
    job.manifest_path(1).write_text('{"key": "bad", "status": "failed"}\n')
    with pytest.raises(ConfigurationError, match="5 records, but the job has 7 photos"):
        job.join_manifest()


def test_shards_with_failed_photos_are_reopened(album, plan):
    job = plan(album)
    for number in range(3):
        finish(job, number, failed=["bad"])
    job.join_manifest()
    assert job.reopen_failed() == 1 and job.unfinished() == [1]
    assert not (job.folder / "manifest.jsonl").exists() and job.reopen_failed() == 0


def test_leftovers_of_killed_processes_are_cleared_and_nothing_else(album, plan):
    job = plan(album)
    finish(job, 0)
    job.tar_path(0).touch()
    for name in (".000001.ab12cd34.tar", "manifest/.000001.ab12cd34.jsonl"):
        (job.folder / name).touch()
    job.clear_leftovers()
    assert sorted(os.listdir(job.folder)) == ["000000.tar", "attempts", "inputs", "job.json", "manifest"]
    assert os.listdir(job.folder / "manifest") == ["000000.jsonl"]


def test_one_command_at_a_time_writes_a_job(tmp_path):
    with sole_writer(tmp_path / "out"):
        with pytest.raises(ConfigurationError, match="another `daa bulk` is running"), sole_writer(tmp_path / "out"):
            pass
        (tmp_path / "out/job.json").touch()
    with sole_writer(tmp_path / "out"):
        pass
    shutil.rmtree(tmp_path / "out")
    with sole_writer(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()  # nothing came of it
