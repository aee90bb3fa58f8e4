"""`daa bulk`, run as people run it."""

import json
import sys
from contextlib import nullcontext

import pytest

from daa_diffusers.cli.app import main

from ..bulk.conftest import album, lines, png, tar_files  # noqa: F401 - fixtures

pytest.importorskip("ray")


def test_dry_run_counts_and_writes_nothing(album, tmp_path, capsys):  # noqa: F811
    arguments = ["bulk", str(album), "-o", str(tmp_path / "out"), "--photos-per-shard", "3", "--dry-run"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "7 photos in 3 shards; 7 in 3 shards would be restored\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "1.5"], "`--strength` must be a number from 0"),
        (["--format", "gif"], "`--format` must be one of"),
        (["--photos-per-shard", "0"], "`--photos-per-shard` must be at least 1"),
        (["--tile", "7"], "`--tile` must be at least 32"),
        (["--dtype", "int8"], "`--dtype` must be"),
        (["--checkpoint", "daa-denoize"], "daa-denoise"),
        (
            ["--cpus-per-worker", "-1"],
            "`--cpus-per-worker` and `--gpus-per-worker`: a worker needs CPUs",
        ),
        (["--gpus-per-worker", "nan"], "a worker needs CPUs or GPUs, got 1 and nan"),
        (["--max-megapixels", "0"], "`--max-megapixels` must be a positive number"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_before_any_work(album, tmp_path, options, message, capsys):  # noqa: F811
    assert main(["bulk", str(album), "-o", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_without_ray_the_error_names_the_extra(album, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["bulk", str(album), "-o", str(tmp_path / "out")]) == 2
    assert "pip install 'daa-diffusers[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_leaves_no_job_behind(album, tmp_path, checkpoint, address, capsys):  # noqa: F811
    arguments = ["bulk", str(album), "-o", str(tmp_path / "out"), "--checkpoint", checkpoint, "--address", address]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: `--address`: no Ray cluster at '{address}'")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_no_file_of_killed_workers(album, tmp_path, checkpoint, capsys, monkeypatch):  # noqa: F811
    def interrupted(job, **_):
        (job.folder / ".0123456789ab.tar").touch()
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr("daa_diffusers.bulk.restore_job", interrupted)
    monkeypatch.setattr("daa_diffusers.bulk.cluster.cluster", lambda **_: nullcontext())
    assert main(["bulk", str(album), "-o", str(tmp_path / "out"), "--checkpoint", checkpoint]) == 130
    assert capsys.readouterr().err == "interrupted; 0 of 1 shards are done; run the same command to resume\n"
    assert not list((tmp_path / "out").glob(".*.tar"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_full_disk_ends_the_job_and_the_same_command_goes_on(disk_of, album, checkpoint, capsys, monkeypatch):  # noqa: F811
    small_disk = disk_of("512k")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["bulk", str(album), "-o", str(small_disk / "out"), "--checkpoint", checkpoint, "--no-guard"]
    arguments += ["--photos-per-shard", "1", "--workers", "1", "--json"]
    (small_disk / "ballast").write_bytes(bytes(440 * 2**10))
    assert main(arguments) == 2
    said = capsys.readouterr()
    *results, last = [json.loads(line) for line in said.out.splitlines()]
    assert [result["stops"] for result in results] == [False] * (len(results) - 1) + [True] and len(results) < 5
    assert last["summary"]["stopped"].startswith(f"the disk of '{small_disk / 'out'}' is full")
    assert f"stopped: {last['summary']['stopped']}" in said.err and "Traceback" not in said.err
    (small_disk / "ballast").unlink()
    main(arguments)
    assert "stopped" not in json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_same_command_goes_on_and_then_finds_nothing_to_do(album, tmp_path, checkpoint, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 unless said otherwise: too low for a test on a busy machine
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    arguments = ["bulk", str(album), "-o", str(out), "--checkpoint", checkpoint, "--no-guard"]
    arguments += ["--photos-per-shard", "4", "--workers", "1"]
    assert main(arguments) == 1  # two photos are bad
    said = capsys.readouterr()
    assert said.out.strip().endswith(f"5 restored, 2 failed; see {out / 'manifest.jsonl'}")
    assert f"failed: {album / 'bad.jpg'}: " in said.err and "Traceback" not in said.err
    written = [name for number in range(2) for name in tar_files(out / f"{number:06}.tar")]
    assert written == ["0.png", "1.png", "2.png", "day 1/b_v2.jpg", "day 1/c.tif"]

    (album / "cut.png").write_bytes(png(3))
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert main([*arguments, "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "summary": {"restored": 5, "failed": 2, "shards": 2, "left": 0, "manifest": str(out / "manifest.jsonl")}
    }
    assert "2 of 2 shards are done" in said.err
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == before

    assert main([*arguments, "--redo-failed"]) == 1
    assert "6 restored, 1 failed" in capsys.readouterr().out
    assert [record["key"] for record in lines(out / "manifest.jsonl") if record["error"]] == ["bad"]
    assert main([*arguments, "--strength", "0.5"]) == 2
    assert "`--strength` 1.0, got 0.5" in capsys.readouterr().err
