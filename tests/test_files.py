"""Files that are whole or not there."""

import errno
import os
import resource
import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.files import (
    UnwritableError,
    check_writable,
    concerns_all_files,
    one_line,
    printable,
    replacing,
    shortened,
    text_of,
    write_text,
)

LONG = "ö" * 125 + "x.png"  # 255 bytes


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_appears_whole_under_its_name_alone(tmp_path):
    path = write_text(tmp_path / "table.md", "grün\n")
    assert path.read_text(encoding="utf-8") == "grün\n"
    assert names(tmp_path) == ["table.md"]


def test_the_temporary_file_is_hidden_and_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "a.b.png") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")
        assert not (tmp_path / "a.b.png").exists()
    assert names(tmp_path) == ["a.b.png"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["old.txt"]


def test_nothing_written_is_no_file(tmp_path):
    with replacing(tmp_path / "none.txt"):
        pass
    assert names(tmp_path) == []


def test_a_name_that_is_no_utf8_is_written_as_it_was(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert write_text(tmp_path / "list.txt", name).read_bytes() == b"caf\xe9.png"


def as_jpeg(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(path, "JPEG", quality=95)


def as_tiff(path):
    tifffile.imwrite(path, np.zeros((400, 400), np.uint8))


def as_weights(path):
    save_file({"weights": torch.zeros(100_000)}, path)


@pytest.mark.parametrize("write", [as_jpeg, as_tiff, as_weights])
def test_a_full_disk_is_named_whatever_the_library_says(small_disk, write):
    (small_disk / "old").write_bytes(bytes(20_000))
    with pytest.raises(UnwritableError) as raised, replacing(small_disk / "new.jpg") as temporary:
        write(temporary)
    said = str(raised.value)
    assert f"the disk of '{small_disk}' is full: 'new.jpg' needs more than the " in said and "kB available" in said
    assert raised.value.errno == errno.ENOSPC and concerns_all_files(raised.value)
    assert names(small_disk) == ["old"] and (small_disk / "old").stat().st_size == 20_000


@pytest.mark.parametrize("write", [as_jpeg, as_tiff])
def test_a_file_that_may_not_be_so_large_is_its_own_fault(tmp_path, write):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UnwritableError) as raised, replacing(tmp_path / "new.jpg") as temporary:
            write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "exceeds the maximum file size" in str(raised.value)
    assert not concerns_all_files(raised.value) and names(tmp_path) == []


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (ValueError("mine"), OSError("without a number"), FileNotFoundError(errno.ENOENT, "no", "elsewhere")):
        with pytest.raises(type(error)) as raised, replacing(tmp_path / "new.txt") as temporary:
            temporary.write_text("half")
            raise error
        assert raised.value is error and names(tmp_path) == []


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path, small_disk):
    check_writable(small_disk / "new/deep")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UnwritableError, match=f"the file system of '{small_disk}' is read-only") as raised:
        check_writable(small_disk / "new/deep")
    assert raised.value.errno == errno.EROFS
    with pytest.raises(UnwritableError, match=f"the file system of '{small_disk}' is read-only") as raised:
        write_text(small_disk / "a.txt", "text")
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match="file' is not a folder"):
        check_writable(tmp_path / "file/deep")
    with pytest.raises(UnwritableError, match="nothing can be written in '/proc': "):  # whatever its permissions say
        check_writable("/proc/x/y")


def test_a_folder_without_permission_is_said_before_the_work():
    folder = Path(tempfile.mkdtemp())  # pytest's own folders cannot be entered by others
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(UnwritableError, match=f"'{folder}'.*|no permission to write in '{folder}'") as raised:
            check_writable(folder / "new")
        assert raised.value.errno == errno.EACCES
    finally:
        if root:
            os.seteuid(0)
        folder.rmdir()


def test_the_longest_valid_name_is_written_and_a_longer_one_named(tmp_path):
    for name in (LONG, "a." + "b" * 253, "." + "c" * 254):
        assert len(os.fsencode(name)) == 255
        write_text(tmp_path / name, "text")
        write_text(tmp_path / name, "again")
        assert (tmp_path / name).read_text() == "again"
    with pytest.raises(UnwritableError, match="of 256 bytes is too long for"):
        write_text(tmp_path / ("x" + LONG), "text")


def test_derived_names_fit():
    assert shortened("a.png", "_restored") == "a_restored.png"
    derived = shortened(LONG, "_restored")
    assert derived.endswith("ö_restored.png") and 254 <= len(os.fsencode(derived)) <= 255


def test_permissions_and_time_follow_a_file_and_are_never_wider_meanwhile(tmp_path):
    old = os.umask(0o022)
    try:
        for given, wanted in ((0o600, 0o600), (0o444, 0o444), (0o664, 0o644), (0o777, 0o755)):
            like = write_text(tmp_path / f"{given:o}.txt", "like")
            like.chmod(given)
            os.utime(like, ns=(0, 10**18 + 7))
            with replacing(tmp_path / "new.txt", like=like) as temporary:
                with replacing(temporary) as inner:  # as a library of ours does
                    inner.write_text("new")
                    assert stat.S_IMODE(inner.stat().st_mode) == 0o600
                assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
            found = (tmp_path / "new.txt").stat()
            assert stat.S_IMODE(found.st_mode) == wanted and found.st_mtime_ns == 10**18 + 7
    finally:
        os.umask(old)


def test_a_file_that_is_written_again_keeps_its_permissions(tmp_path):
    path = write_text(tmp_path / "secret.txt", "one")
    path.chmod(0o600)
    for text in ("two", ""):
        write_text(path, text)
        assert path.read_text() == text and stat.S_IMODE(path.stat().st_mode) == 0o600
    with replacing(path):
        pass
    assert names(tmp_path) == ["secret.txt"]


def test_text_with_names_in_it_is_one_line():
    name = "a\nb\r\x1b[31m\x07\u2028\u202egnp.jpg"
    assert one_line(name) == r"a\nb\r\x1b[31m\x07\u2028\u202egnp.jpg" and one_line(name).isprintable()
    assert one_line("Zoë's 写真 \\ 👩‍🔧.jpg") == "Zoë's 写真 \\ 👩‍🔧.jpg"
    assert printable("a\n\udcff") == r"a\n\xff"


@pytest.mark.parametrize(
    ("name", "reason"), [("none", "no such file"), ("sub", "a folder"), ("photo.png", "not UTF-8 text")]
)
def test_a_text_that_cannot_be_read_is_named_with_its_argument(tmp_path, name, reason):
    (tmp_path / "sub").mkdir()
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    with pytest.raises(ConfigurationError, match=f"`config` must be a readable YAML file, got .*{name}': .*{reason}"):
        text_of(tmp_path / name, "config", "YAML")
