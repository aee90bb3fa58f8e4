"""Listings of many photos: in the order of their paths, in little memory."""

import itertools
import os
import pickle
import tracemalloc

import pytest

from daa_diffusers.photos.listing import scan_folder
from daa_diffusers.photos.paths import Paths
from daa_diffusers.sources import PhotoFolder, contents
from daa_diffusers.sources.folders import digest_of_files


def test_the_order_is_that_of_paths_whatever_the_names(tmp_path):
    parts = ("a", "a.png", "a b", "a-b", "B", "b.JPG", "ü", "a.b", "\udcff")
    for first, second in itertools.product(parts, parts):
        (tmp_path / first).mkdir(exist_ok=True)
        (tmp_path / first / second).mkdir()
        (tmp_path / first / second / "0.png").touch()
        (tmp_path / first / (second + ".x.png")).touch()
        (tmp_path / (first + ".x.png")).touch()
    listed = scan_folder(tmp_path).photos
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert list(listed) == sorted(files) and len(files) > 150


def test_paths_are_a_sequence_of_paths_that_is_small(tmp_path):
    paths = Paths(tmp_path)
    names = [f"{number // 1000:03d}/{number:06d}.png" for number in range(20000)]
    tracemalloc.start()
    for name in names:
        paths.append(name)
    assert tracemalloc.get_traced_memory()[0] < 50 * len(names)  # a `Path` takes ten times as much
    tracemalloc.stop()
    expected = [tmp_path / name for name in names[:5]]
    assert paths[:5] == expected and paths[0] == expected[0] and paths[-1] == tmp_path / names[-1]
    assert paths[::10000] == [tmp_path / names[0], tmp_path / names[10000]]
    assert list(paths.names()) == names and paths == [tmp_path / name for name in names] and paths != names[:1]
    assert pickle.loads(pickle.dumps(paths)) == paths
    with pytest.raises(IndexError):
        paths[20000]


def test_the_fingerprint_is_of_names_and_sizes(tmp_path):
    for name, size in (("b/a.png", 3), ("a.png", 5), ("ä.png", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    os.symlink(tmp_path / "nowhere", tmp_path / "c.png")
    expected = digest_of_files([("a.png", 5), ("b/a.png", 3), ("c.png", -1), ("ä.png", 0)])
    assert PhotoFolder(tmp_path).fingerprint() == expected


def test_very_many_files_are_compared_by_their_fingerprint(tmp_path, monkeypatch):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    every = contents.contents(PhotoFolder(tmp_path))
    monkeypatch.setattr(contents, "MAX_FILES", 3)
    many = contents.contents(PhotoFolder(tmp_path))
    assert many["files"] is None and len(every["files"]) == 4
    assert not contents.differences({"real": [every]}, {"real": [many]})  # of a run before it had a limit
    (tmp_path / "3.png").write_bytes(b"other")
    changed = contents.contents(PhotoFolder(tmp_path))
    for before in (every, many):
        assert "other names or sizes" in contents.differences({"real": [before]}, {"real": [changed]})["real"]
