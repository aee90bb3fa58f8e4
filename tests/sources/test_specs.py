"""Sources of other kinds than folders: the same photos, whoever asks, and clear words about those that are broken."""

import io
import json
import logging
import os
import pickle
import tarfile
from pathlib import Path

import datasets
import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader

from daa_diffusers.degradations.gaussian import BlindGaussian
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.sampling import PairedFolders, TrainingPatches
from daa_diffusers.sources.specs import DatasetSource, ShardSource, StreamSource, check_sources, open_source
from daa_diffusers.sources.tar_shards import expand_shards

from ..photo_folders import write_photos

NOISE = BlindGaussian(10, 10)


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def pack(path, files):
    """A tar file of `files`: name and content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def files_in(folder):
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def table(files, **columns):
    """A map-style dataset of encoded images, as parquet files and `save_to_disk` hold them."""
    images = {"image": [{"bytes": content, "path": name} for name, content in files]}
    features = {name: datasets.Image() for name in ({**images, **columns})}
    return datasets.Dataset.from_dict({**images, **columns}, features=datasets.Features(features))


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


# -- streams -----------------------------------------------------------------------------------------------------


def stream(count, window, **options):
    """`count` photos of 4 x 4 pixels, number n being n everywhere."""
    files = []
    for value in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(buffer, "png")
        files.append((f"{value}.png", buffer.getvalue()))
    dataset = table(files).to_iterable_dataset(num_shards=min(2, count))
    return StreamSource(dataset, window=window, channels=1, **options)


def numbers(source, samples):
    dataset = TrainingPatches([source], BlindGaussian(0, 0), patch=4, length=10**6, seed=5)
    return [round(float(dataset[n]["clean"][0, 0, 0]) * 255) for n in samples]


@pytest.mark.parametrize("window", [1, 4, 5, 10, 256])
def test_a_stream_gives_each_photo_once_an_epoch_in_a_new_order_within_windows(window):
    drawn = numbers(stream(10, window), range(30))
    epochs = [drawn[:10], drawn[10:20], drawn[20:]]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
        for start in range(0, 10, window):
            assert sorted(epoch[start : start + window]) == list(range(start, min(10, start + window)))
    if window > 1:
        assert epochs[0] != epochs[1] != epochs[2]


def test_a_sample_of_a_stream_is_a_function_of_its_number():
    expected = numbers(stream(10, 4), range(45))
    assert numbers(stream(10, 4), range(1, 45, 2)) == expected[1::2]  # as one of two workers
    for first in (3, 9, 10, 13, 20, 37):  # as a run that resumes
        assert numbers(stream(10, 4), range(first, 45)) == expected[first:], first
    source = stream(10, 4)
    for n in (40, 2, 19, 20, 8, 0):  # in any order
        assert numbers(source, [n]) == [expected[n]]
    assert source.count == len(source) == 10
    assert numbers(pickle.loads(pickle.dumps(source)), [17]) == [expected[17]]


def test_loader_workers_see_the_whole_stream():
    dataset = TrainingPatches([stream(10, 4)], BlindGaussian(0, 0), patch=4, length=30, seed=5)
    loaded = [batch["clean"] for batch in DataLoader(dataset, batch_size=3, num_workers=2)]
    seen = [round(float(photo[0, 0, 0]) * 255) for photo in torch.cat(loaded)]
    assert seen == numbers(stream(10, 4), range(30))


def test_streams_have_no_length_before_their_end_and_must_not_be_empty():
    source = stream(5, 2, argument="real", name="five")
    assert source.count is None and "? photos" in repr(source)
    with pytest.raises(TypeError, match="`real`: the length of a stream"):
        len(source)
    numbers(source, range(6))
    assert len(source) == 5
    with pytest.raises(IndexError):
        source.photo(5)
    with pytest.raises(ConfigurationError, match="`clean`: 'none' must hold photos"):
        empty = datasets.IterableDataset.from_generator(lambda: iter(()), features=table([]).features)
        numbers(StreamSource(empty, name="none", argument="clean"), [0])
    with pytest.raises(ConfigurationError, match="`window` must be at least 1, got 0"):
        stream(5, 0)


def test_a_stream_that_breaks_off_is_not_taken_for_one_that_ends():
    fails = {"now": True}

    def examples():
        for value in range(10):
            if value == 6 and fails["now"]:
                raise ConnectionError("the line is down")
            yield {"image": Image.fromarray(np.full((4, 4), value, np.uint8))}

    features = datasets.Features({"image": datasets.Image()})
    source = StreamSource(datasets.IterableDataset.from_generator(examples, features=features), window=4, channels=1)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            numbers(source, range(8))
    fails["now"] = False
    assert numbers(source, range(30)) == numbers(stream(10, 4), range(30))


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
        with pytest.raises(ConfigurationError, match=r"none of the 2 photos .*\[0\]': .*no photo"):
            source.photo(1)
    with pytest.raises(ConfigurationError, match="none of the 2 photos .* 'a.tar/a.png': .*no photo"):
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
    with pytest.raises(ConfigurationError, match="`dataset`: 'dataset' must hold photos, it has no rows"):
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
    assert "`real`" in caplog.text and "3 of 3 photos looked at are smaller than `patch` 64" in caplog.text
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
    with pytest.raises(ConfigurationError, match="`clean` .*none of the 5 photos looked at can be read"):
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
    dataset = setup.build_dataset(config, 3, length=10)
    for n in range(6):
        assert {photo.shape for name, photo in dataset[n].items() if name != "index"} == {(3, 16, 16)}
    record = json.loads(json.dumps(setup.training_photos(dataset)))
    assert [source["photos"] for source in record["clean"]] == [5, None]
    assert record["real"][0]["folder"] == "real.tar" and record["real"][0]["photos"] == 4
    assert record["real"][0]["skipped"] == ["real.tar/z.png"]
    assert len({source["fingerprint"] for source in (*record["clean"], *record["unpaired_clean"])}) == 1
    same = resolve({"clean": [str(clean_folder)], "real": [str(clean_folder)], "patch": 16})
    with pytest.raises(ConfigurationError, match="hold the same photos"):
        setup.build_dataset(same, 3, length=1)
    assert len(setup.build_dataset(same, 3, length=1, check=False)) == 1
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
