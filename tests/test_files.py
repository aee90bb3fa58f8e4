"""Files that are whole or not there."""

import pytest

from daa_diffusers.files import replacing, write_text


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
