"""`daa restore`, run as people run it: options, reports, interruptions."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.cli.app import main
from daa_diffusers.photos import open_photo
from daa_diffusers.restoring.work import Summary

from ..conftest import PROJECT_ROOT, TAKES_CTRL_C
from .conftest import NOISY, PHOTO, files


def test_a_folder_keeps_its_structure_and_its_files_their_kind(album, tmp_path, restore, capsys):
    out = tmp_path / "out"
    assert restore(album, "-o", out) == 0
    assert files(out) == ["a.png", "day 1/b.jpg", "day 1/ночь/c.tif"]
    said = capsys.readouterr()
    assert said.out.strip() == "3 restored"
    for name in files(out):
        before, after = open_photo(album / name), open_photo(out / name)
        assert after.pixels.shape == before.pixels.shape and after.pixels.dtype == before.pixels.dtype
        assert after.metadata.exif == before.metadata.exif and after.metadata.icc == before.metadata.icc
        assert (after.pixels != before.pixels).mean() > 0.5


def test_it_is_the_pipeline_that_restores_the_stored_values(album, tmp_path, restore, checkpoint):
    assert restore(album, "-o", tmp_path, "--strength", "0.5", "--dtype", "float32") == 0
    photo = open_photo(album / "day 1/ночь/c.tif").pixels
    wanted = DAARestorationPipeline.from_pretrained(checkpoint)(photo, output_type="np", strength=0.5).images[0]
    assert wanted.dtype == np.uint16
    np.testing.assert_array_equal(open_photo(tmp_path / "day 1/ночь/c.tif").pixels, wanted)


@pytest.mark.slow
def test_onnx_runtime_restores_as_torch_does(album, tmp_path, restore, checkpoint):
    pytest.importorskip("onnxruntime")
    assert restore(album / "a.png", "-o", tmp_path / "torch", "--dtype", "float32") == 0
    assert restore(album / "a.png", "-o", tmp_path / "exported", "--backend", "onnx") == 0
    assert main(["convert", checkpoint, str(tmp_path / "own.onnx")]) == 0
    options = ("--checkpoint", str(tmp_path / "own.onnx"), "--no-guard")
    assert main(["restore", str(album / "a.png"), "-o", str(tmp_path / "file"), *options]) == 0
    wanted = open_photo(tmp_path / "torch" / "a.png").pixels.astype(int)
    for folder in ("exported", "file"):
        assert np.abs(open_photo(tmp_path / folder / "a.png").pixels.astype(int) - wanted).max() <= 1


def test_what_is_done_is_skipped_and_overwritten_only_when_asked(album, tmp_path, restore, capsys):
    out = tmp_path / "out"
    assert restore(album, "-o", out) == 0
    (out / "a.png").write_bytes(b"mine")
    (out / "day 1/b.jpg").unlink()
    capsys.readouterr()
    assert restore(album, "-o", out) == 0
    assert capsys.readouterr().out.strip() == "1 restored, 2 skipped"
    assert (out / "a.png").read_bytes() == b"mine"
    assert restore(album, "-o", out, "--overwrite") == 0
    assert open_photo(out / "a.png").pixels.shape == PHOTO.shape


def test_a_bad_file_never_stops_the_rest(album, tmp_path, restore, capsys):
    (album / "bad.jpg").write_bytes(b"no photo")
    (album / "cut.png").write_bytes((album / "a.png").read_bytes()[:900])
    assert restore(album, album / "absent.png", "-o", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert said.out.strip() == "3 restored, 3 failed"
    assert (
        all(name in said.err for name in ("bad.jpg", "cut.png", "absent.png: no such file")) and "Trace" not in said.err
    )
    assert files(tmp_path / "out") == ["a.png", "day 1/b.jpg", "day 1/ночь/c.tif"]


def test_json_lines_say_everything(album, tmp_path, restore, capsys):
    Image.fromarray(PHOTO).quantize(16).save(album / "p.png")
    (album / "bad.jpg").touch()
    assert restore(album, "-o", tmp_path / "out", "--json") == 1
    *records, summary = map(json.loads, capsys.readouterr().out.splitlines())
    counts = {"restored": 4, "skipped": 0, "failed": 1, "planned": 0}
    assert summary == {"summary": {**counts, "left_out": {"not a photo (.txt)": 1}}}
    by_name = {os.path.basename(record["input"]): record for record in records}
    assert by_name["bad.jpg"]["status"] == "failed" and "the file is empty" in by_name["bad.jpg"]["reason"]
    assert by_name["p.png"]["notes"] == ["the palette became RGB"]
    deep = by_name["c.tif"]
    assert (deep["width"], deep["height"], deep["bits"], deep["format"]) == (60, 40, 16, "tiff")
    assert deep["output"] == str(tmp_path / "out/day 1/ночь/c.tif") and deep["guard"] is None


def test_dry_run_writes_nothing_and_loads_no_checkpoint(album, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_index.json").write_text("{}")  # would not load
    command = ["restore", str(album), "-o", str(tmp_path / "out"), "--dry-run"]
    assert main([*command, "--checkpoint", str(tmp_path / "empty")]) == 0
    said = capsys.readouterr().out
    assert f"{album / 'day 1/b.jpg'} -> {tmp_path / 'out/day 1/b.jpg'}" in said
    assert said.strip().endswith("3 would be restored") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--checkpoint", "daa-denois", "`--checkpoint` 'daa-denois' is not a bundled checkpoint"),
        ("--device", "cuda:99", "`--device` 'cuda:99' cannot be used"),
        (
            "--checkpoint",
            "absent.onnx",
            "must be an existing .onnx file, `--device` cpu; got 'absent.onnx'",
        ),
    ],
)
def test_a_slip_is_found_where_nothing_is_left_to_do(album, tmp_path, restore, capsys, option, value, message):
    assert restore(album, "-o", tmp_path / "out") == 0
    capsys.readouterr()
    command = ["restore", str(album), "-o", str(tmp_path / "out")]
    for more in ([], ["--dry-run"]):
        assert main([*command, option, value, *more]) == 2
        assert message in capsys.readouterr().err
    assert restore(album, "-o", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert said.out.strip().endswith("3 skipped") and "--overwrite" in said.err


def test_format_bits_quality_and_location(album, tmp_path, restore):
    assert restore(album, "-o", tmp_path / "out", "--format", "tif", "--bits", "16", "--strip-location") == 0
    assert files(tmp_path / "out") == ["a.tif", "day 1/b.tif", "day 1/ночь/c.tif"]
    photo = open_photo(tmp_path / "out/day 1/b.tif")
    assert photo.bits == 16 and len(np.unique(photo.pixels)) > 256  # not 8 bits in disguise
    assert b"Berlin" not in (tmp_path / "out/day 1/b.tif").read_bytes()
    for quality in ("30", "95"):
        assert restore(album / "day 1/b.jpg", "-o", tmp_path / quality, "--quality", quality) == 0
    assert (tmp_path / "95/b.jpg").stat().st_size > (tmp_path / "30/b.jpg").stat().st_size


def test_compare_draws_sheets(album, tmp_path, restore):
    assert restore(album, "-o", tmp_path / "out", "--compare", tmp_path / "sheets") == 0
    assert files(tmp_path / "sheets") == ["a.png.png", "b.jpg.png", "c.tif.png"]
    assert Image.open(tmp_path / "sheets/c.tif.png").width > 900


def test_what_the_guard_did_is_reported(album, tmp_path, restore, checkpoint, capsys):
    assert restore(album / "a.png", "-o", tmp_path / "out", "--json", "--dtype", "float32", guard=True) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    verdict = DAARestorationPipeline.from_pretrained(checkpoint)(NOISY, output_type="np", guard=True).guard[0]
    assert record["guard"] == pytest.approx(dataclasses.asdict(verdict))
    summary = Summary()
    for name, strength in (("a", 1.0), ("b", 0.4), ("c", 0.2), ("d", 0.0)):
        guard = {"strength": strength, "reason": "why"}
        summary.add({"input": name, "status": "restored", "notes": ["CMYK"], "guard": guard})
    assert summary.describe().splitlines() == [
        "4 x CMYK (a, ...)",
        "2 x restored less by the guard: why (b, ...)",
        "1 x left unchanged by the guard: why (d)",
        "4 restored",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "1.5"], "`--strength` must be a number from 0"),
        (["--format", "gif"], "`--format` must be one of"),
        (["--bits", "12"], "`--bits` must be 8 or 16"),
        (["--tile", "7"], "`--tile` must be at least 32"),
        (["--dtype", "int8"], "`--dtype` must be"),
        (["--device", "quantum"], "`--device` 'quantum'"),
        (["--backend", "coreml"], "`--backend` must be torch or onnx"),
        (["--backend", "onnx", "--dtype", "bfloat16"], "`--backend` onnx runs on the cpu in float32"),
        (["--checkpoint", "daa-denoize"], "daa-denoise"),
        (["--max-megapixels", "0"], "`--max-megapixels` must be a positive number"),
        (["--suffix", "../x"], "`--suffix` must be a part of a file name"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_before_any_work(album, tmp_path, options, message, capsys):
    assert main(["restore", str(album), "-o", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_max_megapixels_refuses_by_name(album, tmp_path, restore, capsys):
    assert restore(album, "-o", tmp_path / "out", "--max-megapixels", "0.0025") == 1
    said = capsys.readouterr()
    assert (
        "a.png" in said.err and "`--max-megapixels` 0.0025" in said.err and said.out.strip() == "2 restored, 1 failed"
    )


def command(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return [sys.executable, *map(str, arguments)], environment


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ctrl_c_leaves_whole_files_and_the_next_run_goes_on(tmp_path, checkpoint):
    album = tmp_path / "album"
    album.mkdir()
    large = np.tile(NOISY, (8, 8, 1))
    for number in range(80):  # more than are restored before the signal, however busy the machine
        Image.fromarray(large).save(album / f"{number:02}.png")
    arguments, environment = command(
        "-m", "daa_diffusers.cli", "restore", album, "-o", tmp_path / "out", "--checkpoint", checkpoint, "--no-guard"
    )
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True, **TAKES_CTRL_C)
    while not (tmp_path / "out" / "00.png").exists():  # temporary files are hidden
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    done = files(tmp_path / "out")
    assert 0 < len(done) < 80 and all(name.endswith(".png") and not name.startswith(".") for name in done)
    for name in done:
        open_photo(tmp_path / "out" / name)
    assert subprocess.run(arguments, env=environment, capture_output=True, timeout=900).returncode == 0
    assert len(files(tmp_path / "out")) == 80


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_processes_share_the_photos_and_write_each_once(tmp_path, checkpoint):
    album = tmp_path / "album"
    album.mkdir()
    for number in range(7):
        Image.fromarray(NOISY).save(album / f"{number}.png")
    (album / "bad.png").write_bytes(b"no photo")
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--main_process_port", str(20000 + os.getpid() % 20000)]
    run = ["-m", "daa_diffusers.cli", "restore", "-", "-o", tmp_path / "out", "--checkpoint", checkpoint]
    arguments, environment = command(*launcher, *run, "--no-guard", "--json")
    listed = "\n".join(str(path) for path in sorted(album.iterdir()))
    done = subprocess.run(arguments, env=environment, input=listed, capture_output=True, text=True, timeout=800)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    records = [line for line in lines if "input" in line]
    assert sorted(record["input"] for record in records) == listed.split("\n")
    assert [line for line in lines if "summary" in line] == [
        {"summary": {"restored": 7, "skipped": 0, "failed": 1, "planned": 0, "left_out": {}}}
    ]
    assert files(tmp_path / "out") == [f"{number}.png" for number in range(7)]
    assert done.returncode != 0

    (tmp_path / "out/3.png").unlink()  # as if the run had ended before it
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}
    done = subprocess.run(arguments, env=environment, input=listed, capture_output=True, text=True, timeout=800)
    assert '{"summary": {"restored": 1, "skipped": 6, "failed": 1, "planned": 0, "left_out": {}}}' in done.stdout
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    assert files(tmp_path / "out") == [f"{number}.png" for number in range(7)]


def test_a_photo_that_is_not_changed_is_copied_byte_for_byte(album, tmp_path, restore, capsys):
    assert restore(album, "-o", tmp_path / "out", "--strength", "0") == 0
    assert "3 x nothing to restore: the file was copied" in capsys.readouterr().out
    for name in files(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (album / name).read_bytes()
    assert restore(album, "-o", tmp_path / "stripped", "--strength", "0", "--strip-location") == 0
    assert b"Berlin" not in (tmp_path / "stripped/day 1/b.jpg").read_bytes()
