"""Photos of all kinds of sources: one order, a key of its own for each, and its bytes where they were."""

import datasets
import pytest

from daa_diffusers.bulk import Input, list_inputs
from daa_diffusers.bulk.inputs import open_input
from daa_diffusers.errors import ConfigurationError, UnreadablePhotoError
from daa_diffusers.sources.tar_shards import ShardSource

from .conftest import png, write_tar


def test_a_folder_is_listed_with_all_below_it_by_path(album):
    (album / "x.heic").touch()
    (album / "notes.txt").touch()
    found = list(list_inputs([str(album)]))
    assert [one.key for one in found] == ["0", "1", "2", "bad", "cut", "day 1/b_v2", "day 1/c", "x"]
    assert [one.source for one in found] == [one.path for one in found] == sorted(one.path for one in found)
    assert found[5].suffix == ".jpg" and open_input(found[5], "unused") == str(album / "day 1/b.v2.jpg")


def test_a_tar_shard_keeps_keys_and_extensions_and_needs_no_other_photo(tmp_path):
    members = {"a/0001.clean.png": png(1), "a/0001.json": b"{}", "a/0002.clean.png": png(2), "a/0001.png": b"?"}
    write_tar(tmp_path / "in-0.tar", members)
    write_tar(tmp_path / "in-1.tar", {"a/0003.clean.png": png(3)})
    found = list(list_inputs([str(tmp_path / "in-{0..1}.tar?column=clean.png")]))
    assert [one.key for one in found] == ["a/0001", "a/0002", "a/0003"]
    assert [one.suffix for one in found] == [".clean.png"] * 3
    for one, seed in zip(found, (1, 2, 3), strict=True):
        with open(open_input(one, tmp_path), "rb") as file:
            assert file.read() == png(seed)
    (tmp_path / "in-1.tar").write_bytes((tmp_path / "in-1.tar").read_bytes()[:1000])
    with pytest.raises(UnreadablePhotoError, match="truncated"):
        open_input(found[2], tmp_path)


def test_a_dataset_is_listed_by_row_and_read_by_row(tmp_path):
    rows = {"image": [{"bytes": png(seed), "path": None} for seed in range(3)], "label": [0, 1, 2]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "photos.parquet")
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    for spec in (f"hf:{tmp_path}/photos.parquet", str(tmp_path / "saved")):
        found = list(list_inputs([spec]))
        assert [one.key for one in found] == ["000000", "000001", "000002"]
        assert [one.suffix for one in found] == [""] * 3
        with open(open_input(found[1], tmp_path), "rb") as file:
            assert file.read() == png(1)
    with pytest.raises(ConfigurationError, match="omit `streaming`"):
        list(list_inputs([f"hf:{tmp_path}/photos.parquet?streaming=1"]))


def test_every_key_is_its_own_and_none_leads_out_of_a_folder(album, tmp_path):
    (album / "0.jpg").touch()
    (album / "0_2.jpg").touch()
    write_tar(
        tmp_path / "in.tar",
        {"/etc/passwd.png": b"", "../../up.png": b"", "..png": b"", "c:\\d\\e.png": b"", "0.png": b""},
    )
    found = [one.key for one in list_inputs([str(album), str(tmp_path / "in.tar"), str(album)])]
    assert len(set(found)) == len(found)
    assert found[:2] == ["0", "0_2"] and "0_2_2" in found and "0_3" in found
    assert {"etc/passwd", "up", "c:/d/e"} <= set(found)
    members = write_tar(tmp_path / "keys.tar", {f"{key}.png": png(0) for key in found})
    assert [ShardSource([members]).pair_key(k) for k in range(len(found))] == [f"0/{key}" for key in found]


def test_a_line_is_what_it_was_made_of_whatever_the_name(tmp_path):
    for one in (
        Input("day 1/ночь\n", "caf\udce9.png", ".png", "/photos/caf\udce9.png"),
        Input("0001", "in.tar/0001.png", ".png", "/in.tar", 512, 0),
        Input("000000", "hf:x[0]", dataset="hf:x", row=0),
    ):
        line = one.to_line()
        assert line.count("\n") == 1 and line.isascii() and Input.from_line(line) == one


@pytest.mark.parametrize("sources", [[], ["no-such"], ["no-such.tar"], ["in.tar.gz"]])
def test_what_cannot_be_listed_is_said(sources):
    with pytest.raises(ConfigurationError, match="`sources`"):
        list(list_inputs(sources))
