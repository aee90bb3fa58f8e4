"""`daa restore`: which photos are found, and where their results go."""

import io
import os
import sys

from PIL import Image

from .conftest import PHOTO, files


def test_patterns_follow_no_circles_and_find_nothing_hidden(album, tmp_path, restore):
    for name in ("circle", "other circle"):  # two of them: as many ways round as there are numbers
        (album / "day 1" / name).symlink_to(album, target_is_directory=True)
    (album / ".thumbs").mkdir()
    (album / ".thumbs" / "t.png").write_bytes((album / "a.png").read_bytes())
    assert restore(f"{album}/**", "-o", tmp_path / "all") == 0
    assert files(tmp_path / "all") == ["a.png", "day 1/b.jpg", "day 1/ночь/c.tif"]
    assert restore(f"{album}/**.png", "-o", tmp_path / "stars") == 0
    assert files(tmp_path / "stars") == ["a.png"]
    assert restore(f"{album}/.th*/*.png", "-o", tmp_path / "hidden") == 0
    assert files(tmp_path / "hidden") == [".thumbs/t.png"]


def test_patterns_lists_and_single_files(album, tmp_path, restore, monkeypatch):
    assert restore(f"{album}/**/*.[jt]*", "-o", tmp_path / "pattern") == 0
    assert files(tmp_path / "pattern") == ["day 1/b.jpg", "day 1/ночь/c.tif"]
    assert restore(album / "day 1/b.jpg", "-o", tmp_path / "single") == 0
    assert files(tmp_path / "single") == ["b.jpg"]
    for k, separator in enumerate("\n\0"):
        listed = separator.join(map(str, [album / "a.png", album / "day 1/b.jpg", ""])).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
        assert restore("-", "-o", tmp_path / f"list {k}") == 0
        assert files(tmp_path / f"list {k}") == ["a.png", "day 1/b.jpg"]


def test_two_photos_of_one_output_are_refused_by_name(album, tmp_path, restore, capsys):
    Image.fromarray(PHOTO).save(album / "a.bmp")
    assert restore(album, "-o", tmp_path / "out", "--format", "png") == 1
    said = capsys.readouterr()
    assert said.out.strip().endswith("2 restored, 2 failed")
    assert f"failed: {album / 'a.bmp'}: " in said.err and f"would also be the output of '{album / 'a.png'}'" in said.err
    assert files(tmp_path / "out") == ["day 1/b.png", "day 1/ночь/c.png"]


def test_no_photo_is_its_own_output_unless_asked(album, restore, capsys):
    before = (album / "a.png").read_bytes()
    assert restore(album, "-o", album) == 1
    assert "its output would replace the photo itself" in capsys.readouterr().err
    assert (album / "a.png").read_bytes() == before
    assert restore(album, "-o", album, "--suffix", "_restored") == 0
    assert (album / "a.png").read_bytes() == before and (album / "a_restored.png").exists()
    count = len(files(album))
    assert restore(album, "-o", album, "--suffix", "_restored") == 0  # results are not taken for photos
    assert len(files(album)) == count
    assert restore(album / "a.png", "-o", album, "--overwrite") == 0
    assert (album / "a.png").read_bytes() != before


def test_other_formats_beside_the_photos_are_their_results(album, restore, capsys):
    for expected in ("2 restored, 1 failed", "4 skipped, 1 failed"):  # b.jpg is its own output
        restore(album, "-o", album, "--format", "jpeg")
        assert capsys.readouterr().out.strip().endswith(expected)
    before = (album / "a.jpg").read_bytes()
    assert restore(album, "-o", album, "--format", "jpeg", "--overwrite") == 1  # a.jpg may be an original
    assert f"would also be the output of '{album / 'a.jpg'}'" in capsys.readouterr().err
    assert (album / "a.jpg").read_bytes() == before


def test_folders_inside_the_photos_that_it_writes_are_not_restored_again(album, restore, capsys):
    for expected in ("3 restored", "3 skipped"):
        assert restore(album, "-o", album / "restored", "--compare", album / "sheets") == 0
        assert capsys.readouterr().out.strip().endswith(expected)
    assert files(album / "restored") == ["a.png", "day 1/b.jpg", "day 1/ночь/c.tif"]


def test_sheets_may_lie_beside_the_photos(album, tmp_path, restore, capsys):
    for expected in ("1 restored", "1 skipped"):  # the sheet a.png.png is no photo of the second time
        assert restore(album / "*.png", "-o", tmp_path / "out", "--compare", album) == 0
        assert capsys.readouterr().out.strip().endswith(expected)
    assert files(album) == ["a.png", "a.png.png", "day 1/b.jpg", "day 1/ночь/c.tif", "notes.txt"]


def test_photos_that_all_lie_in_the_output_folder_are_said_to(album, restore, capsys):
    assert restore(album.parent, "-o", album) == 2
    said = capsys.readouterr().err
    assert "nothing to restore" in said and "all 3 photos" in said and "choose another folder" in said


def test_outputs_stay_in_the_output_folder(album, tmp_path, restore, capsys, monkeypatch):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "precious.png").write_bytes(b"precious")
    os.symlink(elsewhere, out / "day 1")
    os.symlink(elsewhere / "precious.png", out / "a.png")
    assert restore(album, "-o", out, "--overwrite") == 1
    assert capsys.readouterr().err.count("is outside of the output folder") == 2
    assert (elsewhere / "precious.png").read_bytes() == b"precious" and files(elsewhere) == ["precious.png"]
    assert not (out / "a.png").is_symlink()  # the link was replaced, not followed
    monkeypatch.chdir(album / "day 1")
    assert restore("../a.png", "..", "-o", tmp_path / "more/deep") == 0
    assert files(tmp_path / "more") == ["deep/a.png", "deep/day 1/b.jpg", "deep/day 1/ночь/c.tif"]


def test_one_photo_is_one_line_whatever_its_name(tmp_path, restore, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("new\nline.jpg", "re\rturn.jpg", "col\x1b[31mor.jpg"):
        (folder / name).write_bytes(b"no photo")
    (folder / "two\nlines.pn\ng").write_bytes(b"no suffix of photos")
    assert restore(folder, "-o", tmp_path / "out") == 1
    *failed, skipped = capsys.readouterr().err.splitlines()
    assert sorted(line.split(": ")[1] for line in failed) == sorted(
        rf"{folder}/{name}" for name in (r"new\nline.jpg", r"re\rturn.jpg", r"col\x1b[31mor.jpg")
    )
    assert skipped == r"skipped in folders: 1 not a photo (.pn\ng)"
    Image.fromarray(PHOTO).save(folder / "whole\n.png")
    assert restore(folder, "-o", tmp_path / "out", "--dry-run") == 0
    planned = capsys.readouterr().out.splitlines()[3]
    assert planned == rf"{folder}/whole\n.png -> {tmp_path}/out/whole\n.png"
