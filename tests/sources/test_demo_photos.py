"""The demonstration photos: where they lie, that no scene serves twice, that the noise is a camera's, bad folders."""

import numpy as np
import pytest
from PIL import Image

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation import psnr
from daa_diffusers.sources.demo_photos import CROP, SOURCES, DemoPhotos, demo_photos


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> DemoPhotos:
    return demo_photos(tmp_path_factory.mktemp("demo photos") / "new")


def folders(made):
    return made.clean, made.real_train_noisy, made.real_val_noisy, made.real_val_clean


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path):
    with Image.open(path) as photo:
        assert photo.format == "PNG" and photo.mode == "RGB"
        return np.asarray(photo)


def test_folders_hold_png_photos_of_one_size(made):
    root = made.clean.parent
    assert [str(folder.relative_to(root)) for folder in folders(made)] == [
        "clean",
        "real/train/noisy",
        "real/val/noisy",
        "real/val/clean",
    ]
    for folder in folders(made):
        assert len(names(folder)) >= 8
        assert all(read(path).shape == (CROP, CROP, 3) for path in folder.iterdir())
    assert names(made.real_val_noisy) == names(made.real_val_clean)


def test_no_scene_serves_two_purposes(made):
    used = [name for purpose in SOURCES.values() for name in purpose]
    assert len(used) == len(set(used))
    scenes = [{name.rsplit("_", 1)[0] for name in names(folder)} for folder in folders(made)[:3]]
    assert scenes == [set(SOURCES[purpose]) for purpose in ("clean", "train", "val")]
    cleans = [read(path).tobytes() for folder in (made.clean, made.real_val_clean) for path in folder.iterdir()]
    assert len(cleans) == len(set(cleans))


def test_noise_is_strong_correlated_and_nearly_unbiased(made):
    scores, correlations, means = [], [], []
    for name in names(made.real_val_clean):
        noisy, clean = read(made.real_val_noisy / name), read(made.real_val_clean / name)
        scores.append(float(psnr(noisy, clean)))
        noise = (noisy.astype(float) - clean)[..., 0]
        correlations.append(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1])
        means.append(noise.mean())
    assert 25.5 < np.mean(scores) < 28.5 and min(scores) > 23
    assert min(correlations) > 0.4  # white noise: 0 +- 0.02
    assert abs(np.mean(means)) < 2


def test_another_call_replaces_and_the_seed_decides(made, tmp_path):
    again = demo_photos(str(tmp_path / "photos"))
    for first, second in zip(folders(made), folders(again), strict=True):
        assert names(first) == names(second)
        assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names(first))
    other = demo_photos(tmp_path / "photos", seed=1)
    assert other == again and names(other.real_train_noisy) == names(made.real_train_noisy)
    for name in names(made.real_val_clean):
        np.testing.assert_array_equal(read(other.real_val_clean / name), read(made.real_val_clean / name))
        assert (read(other.real_val_noisy / name) != read(made.real_val_noisy / name)).mean() > 0.5


def test_foreign_files_are_named_and_nothing_is_written(tmp_path):
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "holiday.jpg").write_bytes(b"mine")
    (tmp_path / "clean" / ".hidden").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"got 1 other files: \[.*holiday\.jpg"):
        demo_photos(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hidden", "clean", "holiday.jpg"]


@pytest.mark.parametrize("where", ["", "real", "real/val"])
def test_a_file_in_the_way_is_named(tmp_path, where):
    target = tmp_path / "photos"
    (target / where).parent.mkdir(parents=True, exist_ok=True)
    (target / where).write_bytes(b"mine")
    with pytest.raises(ConfigurationError, match="`folder` must be a folder"):
        demo_photos(target)
    assert (target / where).read_bytes() == b"mine"
