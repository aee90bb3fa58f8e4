"""PhotoFolder: channels, memory, and broken files."""

import logging
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage import data

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.sources import folders
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.hf_datasets import file_content
from daa_diffusers.sources.tar_shards import ShardSource

from ..photo_folders import write_photos


def test_photos_come_in_the_order_of_their_names(clean_folder):
    folder = PhotoFolder(clean_folder)
    assert len(folder) == 5 and folder.folder == clean_folder
    for index in range(5):
        photo = folder.photo(index)
        assert photo.shape == (3, 48, 64) and photo.dtype == torch.uint8
        expected = np.asarray(Image.open(clean_folder / f"photo {index}.png"))
        np.testing.assert_array_equal(photo.permute(1, 2, 0), expected)
    for outside in (-1, 5):
        with pytest.raises(IndexError):
            folder.photo(outside)


def test_channels_are_converted(tmp_path):
    color, gray = data.astronaut()[:20, :30], data.camera()[:20, :30]
    Image.fromarray(color).save(tmp_path / "a.png")
    Image.fromarray(gray).save(tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "c.tif", color.astype(np.uint16) * 257, photometric="rgb")
    rgb, luma = PhotoFolder(tmp_path), PhotoFolder(tmp_path, channels=1)
    assert [tuple(rgb.photo(i).shape) for i in range(3)] == [(3, 20, 30)] * 3
    assert [tuple(luma.photo(i).shape) for i in range(3)] == [(1, 20, 30)] * 3
    for channel in range(3):
        np.testing.assert_array_equal(rgb.photo(1)[channel], gray)
    np.testing.assert_array_equal(luma.photo(1)[0], gray)
    expected = color @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma.photo(0)[0].numpy() - expected).max() <= 0.5 + 1e-3
    assert luma.photo(2).dtype == torch.uint16
    assert np.abs(luma.photo(2)[0].numpy() - expected * 257).max() <= 0.6
    with pytest.raises(ConfigurationError, match="`channels` must be 1 .* or 3"):
        PhotoFolder(tmp_path, channels=4)


def test_within_a_time_limit_the_first_photos_are_spread_over_the_source(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(folders, "time", SimpleNamespace(monotonic=lambda: now[0]))
    source = PhotoFolder(write_photos(tmp_path / "many", 16, height=8, width=8))

    def read(seconds, **options):
        found = []
        for index, _ in source.sample(16, seconds=seconds, **options):
            now[0] += 1.0  # the caller's work on a photo
            found.append(index)
        return found

    assert read(None) == list(range(16)) and read(16.0) == [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15]
    assert read(4.5) == [0, 8, 4, 12]
    assert read(0.0) == [0]  # one photo whatever the time
    few: list[int] = []
    for index, _ in source.sample(16, seconds=0.0, enough=lambda: len(few) >= 3):
        few.append(index)
        now[0] += 1.0
    assert few == [0, 8, 4]
    assert [index for index, _ in source.sample(16, {4, 9}.__contains__, seconds=9.0)] == [4, 9]


def test_memory_is_bounded_and_saves_decoding(clean_folder):
    size = 3 * 48 * 64
    folder = PhotoFolder(clean_folder, cache_bytes=2 * size + 1)
    first = [folder.photo(i) for i in range(5)]
    second = [folder.photo(i) for i in range(5)]
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, True, False, False, False]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    uncached = PhotoFolder(clean_folder, cache_bytes=0)
    assert uncached.photo(0) is not uncached.photo(0)


def test_a_copy_in_another_process_starts_without_decoded_photos(clean_folder):
    folder = PhotoFolder(clean_folder)
    folder.photo(2)
    content = pickle.dumps(folder)
    assert len(content) < 2000
    assert torch.equal(pickle.loads(content).photo(2), folder.photo(2))


def test_broken_photos_are_reported_once_and_replaced_by_the_next(clean_folder, caplog):
    truncated = (clean_folder / "photo 1.png").read_bytes()
    (clean_folder / "photo 1.png").write_bytes(truncated[: len(truncated) // 2])
    (clean_folder / "photo 4.png").write_text("no photo")
    folder = PhotoFolder(clean_folder, argument="real")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(folder.photo(1), folder.photo(2))
            assert torch.equal(folder.photo(4), folder.photo(0))
    assert [path.name for path in folder.skipped] == ["photo 1.png", "photo 4.png"]
    assert "truncated" in folder.skipped[folder.paths[1]]
    assert len(caplog.records) == 2 and "`real`: skipping" in caplog.text


def test_a_folder_of_broken_photos_only_is_an_error(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_text("no photo")
    with pytest.raises(ConfigurationError, match=r"`clean`: none of the 2 photos .* 'a.png': .*not a photo"):
        PhotoFolder(tmp_path, argument="clean").photo(1)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="`real`"):
        PhotoFolder(tmp_path / "absent", argument="real")
    with pytest.raises(ConfigurationError, match="`unpaired_clean`"):
        PhotoFolder(tmp_path, argument="unpaired_clean")


def test_fingerprint_tells_names_and_sizes(tmp_path):
    first = PhotoFolder(write_photos(tmp_path / "a", 3))
    same = PhotoFolder(write_photos(tmp_path / "b", 3))
    assert first.fingerprint() == same.fingerprint() and len(first.fingerprint()) == 16
    (tmp_path / "b/photo 0.png").rename(tmp_path / "b/other.png")
    assert PhotoFolder(tmp_path / "b").fingerprint() != first.fingerprint()
    with open(tmp_path / "a/photo 1.png", "ab") as file:
        file.write(b"\0")
    assert first.fingerprint() != same.fingerprint()


@pytest.mark.timeout(60)
def test_only_regular_files_are_read_and_the_others_named(clean_folder, caplog):
    os.mkfifo(clean_folder / "a pipe.png")  # reading it would wait for ever
    (clean_folder / "b device.png").symlink_to("/dev/zero")
    (clean_folder / "c gone.png").symlink_to("nowhere")
    folder = PhotoFolder(clean_folder)
    assert torch.equal(folder.photo(0), folder.photo(3)) and len(folder.fingerprint()) == 16
    reasons = [reason for _, reason in sorted(folder.skipped.items())]
    for kind, reason in zip(("a named pipe", "a device", "a broken link"), reasons, strict=True):
        assert kind in reason and kind in caplog.text
    with pytest.raises(OSError, match="a named pipe"):
        file_content({"path": str(clean_folder / "a pipe.png")})
    with pytest.raises(ConfigurationError, match="cannot be read: a named pipe"):
        ShardSource([clean_folder / "a pipe.png"])


def test_folders_that_cannot_be_read_are_logged(clean_folder, caplog, monkeypatch):
    (clean_folder / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read anything
    assert len(PhotoFolder(clean_folder)) == 5
    assert f"the folder {clean_folder / 'closed'} cannot be read: Permission denied" in caplog.text
