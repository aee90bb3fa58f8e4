"""Broken photos and shards: skipped, counted and listed."""

import os

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.sampling import TrainingPatches
from daa_diffusers.sources.specs import DatasetSource, ShardSource, StreamSource, open_source

from .conftest import NOISE, files_in, pack, table

# -- broken photos and shards ------------------------------------------------------------------------------------


def broken_in_the_middle(folder):
    files = files_in(folder)
    cut, text = (files[1][0], files[1][1][:400]), (files[3][0], b"no photo")
    return [files[0], cut, files[2], text, files[4]]


def test_broken_photos_are_skipped_counted_and_listed(clean_folder, tmp_path, caplog):
    files = broken_in_the_middle(clean_folder)
    shard = pack(tmp_path / "a.tar", files)
    sources = {
        "table": DatasetSource(table(files), name="table", argument="real"),
        "stream": StreamSource(table(files).to_iterable_dataset(), name="stream", argument="real"),
        "shards": ShardSource([shard], argument="real"),
    }
    good = PhotoFolder(clean_folder)
    for kind, source in sources.items():
        for index, stand_in in enumerate([0, 2, 2, 4, 4]):
            assert torch.equal(source.photo(index), good.photo(stand_in)), kind
        assert source.photo(1) is not None and len(source.skipped) == 2
        assert "truncated" in next(iter(source.skipped.values()))
    assert list(sources["table"].skipped) == ["table[1]", "table[3]"]
    assert list(sources["shards"].skipped) == ["a.tar/photo 1.png", "a.tar/photo 3.png"]
    assert len(caplog.records) == 6 and "`real`: skipping table[1]" in caplog.text


def test_sources_of_broken_photos_only_are_an_error(tmp_path):
    files = [("a.png", b"no photo"), ("b.png", b"")]
    for source in (DatasetSource(table(files)), StreamSource(table(files).to_iterable_dataset())):
        with pytest.raises(ConfigurationError, match=r"none of the 2 photos .*\[0\]': .*not a photo"):
            source.photo(1)
    with pytest.raises(ConfigurationError, match="none of the 2 photos .* 'a.tar/a.png': .*not a photo"):
        ShardSource([pack(tmp_path / "a.tar", files)]).photo(1)


def test_the_main_process_knows_what_its_workers_skipped(clean_folder):
    for name, content in broken_in_the_middle(clean_folder):
        (clean_folder / name).write_bytes(content)
    folder = PhotoFolder(clean_folder)
    dataset = TrainingPatches([folder], NOISE, patch=8, length=20, seed=0)
    for _ in DataLoader(dataset, batch_size=2, num_workers=2):
        pass
    assert [path.name for path in folder.skipped] == ["photo 1.png", "photo 3.png"]
    assert "truncated" in folder.skipped[folder.paths[1]]
    journal = folder._journal.path
    assert os.path.exists(journal)
    del folder, dataset
    assert not os.path.exists(journal)


def test_rows_without_a_photo_are_skipped(clean_folder):
    name, content = files_in(clean_folder)[0]
    images = [None, {"bytes": content, "path": name}, {"bytes": None, "path": str(clean_folder / "absent.png")}]
    rows = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    source = DatasetSource(rows, name="rows")
    assert torch.equal(source.photo(2), source.photo(1)) and torch.equal(source.photo(0), source.photo(1))
    assert list(source.skipped) == ["rows[0]", "rows[2]"]


def test_unreadable_and_truncated_shards_are_listed_and_the_rest_is_used(clean_folder, tmp_path, caplog):
    files = files_in(clean_folder)
    whole = pack(tmp_path / "0.tar", files[:2])
    (tmp_path / "1.tar").write_bytes(b"no tar file" * 100)
    cut = pack(tmp_path / "2.tar", files)
    offset = ShardSource([cut])._members[3].offset  # `cut` is whole yet
    cut.write_bytes(cut.read_bytes()[: offset + 100])
    source = open_source(str(tmp_path / "{0..2}.tar"), argument="clean")
    assert len(source) == 5
    good = PhotoFolder(clean_folder)
    for index, number in enumerate([0, 1, 0, 1, 2]):
        assert torch.equal(source.photo(index), good.photo(number))
    assert [path.name for path in source.skipped] == ["1.tar", "2.tar"]
    assert "first 3 files are used" in source.skipped[cut]
    assert "no uncompressed" in caplog.text or "cannot be read as an uncompressed tar file" in caplog.text
    assert not ShardSource([whole]).skipped
    with pytest.raises(ConfigurationError, match=r"`real`: .*1\.tar' must hold photos, found nothing; 1.tar: cannot"):
        open_source(str(tmp_path / "1.tar"), argument="real")
