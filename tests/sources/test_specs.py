"""Sources of every kind by their specs: the same photos, and errors that name what cannot be opened."""

import json
import logging
import pickle
from pathlib import Path

import datasets
import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.sampling import PairedFolders, TrainingPatches
from daa_diffusers.sources.specs import DatasetSource, check_sources, open_source
from daa_diffusers.sources.tar_shards import expand_shards

from ..photo_folders import write_photos
from .conftest import NOISE, files_in, pack, stream, table


@pytest.fixture
def every_kind_of_photo(tmp_path):
    """RGB, 16 bits, gray, alpha, palette, and one lying on its side."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    photo = np.ascontiguousarray(data.astronaut()[100:120, 150:180])
    Image.fromarray(photo).save(folder / "a.png")
    (folder / "b.png").write_bytes(imagecodecs.png_encode(photo.astype(np.uint16) * 255 + 7))
    Image.fromarray(photo[..., 0]).save(folder / "c.png")
    Image.fromarray(np.dstack([photo, photo[..., :1]])).save(folder / "d.png")
    Image.fromarray(photo).quantize(16).save(folder / "e.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(folder / "f.jpg", exif=exif)
    return folder


def spellings(folder, root):
    """The photos of `folder` as every kind of source."""
    files = files_in(folder)
    pack(root / "shards/train-000.tar", files[:4])
    pack(root / "shards/train-001.tar", files[4:])
    table(files).save_to_disk(root / "saved")
    table(files).to_parquet(root / "photos.parquet")
    return {
        "folder": str(folder),
        "braces": str(root / "shards/train-{000..001}.tar"),
        "wildcard": str(root / "shards/*.tar"),
        "saved": str(root / "saved"),
        "parquet": f"hf:{root}/photos.parquet?column=image",
        "imagefolder": f"hf:{folder}",
        "saved stream": f"hf:{root}/saved?streaming=1",
        "parquet stream": f"hf:{root}/photos.parquet?streaming=1&window=4",
        "shard stream": f"hf:webdataset?data_files={root}/shards/train-000.tar&data_files={root}/shards/train-001.tar"
        "&streaming=1&column=png",
    }


def test_every_kind_of_source_gives_the_photos_of_the_folder(every_kind_of_photo, tmp_path):
    specs = spellings(every_kind_of_photo, tmp_path)
    for channels in (3, 1):
        expected = PhotoFolder(every_kind_of_photo, channels=channels)
        assert [expected.photo(i).dtype for i in (0, 1)] == [torch.uint8, torch.uint16]
        for kind, spec in specs.items():
            source = open_source(spec, channels=channels, argument="clean")
            for index in range(5 if kind == "shard stream" else 6):  # whose last row holds no .png
                assert torch.equal(source.photo(index), expected.photo(index)), (kind, index)
                assert source.size(index) == (30, 20)
            assert not source.skipped and source.count == 6, kind


def test_kinds_have_names_without_folders_and_one_fingerprint(every_kind_of_photo, tmp_path):
    sources = {kind: open_source(spec) for kind, spec in spellings(every_kind_of_photo, tmp_path).items()}
    assert all(str(tmp_path) not in source.name for source in sources.values())
    assert sources["parquet"].name == "hf:photos.parquet?column=image"
    assert sources["braces"].name == "train-000.tar and 1 more"
    same = {sources[kind].fingerprint() for kind in ("folder", "braces", "saved", "parquet", "imagefolder")}
    assert same == {sources["saved stream"].fingerprint()}
    other = table(files_in(every_kind_of_photo)[1:])
    assert DatasetSource(other).fingerprint() not in same
    assert DatasetSource(table(files_in(every_kind_of_photo)).select(range(6))).fingerprint() in same


def test_samples_are_those_of_a_folder_and_do_not_depend_on_who_asks(clean_folder, tmp_path):
    table(files_in(clean_folder)).save_to_disk(tmp_path / "saved")
    shards = str(pack(tmp_path / "a.tar", files_in(clean_folder)))
    options = {"patch": 16, "length": 12, "seed": 3}
    folder = TrainingPatches([PhotoFolder(clean_folder)], NOISE, **options)
    for spec in (str(tmp_path / "saved"), shards):
        other = TrainingPatches([open_source(spec, cache_bytes=0)], NOISE, **options)
        for n in (7, 0, 11):
            assert torch.equal(other[n]["synthetic"], folder[n]["synthetic"])
        assert torch.equal(pickle.loads(pickle.dumps(other))[5]["clean"], folder[5]["clean"])


# -- shards ------------------------------------------------------------------------------------------------------


def test_shard_patterns(tmp_path):
    for name in ("a-008", "a-009", "a-010", "b-1", "c-1"):
        pack(tmp_path / f"{name}.tar", [])

    def expand(pattern):
        return [path.stem for path in expand_shards(f"{tmp_path}/{pattern}.tar")]

    assert expand("a-{008..010}") == ["a-008", "a-009", "a-010"]
    assert expand("{c,b}-{1..1}") == ["c-1", "b-1"]
    assert expand("a-*") == ["a-008", "a-009", "a-010"]
    assert expand("a-00?") == ["a-008", "a-009"]
    assert expand("{b,a}-*") == ["b-1", "a-008", "a-009", "a-010"]
    for missing in ("a-{009..011}", "d*", "e"):
        with pytest.raises(ConfigurationError, match="`real` must name existing shards, got '.*(011|d|e)"):
            expand_shards(f"{tmp_path}/{missing}.tar", "real")


def test_a_part_of_each_sample_is_chosen_by_its_extension(clean_folder, real_folder, tmp_path):
    files = []
    clean, noisy = PhotoFolder(clean_folder), PhotoFolder(real_folder)
    for index in range(3):
        files += [(f"./set/{index}.clean.png", clean.encoded(index)), (f"./set/{index}.json", b"{}")]
        files += [(f"./set/{index}.noisy.PNG", noisy.encoded(index)), (f"./set/._{index}.png", b"hidden")]
    shard = pack(tmp_path / "pairs.tar", files)
    pair = [open_source(f"{shard}?column={column}") for column in ("noisy.png", "clean.png")]
    pairs = PairedFolders(*pair)
    for index in range(3):
        degraded, target = pairs.pair(index)
        assert torch.equal(degraded, noisy.photo(index)) and torch.equal(target, clean.photo(index))
    assert pair[0].name == "pairs.tar?column=noisy.png"
    with pytest.raises(ConfigurationError, match=r"sample 'set/0' .*`\?column=clean.png` or `\?column=noisy.png`"):
        open_source(str(shard))
    with pytest.raises(ConfigurationError, match=r"must hold jpg, found 3 x clean.png"):
        open_source(f"{shard}?column=jpg")


def test_compressed_shards_are_refused_with_a_way_out(tmp_path):
    for name in ("a.tar.gz", "a.tgz", "a-{0..3}.tar.zst"):
        with pytest.raises(ConfigurationError, match="`clean`: .*compressed.*hf:webdataset"):
            open_source(str(tmp_path / name), argument="clean")


# -- datasets ----------------------------------------------------------------------------------------------------


def test_two_columns_of_a_dataset_are_pairs(clean_folder, tmp_path):
    files = files_in(clean_folder)
    noisy = [{"bytes": content, "path": name} for name, content in reversed(files)]
    table(files, noisy=noisy).save_to_disk(tmp_path / "pairs")
    pair = [open_source(f"hf:{tmp_path}/pairs?column={column}") for column in ("noisy", "image")]
    dataset = TrainingPatches([], None, paired=[tuple(pair)], patch=48, length=5, seed=0, augment=False)
    assert len(dataset[0]["clean"]) == 3
    degraded, clean = PairedFolders(*pair).pair(1)
    assert torch.equal(degraded, pair[1].photo(3)) and torch.equal(clean, pair[1].photo(1))
    with pytest.raises(ConfigurationError, match=r"`column` must name .* one of \['image', 'noisy'\], none was named"):
        open_source(f"hf:{tmp_path}/pairs")
    with pytest.raises(ConfigurationError, match="`paired_clean`: streams cannot be paired"):
        streamed = open_source(f"hf:{tmp_path}/pairs?column=image&streaming=1", argument="paired_clean")
        PairedFolders(pair[0], streamed)


def test_splits_and_columns_are_chosen(clean_folder, tmp_path):
    files = files_in(clean_folder)
    datasets.DatasetDict({"train": table(files[:2]), "test": table(files[2:])}).save_to_disk(tmp_path / "splits")
    assert len(open_source(str(tmp_path / "splits"))) == 2
    assert len(open_source(f"hf:{tmp_path}/splits?split=test")) == 3
    with pytest.raises(
        ConfigurationError, match=r"`real`: cannot open .*its splits are \['train', 'test'\], got 'val'"
    ):
        open_source(f"hf:{tmp_path}/splits?split=val", argument="real")
    content = datasets.Dataset.from_dict({"png": [content for _, content in files], "label": [0] * 5})
    content = content.cast_column("png", datasets.Value("binary"))
    assert torch.equal(DatasetSource(content, column="png").photo(3), PhotoFolder(clean_folder).photo(3))
    with pytest.raises(ConfigurationError, match=r"one of \['png'\], got 'label'; the columns are \['png', 'label'\]"):
        DatasetSource(content, column="label")
    with pytest.raises(ConfigurationError, match="`dataset`: 'dataset' must hold photos, but has no rows"):
        DatasetSource(table([]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf:x?slpit=train", r"got 'slpit=train' \(did you mean 'split'\?\)"),
        ("hf:x?split=", "got 'split='"),
        ("hf:x?streaming=yes", "`streaming` must be 1 or 0, got 'yes'"),
        ("hf:x?streaming=1&window=many", "`window` must be a number of examples, got 'many'"),
        ("hf:{root}/absent", "cannot open the dataset"),
        ("hf:{root}/text.parquet", "cannot open the dataset 'parquet': .*"),
        ("{root}/a.tar?split=train", "got 'split=train'"),
        ("{root}/absent", "must be an existing folder"),
    ],
)
def test_specs_that_cannot_be_opened_are_named(spec, message, tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet file")
    pack(tmp_path / "a.tar", [])
    with pytest.raises(ConfigurationError, match="`real`.*" + message):
        open_source(spec.format(root=tmp_path), argument="real")


# -- checks before the first step --------------------------------------------------------------------------------


def test_a_real_source_that_is_a_clean_one_is_an_error(clean_folder, real_folder, tmp_path):
    clean, real = PhotoFolder(clean_folder), PhotoFolder(real_folder)
    check_sources({"clean": [clean], "unpaired_clean": [clean], "real": [real], "paired_degraded": [real]}, 16)
    (tmp_path / "link").symlink_to(clean_folder)
    packed = pack(tmp_path / "a.tar", files_in(clean_folder))
    for spec in (clean_folder, tmp_path / "link", tmp_path, packed):
        with pytest.raises(ConfigurationError, match="`real` .* and `unpaired_clean` .* hold the same photos"):
            check_sources({"clean": [real], "unpaired_clean": [clean], "real": [open_source(spec)]}, 16)
    with pytest.raises(ConfigurationError, match="hold the same photos"):
        check_sources({"clean": [stream(5, 2)], "real": [stream(5, 4)]}, 4)


def test_uncompressed_pairs_of_equal_names_and_sizes_are_not_the_same(clean_folder, tmp_path):
    write_photos(tmp_path / "a", 2, suffix="bmp")
    write_photos(tmp_path / "b", 2, suffix="bmp", photo=data.chelsea())
    first, second = PhotoFolder(tmp_path / "a"), PhotoFolder(tmp_path / "b")
    assert first.fingerprint() == second.fingerprint()
    check_sources({"clean": [first], "real": [second]}, 16)


def test_patches_larger_than_most_photos_are_warned_of_and_far_larger_ones_refused(clean_folder, real_folder, caplog):
    sources = {"clean": [PhotoFolder(clean_folder)], "real": [PhotoFolder(real_folder)]}
    with caplog.at_level(logging.WARNING):
        check_sources(sources, 48)
        assert not caplog.records
        check_sources(sources, 64)
    assert "`real`" in caplog.text and "3 of 3 checked photos are smaller than `patch` 64" in caplog.text
    with pytest.raises(ConfigurationError, match="(?s)`clean` .*`real` .* shorter side of 48 pixels; choose a smaller"):
        check_sources(sources, 256)


def test_few_small_photos_pass_in_silence_and_headers_alone_are_read(tmp_path, caplog):
    write_photos(tmp_path / "mixed", 3)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "mixed/small.png")
    (tmp_path / "mixed/text.png").write_text("no photo")
    check_sources({"clean": [PhotoFolder(tmp_path / "mixed")]}, 32)
    assert not caplog.records
    for path in (tmp_path / "mixed").iterdir():
        path.write_text("no photo")
    with pytest.raises(ConfigurationError, match="`clean` .*none of the 5 checked photos can be read"):
        check_sources({"clean": [PhotoFolder(tmp_path / "mixed")]}, 32)


def test_a_run_takes_and_records_every_kind(clean_folder, real_folder, tmp_path):
    from daa_diffusers.training import setup
    from daa_diffusers.training.config import resolve

    table(files_in(clean_folder)).save_to_disk(tmp_path / "saved")
    broken = [*files_in(real_folder), ("z.png", b"no photo")]
    pack(tmp_path / "real.tar", broken)
    config = resolve(
        {
            "clean": [str(clean_folder), f"hf:{tmp_path}/saved?streaming=1&window=2"],
            "real": [str(tmp_path / "real.tar")],
            "unpaired_clean": [str(tmp_path / "saved")],
            "patch": 16,
        }
    )
    dataset = setup.build_dataset(config, setup.open_all_sources(config, 3), 10)
    for n in range(6):
        assert {photo.shape for name, photo in dataset[n].items() if name != "index"} == {(3, 16, 16)}
    record = json.loads(json.dumps(setup.training_photos(dataset)))
    assert [source["photos"] for source in record["clean"]] == [5, None]
    assert record["real"][0]["folder"] == "real.tar" and record["real"][0]["photos"] == 4
    assert record["real"][0]["skipped"].keys() == {"real.tar/z.png"}
    assert len({source["fingerprint"] for source in (*record["clean"], *record["unpaired_clean"])}) == 1
    same = resolve({"clean": [str(clean_folder)], "real": [str(clean_folder)], "patch": 16})
    with pytest.raises(ConfigurationError, match="hold the same photos"):
        setup.open_all_sources(same, 3)
    assert Path(config.real[0]).name == "real.tar"


def test_a_dataset_given_as_a_folder_is_offered_as_one(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        ConfigurationError, match=f"`clean`: .* holds a dataset in parquet files: give it as 'hf:{tmp_path}'"
    ):
        open_source(tmp_path, argument="clean")
    file = tmp_path / "data" / "train-00000.parquet"
    with pytest.raises(ConfigurationError, match=f"is a dataset: give it as 'hf:{file}'"):
        open_source(file, argument="clean")
