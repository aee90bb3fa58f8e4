"""Samples by number: what they depend on, and what they do not."""

from collections import Counter

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader

from daa_diffusers.degradations.camera_noise import CameraNoise
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.gaussian import BlindGaussian
from daa_diffusers.degradations.mixture import Mixture
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.photos.pixels import crop_patch
from daa_diffusers.sources.folders import PhotoFolder
from daa_diffusers.sources.sampling import PairedFolders, TrainingPatches, take_turns

from ..photo_folders import write_photos

# -- generators --------------------------------------------------------------------------------------------------


def test_generators_depend_on_the_seed_and_every_key():
    keys = [(0,), (1,), (0, "crop"), (0, "crop", 1), (0, "crop", "1"), (0, "cro", "p1"), (0, 1, "crop"), (0, "a", "b")]
    assert len({generator_for(*k).initial_seed() for k in keys}) == len(keys)
    assert generator_for(np.int64(3), "crop", np.int32(7)).initial_seed() == generator_for(3, "crop", 7).initial_seed()
    with pytest.raises(TypeError):
        generator_for(0, "crop", 1.5)


def test_generators_are_frozen():
    # Another value here changes the samples of every run that is resumed with a newer version.
    assert generator_for(0, "crop", "real", 12).initial_seed() == 6701056072455122725


# -- order -------------------------------------------------------------------------------------------------------


@settings(deadline=None)  # the machine may be busy
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 2**63),
    epochs=st.integers(1, 3),
)
def test_each_photo_comes_once_an_epoch_of_its_source(lengths, seed, epochs):
    samples = range(epochs * max(lengths) * len(lengths))
    drawn = [take_turns(lengths, n, seed=seed, role="clean") for n in samples]
    assert [source for source, _ in drawn] == [n % len(lengths) for n in samples]
    for source, length in enumerate(lengths):
        photos = [photo for s, photo in drawn if s == source]
        for start in range(0, len(photos) - length + 1, length):
            assert sorted(photos[start : start + length]) == list(range(length))


def test_orders_differ_by_epoch_stream_source_and_seed():
    def order(seed, stream, source, epoch):
        numbers = range((epoch * 50) * 2 + source, ((epoch + 1) * 50) * 2 + source, 2)
        return tuple(take_turns([50, 50], n, seed=seed, role=stream)[1] for n in numbers)

    orders = {
        order(seed, stream, source, epoch)
        for seed in (0, 1)
        for stream in ("clean", "real")
        for source in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 16


# -- crops -------------------------------------------------------------------------------------------------------


def coordinates(height, width):
    """A photo (2, H, W) whose pixels hold their own row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).to(torch.uint8)


def test_crops_are_squares_of_the_photo_at_every_place():
    photo = coordinates(9, 12)
    places = Counter()
    for n in range(1000):
        patch = (crop_patch(photo, 8, generator_for(n), augment=False) * 255).round().long()
        top, left = patch[:, 0, 0].tolist()
        assert torch.equal(patch.to(torch.uint8), photo[:, top : top + 8, left : left + 8])
        places[top, left] += 1
    assert set(places) == {(top, left) for top in range(2) for left in range(5)}
    assert min(places.values()) > 60  # 100 expected, standard deviation 9.5


def test_all_eight_flips_and_rotations_are_drawn_equally():
    photo = coordinates(4, 4)
    drawn = (crop_patch(photo, 4, generator_for(n)) for n in range(800))
    seen = Counter((patch * 255).round().byte().numpy().tobytes() for patch in drawn)
    wanted = {
        flipped.contiguous().numpy().tobytes()
        for turns in range(4)
        for flipped in (torch.rot90(photo, turns, (1, 2)), torch.rot90(photo, turns, (1, 2)).flip(2))
    }
    assert set(seen) == wanted and len(wanted) == 8
    assert min(seen.values()) > 60  # 100 expected, standard deviation 9.5


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (3, 5), (5, 16), (15, 15), (2, 40)])
def test_small_photos_are_mirrored(size):
    photo = coordinates(*size)
    for n in range(20):
        patch = crop_patch(photo, 16, generator_for(n), augment=False).mul(255).round().long()
        assert patch.shape == (2, 16, 16)
        for axis, side in enumerate(size):
            line = patch[axis].select(1 - axis, 0)
            if side == 1:
                assert (line == 0).all()
                continue
            steps = line.diff()
            assert (steps.abs() == 1).all()  # neighbors stay neighbors, edges are not doubled
            turns = line[1:-1][steps[1:] != steps[:-1]]
            assert set(turns.tolist()) <= {0, side - 1}  # and the direction changes at the borders only
            assert set(line.tolist()) == set(range(side)) or side > 16


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("side", [8, 40], ids=["mirrored", "cut"])
def test_crops_are_float_in_the_unit_range(dtype, side):
    largest = 1 if dtype.is_floating_point else torch.iinfo(dtype).max
    unit = torch.rand(3, side, side, generator=generator_for(0))
    unit[0, 0, 0], unit[0, 0, 1] = 0, 1
    photo = (unit * largest).round().to(dtype) if largest > 1 else unit
    patch = crop_patch(photo, 16, generator_for(1))
    assert patch.dtype == torch.float32 and patch.is_contiguous() and patch.min() >= 0 and patch.max() <= 1
    torch.testing.assert_close(patch, crop_patch(unit, 16, generator_for(1)), rtol=0, atol=1 / max(largest, 255))


# -- samples -----------------------------------------------------------------------------------------------------

NOISE = Mixture([(1, BlindGaussian(sigma_min=5)), (1, CameraNoise())])


def patches(clean_folder, real_folder, **options):
    options = {"patch": 32, "length": 40, "seed": 7, **options}
    return TrainingPatches(
        [PhotoFolder(clean_folder), PhotoFolder(real_folder)],
        NOISE,
        real=[PhotoFolder(real_folder)],
        unpaired_clean=[PhotoFolder(clean_folder)],
        **options,
    )


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first
    )


def test_samples_have_the_promised_content(clean_folder, real_folder):
    dataset = patches(clean_folder, real_folder)
    assert len(dataset) == 40
    sample = dataset[3]
    assert list(sample) == ["index", "clean", "synthetic", "real", "unpaired_clean"] and sample["index"] == 3
    for name in list(sample)[1:]:
        assert sample[name].shape == (3, 32, 32) and sample[name].dtype == torch.float32
        if name != "synthetic":
            assert sample[name].min() >= 0 and sample[name].max() <= 1
    assert 1e-3 < (sample["synthetic"] - sample["clean"]).std() < 0.4
    assert not torch.equal(sample["clean"], sample["unpaired_clean"])
    assert set(TrainingPatches([PhotoFolder(clean_folder)], NOISE, patch=8, length=1, seed=0)[0]) == {
        "index",
        "clean",
        "synthetic",
    }
    for outside in (-1, 40):
        with pytest.raises(IndexError):
            dataset[outside]


def test_samples_depend_on_seed_and_number_alone(clean_folder, real_folder):
    dataset = patches(clean_folder, real_folder)
    forward = [dataset[n] for n in range(12)]
    torch.manual_seed(99)
    again = patches(clean_folder, real_folder, length=10**6)
    for n in reversed(range(12)):
        assert same(again[np.int64(n)], forward[n])
    other = patches(clean_folder, real_folder, seed=8)
    for n in range(12):
        for name in ("clean", "synthetic", "real", "unpaired_clean"):
            assert not torch.equal(other[n][name], forward[n][name])
    assert len({sample["synthetic"].sum().item() for sample in forward}) == 12


def test_every_sample_draws_its_own_noise(tmp_path):
    Image.fromarray(np.full((20, 20, 3), 128, np.uint8)).save(tmp_path / "flat.png")
    dataset = TrainingPatches([PhotoFolder(tmp_path)], BlindGaussian(20, 20), patch=16, length=8, seed=0)
    noise = torch.stack(
        [(sample["synthetic"] - sample["clean"]).flatten() for sample in map(dataset.__getitem__, range(8))]
    )
    assert (torch.corrcoef(noise) - torch.eye(8)).abs().max() < 0.2  # standard deviation 0.036


def test_batches_and_workers_do_not_change_samples(clean_folder, real_folder):
    dataset = patches(clean_folder, real_folder)
    loader = DataLoader(dataset, batch_sampler=[range(4, 8), range(10, 13)], num_workers=2)
    for batch in loader:
        for row, n in enumerate(batch["index"].tolist()):
            assert same({name: value[row] for name, value in batch.items()}, dataset[n])


def test_broken_photos_do_not_stop_or_change_the_others(clean_folder, real_folder):
    before = patches(clean_folder, real_folder)
    intact = [before[n] for n in range(20)]
    (real_folder / "photo 1.png").write_bytes(b"broken")
    after = patches(clean_folder, real_folder)
    changed = [n for n in range(20) if not torch.equal(after[n]["real"], intact[n]["real"])]
    order = [take_turns([3], n, seed=7, role="real")[1] for n in range(20)]
    assert changed == [n for n in range(20) if order[n] == 1]
    assert [path.name for path in after.real[0].skipped] == ["photo 1.png"]


def test_gray_deep_and_small_photos_mix(tmp_path):
    Image.fromarray(data.camera()[:50, :50]).save(tmp_path / "gray.png")
    Image.fromarray(data.astronaut()[:10, :70]).save(tmp_path / "flat.png")
    tifffile.imwrite(tmp_path / "deep.tif", data.astronaut()[:60, :60].astype(np.uint16) * 257, photometric="rgb")
    dataset = TrainingPatches([PhotoFolder(tmp_path)], BlindGaussian(), patch=48, length=9, seed=0)
    assert {tuple(dataset[n]["clean"].shape) for n in range(9)} == {(3, 48, 48)}
    assert all(dataset[n]["clean"].std() > 0.01 for n in range(9))
    gray = TrainingPatches([PhotoFolder(tmp_path, channels=1)], CameraNoise(), patch=48, length=9, seed=0)
    assert {tuple(gray[n]["synthetic"].shape) for n in range(9)} == {(1, 48, 48)}


# -- pairs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def paired(tmp_path):
    """Clean photos and, under the same names with another suffix, the same 40 darker."""
    clean = write_photos(tmp_path / "sharp", 4)
    write_photos(clean / "night", 2, photo=data.coffee())
    for path in clean.rglob("*.png"):
        target = (tmp_path / "degraded" / path.relative_to(clean)).with_suffix(".bmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(path)).astype(int) - 40
        Image.fromarray(pixels.clip(0).astype(np.uint8)).save(target)
    return PhotoFolder(tmp_path / "degraded", argument="paired_degraded"), PhotoFolder(clean, argument="paired_clean")


def test_pairs_show_the_same_place(paired):
    dataset = TrainingPatches([], None, paired=[paired], patch=24, length=30, seed=1)
    means = set()
    for n in range(30):
        sample = dataset[n]
        expected = (sample["clean"] * 255 - 40).clamp(min=0)
        torch.testing.assert_close(sample["synthetic"] * 255, expected, rtol=0, atol=1e-3)
        means.add(round(sample["clean"].mean().item(), 6))
    assert len(means) > 20
    assert dataset.paired == [paired] and dataset.clean == [] and same(dataset[5], dataset[5])


def test_a_pair_with_a_broken_or_other_sized_half_is_left_out(paired, caplog):
    degraded, clean = paired
    clean.paths[0].write_bytes(b"broken")
    Image.fromarray(data.astronaut()[:10, :10]).save(degraded.paths[2])
    pairs = PairedFolders(degraded, clean)
    for index, used in ((0, 1), (2, 3)):
        for photo, folder in zip(pairs.pair(index), paired, strict=True):
            assert torch.equal(photo, folder.photo(used))
    assert list(clean.skipped) == [clean.paths[0]] and list(degraded.skipped) == [degraded.paths[2]]
    assert "10 x 10 pixels, but its clean counterpart has 64 x 48" in degraded.skipped[degraded.paths[2]]
    assert len(caplog.records) == 2
    for path in clean.paths:
        path.write_bytes(b"broken")
    with pytest.raises(ConfigurationError, match="`paired_degraded` and `paired_clean`: none of the 6 pairs"):
        PairedFolders(PhotoFolder(degraded.folder, argument="paired_degraded"), reread(clean)).pair(0)


def reread(folder):
    return PhotoFolder(folder.folder, argument=folder.argument)


def test_photos_without_a_counterpart_are_listed(paired):
    degraded, clean = paired
    clean.paths[0].rename(clean.folder / "lonely.png")
    with pytest.raises(ConfigurationError, match=r"without a clean photo: \['night/photo 0'\].*one: \['lonely'\]"):
        PairedFolders(degraded, reread(clean))
    Image.fromarray(data.astronaut()[:10, :10]).save(clean.folder / "lonely.jpg")
    with pytest.raises(ConfigurationError, match=r"`paired_clean`: several .*\['lonely'\]"):
        PairedFolders(degraded, reread(clean))


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "`patch` must be a positive integer, got 0"),
        ({"patch": 1.5}, "`patch`"),
        ({"length": -1}, "`length` must be a positive integer, got -1"),
        ({"length": True}, "`length`"),
        ({"clean": []}, "`clean` sources .* or `paired`"),
        ({"degradation": None}, "`clean` sources need a `degradation`"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(clean_folder, options, message):
    arguments = {"clean": [PhotoFolder(clean_folder)], "degradation": NOISE, "patch": 8, "length": 4, "seed": 0}
    with pytest.raises(ConfigurationError, match=message):
        TrainingPatches(**{**arguments, **options})


def test_pairs_refuse_clean_sources_and_degradations(clean_folder, paired):
    for clean, degradation in (([PhotoFolder(clean_folder)], None), ([], NOISE)):
        with pytest.raises(ConfigurationError, match="`paired`"):
            TrainingPatches(clean, degradation, paired=[paired], patch=8, length=4, seed=0)


def test_clean_patches_are_scaled_down(tmp_path):
    """A ramp of one gray value a pixel: its slope in a patch tells the factor."""
    ramp = np.tile(np.arange(240, dtype=np.uint8), (240, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    options = {"patch": 16, "length": 200, "seed": 0, "augment": False}
    source = PhotoFolder(tmp_path, channels=1)
    slopes = []
    dataset = TrainingPatches([source], BlindGaussian(0, 0), **options, clean_scale=(0.25, 1.0))
    for n in range(200):
        patch = dataset[n]["clean"]
        assert patch.shape == (1, 16, 16)
        slopes.append((patch[0, 8, 11] - patch[0, 8, 4]).item() * 255 / 7)
    assert min(slopes) == pytest.approx(1, abs=0.1) and max(slopes) == pytest.approx(4, abs=0.3)
    assert np.median(slopes) == pytest.approx(2, abs=0.25)  # log-uniform
    assert torch.equal(
        dataset[3]["clean"],
        TrainingPatches([source], BlindGaussian(0, 0), **options, clean_scale=(0.25, 1.0))[3]["clean"],
    )
    unscaled = TrainingPatches([source], BlindGaussian(0, 0), **options)[0]["clean"]
    assert (unscaled[0, 0, 1] - unscaled[0, 0, 0]).item() * 255 == pytest.approx(1)


def test_a_scale_out_of_range_is_refused(tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(ConfigurationError, match="`clean_scale`"):
        TrainingPatches([PhotoFolder(tmp_path)], BlindGaussian(), patch=8, length=1, seed=0, clean_scale=(0.5, 2.0))
