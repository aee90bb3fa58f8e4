"""Jobs of many photos in little memory, and conflicts among them."""

import tracemalloc

import pytest

from daa_diffusers.restoring import packed
from daa_diffusers.restoring.outputs import Job, find_jobs
from daa_diffusers.restoring.packed import Packed


@pytest.fixture(params=[1024, 2])
def chunk(request, monkeypatch):
    monkeypatch.setattr(packed, "CHUNK", request.param)


def test_records_come_back_in_order(chunk):
    jobs, expected = Packed(Job), [Job(f"album/{n}.jpg", f"out/{n}.jpg", "", "no text: \udcff\n" * n) for n in range(5)]
    for job in expected:
        jobs.append(job.source, job.target, job.refused, job.skipped)
    assert [*jobs] == jobs[:] == expected and len(jobs) == 5
    assert [jobs[3], jobs[0], jobs[-1]] == [expected[3], expected[0], expected[4]]
    with pytest.raises(IndexError, match="record 5 of 5"):
        jobs[5]


def test_a_job_takes_some_bytes():
    tracemalloc.start()
    try:
        jobs = Packed(Job)
        for n in range(20 * packed.CHUNK):
            within = f"day {n // 500}/IMG_{n:06d}.jpg"
            jobs.append(f"album of the summer/{within}", f"restored/{within}", "", "")
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 40 * len(jobs)  # the texts of a job alone have 80 characters


def test_photos_found_twice_and_shared_outputs_are_seen(chunk, tmp_path):
    album, out = tmp_path / "album", tmp_path / "out"
    for name in ("a.png", "a.jpg", "b.jpg", "c.jpg", "c_r.jpg", "d/b.jpg", "e.jpg"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        (album / name).touch()
    plan = find_jobs([str(album), str(album / "b.jpg")], str(out), format="jpeg")
    assert [job.source[len(str(album)) + 1 :] for job in plan.jobs] == [
        *("a.jpg", "a.png", "b.jpg", "c.jpg", "c_r.jpg", "d/b.jpg", "e.jpg")  # b.jpg once
    ]
    assert [bool(job.refused) for job in plan.jobs] == [True, True, *[False] * 5]
    assert "also be the output of" in plan.jobs[0].refused and plan.jobs[5].target == str(out / "d" / "b.jpg")
    beside = find_jobs([str(album)], str(album), suffix="_r")
    assert [job.target[len(str(album)) + 1 :] for job in beside.jobs] == [
        *("a_r.jpg", "a_r.png", "b_r.jpg", "c_r.jpg", "d/b_r.jpg", "e_r.jpg")
    ]
    assert beside.left_out == {"another photo's result": 1}  # c_r.jpg
    assert len(find_jobs([str(album)], str(album), overwrite=True).jobs) == 7
