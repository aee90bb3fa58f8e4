"""`daa restore` and the files of people: names, permissions, times, disks, and what is no photo's file."""

import errno
import io
import json
import os
import socket
import stat
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.cli.restore import _Team
from daa_diffusers.photos import open_photo
from daa_diffusers.restoring import outputs
from daa_diffusers.restoring.options import Options
from daa_diffusers.restoring.work import restore_all

PHOTO = np.ascontiguousarray(data.astronaut()[100:132, 200:240])
UNDECODABLE = os.fsdecode(b"caf\xe9.png")
LONG = "ö" * 125 + "x.png"  # 255 bytes


def save(path, photo=PHOTO):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path)
    return path


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_full_disk_ends_the_run_after_the_photo_that_it_hit(small_disk, tmp_path, restore, capsys, kind):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)  # 24 kB
    (tmp_path / "album").mkdir()
    for number in range(5):
        path = tmp_path / f"album/{number}.{kind}"
        tifffile.imwrite(path, noise) if kind == "tif" else save(path, noise)
    assert restore(tmp_path / "album", "-o", small_disk / "out", "--json") == 2
    *records, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert [record["status"] for record in records] == ["restored", "restored", "failed"]
    reason = records[-1]["reason"]
    assert f"the disk of '{small_disk / 'out'}' is full: '2.{kind}' needs more than the " in reason
    assert "kB available" in reason
    assert summary["summary"]["stopped"] == reason and summary["summary"]["left"] == 2
    assert names(small_disk / "out") == [f"0.{kind}", f"1.{kind}"]
    for number in range(2):
        assert open_photo(small_disk / f"out/{number}.{kind}").pixels.shape == noise.shape
    assert restore(tmp_path / "album", "-o", small_disk / "out") == 2
    assert "2 photos remain, the same command resumes" in capsys.readouterr().err


def test_a_read_only_disk_is_said_before_the_work(small_disk, tmp_path, restore, capsys):
    save(tmp_path / "a.png")
    assert restore(tmp_path / "a.png", "-o", "/proc/new") == 2  # where nobody can make a folder
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: nothing can be written in '/proc': ")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for command in (["-o", small_disk / "out"], ["-o", tmp_path / "out", "--compare", small_disk]):
        assert restore(tmp_path / "a.png", *command) == 2
        assert f"error: the file system of '{small_disk}' is read-only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_permission_fails_its_photos_alone(tmp_path, restore, capsys, monkeypatch):
    for name in ("closed/a.png", "open/b.png"):
        save(tmp_path / "album" / name)
    out = tmp_path / "out"
    (out / "closed").mkdir(parents=True)
    allowed = os.access  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and allowed(path, mode))
    assert restore(tmp_path / "album", "-o", out) == 1
    assert f"no permission to write in '{out / 'closed'}'" in capsys.readouterr().err
    assert names(out) == ["open/b.png"]


def test_a_name_of_255_bytes_is_restored_with_its_sheet(tmp_path, restore, capsys):
    save(tmp_path / "album" / LONG)
    for _ in range(2):
        assert restore(tmp_path / "album", "-o", tmp_path / "out", "--compare", tmp_path / "sheets", "--overwrite") == 0
    assert names(tmp_path / "out") == [LONG]
    first, second = names(tmp_path / "sheets")
    assert first.endswith("ö.png.2.png") and second.endswith("ö.png.png")
    capsys.readouterr()
    assert restore(tmp_path / "album", "-o", tmp_path / "more", "--suffix", "_restored") == 1
    assert "the name of its output has 264 bytes, file systems allow 255" in capsys.readouterr().err


def test_a_name_that_is_no_text_is_restored_printed_and_compared(tmp_path, restore, capsysbinary):
    album, out = tmp_path / "album", tmp_path / "out"
    save(album / UNDECODABLE)
    assert restore(album, "-o", out, "--dry-run") == 0
    assert b"caf\xe9.png -> " in capsysbinary.readouterr().out
    assert restore(album, "-o", out, "--compare", tmp_path / "sheets", "--strength", "0") == 0
    assert b"the file was copied (" + os.fsencode(album / UNDECODABLE) in capsysbinary.readouterr().out
    assert names(out) == [UNDECODABLE] and names(tmp_path / "sheets") == [UNDECODABLE + ".png"]
    assert restore(album, "-o", out, "--json") == 0
    record = json.loads(capsysbinary.readouterr().out.splitlines()[0])
    assert record["input"] == str(album / UNDECODABLE) and record["status"] == "skipped"
    (album / os.fsdecode(b"bad\xff.png")).touch()
    assert restore(album, "-o", out) == 1
    assert b"bad\\udcff.png: cannot read photo" in capsysbinary.readouterr().err


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"], ids=ascii)
def test_a_list_is_cut_at_newlines_alone(tmp_path, restore, monkeypatch, end):
    odd = ["a b.png", "tab\t.png", "return\r.png", "line\x85\u2028\x1c\x0b.png", " lead.png"]
    odd += ["two\nlines.png"] if end == "\0" else []
    paths = [str(save(tmp_path / "album" / name)) for name in odd]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(end.join(paths) + end))))
    assert restore("-", "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == sorted(odd)


def test_one_photo_goes_into_the_file_that_is_named(tmp_path, restore, capsys):
    photo, result = save(tmp_path / "photo.png"), tmp_path / "new/result.jpg"
    assert restore(photo, "-o", result) == 0
    assert open_photo(result).format == "JPEG" and names(tmp_path / "new") == ["result.jpg"]
    first = result.read_bytes()
    capsys.readouterr()
    assert restore(photo, "-o", result, "--strength", "0.5") == 0
    assert capsys.readouterr().out.strip() == "0 restored, 1 skipped" and result.read_bytes() == first
    assert restore(photo, "-o", result, "--strength", "0.5", "--overwrite") == 0
    assert result.read_bytes() != first
    assert restore(photo, "-o", photo) == 1
    assert "its output would replace the photo itself" in capsys.readouterr().err
    for folder in ("folder.png", "v1.2"):
        if folder == "folder.png":
            (tmp_path / folder).mkdir()
        assert restore(photo, "-o", tmp_path / folder) == 0 and names(tmp_path / folder) == ["photo.png"]


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["a.png", "b.png"], ["x.jpg"], "is the name of a file, but several photos need a folder"),
        (["."], ["x.jpg"], "is the name of a file, but several photos need a folder"),
        (["*.png"], ["x.jpg"], "is the name of a file, but several photos need a folder"),
        (["a.png"], ["x.gif"], "`--output` must end in one of .jpg"),
        (["a.png"], ["-"], "photos cannot be written to standard output"),
        (["a.png"], ["x.nef"], "`--output` must end in one of .jpg"),
        (["a.png"], ["notes.txt"], "`--output` must end in one of .jpg"),
        (["a.png"], ["x.jpg", "--format", "png"], "`--format` is png: omit one of them"),
        (["a.png"], ["x.jpg", "--suffix", "_r"], "`--suffix` needs a folder"),
        (["absent.png"], ["x.jpg"], "absent.png: no such file or folder"),
    ],
    ids=str,
)
def test_an_output_that_cannot_be_meant_is_named(tmp_path, restore, capsys, monkeypatch, inputs, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    assert restore(*inputs, "-o", *options) != 0
    assert message in capsys.readouterr().err
    assert names(tmp_path) == ["a.png", "b.png", "notes.txt"] and (tmp_path / "notes.txt").read_text() == "mine"


def test_names_that_differ_by_suffix_or_case_alone_stay_apart(tmp_path, restore, capsys, monkeypatch):
    album = tmp_path / "album"
    for name, shade in (("a.png", 0), ("a.jpg", 80), ("A.png", 160)):
        save(album / name, np.full((32, 32, 3), shade, np.uint8))
    assert restore(album, "-o", tmp_path / "out", "--strength", "0") == 0
    for name in ("a.png", "a.jpg", "A.png"):
        assert (tmp_path / "out" / name).read_bytes() == (album / name).read_bytes()
    monkeypatch.setattr(outputs, "_is_case_sensitive", lambda targets, folder: False)  # a card of a camera, say
    assert restore(album, "-o", tmp_path / "card") == 1
    assert f"would also be the output of '{album / 'A.png'}'" in capsys.readouterr().err
    assert names(tmp_path / "card") == ["a.jpg"]


@pytest.mark.parametrize("options", [[], ["--strength", "0"], ["--format", "jpeg"]], ids=str)
def test_results_have_the_permissions_and_the_time_of_their_photos(tmp_path, restore, options):
    old = os.umask(0o022)
    try:
        for name, mode in (("private.png", 0o600), ("public.png", 0o664), ("fixed.png", 0o444)):
            photo = save(tmp_path / "album" / name)
            photo.chmod(mode)
            os.utime(photo, (0, 10**9))
        assert restore(tmp_path / "album", "-o", tmp_path / "out", *options) == 0
        found = {path.stem: path.stat() for path in (tmp_path / "out").iterdir()}
    finally:
        os.umask(old)
    wanted = {"private": 0o600, "public": 0o644, "fixed": 0o444}
    assert {name: stat.S_IMODE(one.st_mode) for name, one in found.items()} == wanted
    assert {one.st_mtime for one in found.values()} == {10**9}


def test_a_private_photo_is_private_while_it_is_written(tmp_path, restore, monkeypatch):
    photo = save(tmp_path / "a.png")
    photo.chmod(0o600)
    seen, replace = [], os.replace

    def look(source, target):
        seen.append(stat.S_IMODE(os.stat(source).st_mode))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    assert restore(photo, "-o", tmp_path / "out") == 0
    assert seen == [0o600, 0o600]  # the photo's own file, inside of that of the run


def test_what_is_left_out_of_folders_is_counted(tmp_path, restore, capsys):
    album = tmp_path / "album"
    for name in ("a.png", ".hidden.png", ".thumbs/t.png", "out/old.png"):
        save(album / name)
    for name in ("a.xmp", "b.xmp", "film.mov", "README"):
        (album / name).touch()
    assert restore(album, "-o", album / "out", "--json") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]
    no_photos = {"not a photo (.xmp)": 2, "not a photo (.mov)": 1, "not a photo (no suffix)": 1}
    assert summary["left_out"] == {**no_photos, "hidden": 2, "in the output folder, or a sheet": 1}
    assert restore(album, "-o", album / "out") == 0
    said = capsys.readouterr()
    assert (
        said.out.strip() == "0 restored, 1 skipped" and "skipped in folders: 2 " in said.err and "2 hidden" in said.err
    )


def test_a_folder_that_cannot_be_read_is_named(tmp_path, restore, capsys, monkeypatch):
    save(tmp_path / "album/a.png")
    save(tmp_path / "album/closed/b.png")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read anything
    assert restore(tmp_path / "album", "-o", tmp_path / "out") == 1
    monkeypatch.undo()
    assert "closed: the folder cannot be read: Permission denied" in capsys.readouterr().err
    assert names(tmp_path / "out") == ["a.png"]


@pytest.mark.timeout(60)
def test_only_regular_files_are_read(tmp_path, restore, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    save(tmp_path / "album/a.png")
    os.mkfifo("album/pipe.png")
    os.symlink("nowhere", "album/gone.png")
    os.symlink("/dev/zero", "album/device.png")
    kinds = {"pipe": "a named pipe", "gone": "a broken link", "device": "a device", "socket": "a socket"}
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("album/socket.png")
        for inputs in (["album"], ["album/*.png"], [f"album/{name}" for name in sorted(os.listdir("album"))]):
            assert restore(*inputs, "-o", "out") == 1
            said = capsys.readouterr()
            assert said.out.strip().endswith("4 failed")
            for name, kind in kinds.items():
                assert f"cannot read photo 'album/{name}.png': {kind}" in said.err
    assert names(tmp_path / "out") == ["a.png"]


def test_a_file_that_another_process_made_meanwhile_stays(tmp_path, checkpoint):
    photo, result = save(tmp_path / "a.png"), tmp_path / "out/a.png"
    pipeline = DAARestorationPipeline.from_pretrained(checkpoint)

    def while_another_is_faster(*arguments, **options):
        save(result)
        return pipeline(*arguments, **options)

    found = outputs.find_jobs([str(photo)], str(tmp_path / "out")).jobs
    (record,) = restore_all(found, Options(guard=False), lambda: while_another_is_faster)
    assert record["status"] == "skipped" and "another process has written the output" in record["reason"]
    assert result.read_bytes() == photo.read_bytes() and names(tmp_path / "out") == ["a.png"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_runs_at_once_leave_whole_files_and_both_succeed(tmp_path, checkpoint):
    album, out = tmp_path / "album", tmp_path / "out"
    for number in range(8):
        save(album / f"{number}.png", np.tile(PHOTO, (4, 4, 1)))
    command = [sys.executable, "-m", "daa_diffusers.cli", "restore", album, "-o", out, "--checkpoint", checkpoint]
    command = [*map(str, command), "--no-guard", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    said = [run.communicate(timeout=800)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    summaries = [json.loads(one.splitlines()[-1])["summary"] for one in said]
    assert all(one["failed"] == 0 and one["restored"] + one["skipped"] == 8 for one in summaries)
    assert sum(one["restored"] for one in summaries) >= 8
    assert names(out) == [f"{number}.png" for number in range(8)]
    assert len({(out / name).read_bytes() for name in names(out)}) == 1  # of equal photos


@pytest.mark.parametrize("count", [0, 2, 3, 8])
def test_processes_divide_the_photos(count):
    team, numbers = _Team(), []
    for team.index in range(3):
        team.state = SimpleNamespace(num_processes=3)  # accelerate's
        numbers += team.part(count)
    assert numbers == [*range(count)]
