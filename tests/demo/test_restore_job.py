"""What the page does with photos, without the page."""

import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from daa_diffusers.cli.app import main
from daa_diffusers.demo.restore_job import KEPT_SECONDS, Limits, Work, describe
from daa_diffusers.demo.views import CROP, VIEW, Pair, views
from daa_diffusers.errors import CheckpointError, ConfigurationError, UnreadablePhotoError
from daa_diffusers.restoring.options import Options

PLAIN = Options(guard=False)


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "work", Limits(max_megapixels=1, max_file_mb=1, max_files=3), device="cpu")


@pytest.mark.parametrize("name", ["side.jpg", "glass.png"])
def test_the_file_is_what_daa_restore_writes(work, photos, checkpoint, tmp_path, name):
    record, pair = work.restore(photos[name], checkpoint, Options(strength=0.5, guard=False))
    assert record["status"] == "restored" and os.path.basename(pair.after) == name.replace(".", "_restored.")
    command = ["restore", photos[name], "-o", str(tmp_path / "out"), "--checkpoint", checkpoint, "--device", "cpu"]
    assert main([*command, "--no-guard", "--strength", "0.5"]) == 0
    with open(pair.after, "rb") as ours, open(tmp_path / "out" / name, "rb") as theirs:
        assert ours.read() == theirs.read()


def test_what_cannot_be_restored_is_told_by_name_and_without_folders(work, photos, checkpoint, tmp_path):
    record, pair = work.restore(photos["no photo.jpg"], checkpoint, PLAIN)
    said = describe(record)
    assert pair is None and said.startswith("no photo.jpg could not be restored: ") and str(tmp_path) not in said
    Image.new("RGB", (1001, 1000)).save(tmp_path / "large.png")
    record, _ = work.restore(str(tmp_path / "large.png"), checkpoint, PLAIN)
    assert "are more than `max_megapixels` 1" in describe(record)


def test_a_batch_goes_into_a_zip_without_what_failed(work, photos, checkpoint, tmp_path):
    other = tmp_path / "other" / "side.jpg"
    other.parent.mkdir()
    shutil.copy(photos["side.jpg"], other)
    files = [photos["side.jpg"], photos["no photo.jpg"], str(other)]
    *before, (last, archive) = work.restore_many(files, checkpoint, PLAIN)
    assert [record["status"] for record, _ in before] == ["restored", "failed"] and last["status"] == "restored"
    assert [path for _, path in before] == [None, None]
    with zipfile.ZipFile(archive) as stored:
        assert stored.namelist() == ["side_restored.jpg", "side_restored_2.jpg"] and stored.testzip() is None


@pytest.mark.parametrize(("strength", "done"), [(0.0, "Left unchanged"), (0.25, "Restored with 25% strength")])
def test_what_the_guard_did_is_told(work, photos, checkpoint, strength, done):
    record, _ = work.restore(photos["side.jpg"], checkpoint, Options())
    said = describe(record | {"guard": record["guard"] | {"strength": strength, "reason": "clean"}})
    assert said.splitlines()[1] == f"{done} by the guard (clean)."


def test_limits_are_kept(work, photos, checkpoint, tmp_path):
    with pytest.raises(ConfigurationError, match="4 photos are more than the allowed 3"):
        list(work.restore_many(4 * [photos["side.jpg"]], checkpoint, PLAIN))
    with pytest.raises(ConfigurationError, match="choose photos first"):
        work.restore("", checkpoint, PLAIN)
    (tmp_path / "heavy.jpg").write_bytes(bytes(1_100_000))
    with pytest.raises(ConfigurationError, match="heavy.jpg: 1 MB are more than the allowed 1"):
        work.restore(str(tmp_path / "heavy.jpg"), checkpoint, PLAIN)
    with pytest.raises(ConfigurationError, match="`--max-files` must be a positive number, got 0"):
        Limits(max_files=0)


def test_who_comes_over_a_network_opens_only_what_is_offered(tmp_path, photos, checkpoint):
    far = Work(tmp_path / "far", Limits(), only_offered=True, device="cpu")
    with pytest.raises(CheckpointError, match="is not among those offered"):
        far.restore(photos["side.jpg"], checkpoint, PLAIN)
    offering = Work(tmp_path / "far", Limits(), checkpoints=[checkpoint], only_offered=True, device="cpu")
    assert offering.offered.default == offering.offered.start == checkpoint
    assert offering.restore(photos["side.jpg"], checkpoint, PLAIN)[0]["status"] == "restored"


def test_old_results_are_removed(work, photos, checkpoint):
    _, first = work.restore(photos["side.jpg"], checkpoint, PLAIN)
    old = os.path.dirname(first.after)
    os.utime(old, (1, os.path.getmtime(old) - KEPT_SECONDS - 60))
    _, second = work.restore(photos["side.jpg"], checkpoint, PLAIN)
    assert not os.path.exists(old) and os.path.exists(second.after)


def opened(path):
    with Image.open(path) as image:
        return image.info, np.asarray(image)


def test_views_are_upright_and_keep_the_color_space(tmp_path, photos):
    shown = [opened(path)[1] for path in views(Pair(photos["side.jpg"], photos["side.jpg"]), 0)]
    stored = opened(photos["side.jpg"])[1]
    np.testing.assert_array_equal(shown[0], np.rot90(stored, -1))
    np.testing.assert_array_equal(shown[0], shown[1])
    gray = tmp_path / "gray.png"
    Image.fromarray(np.arange(0, 65536, 17, dtype=np.uint16)[: 60 * 64].reshape(60, 64)).save(gray, icc_profile=b"icc")
    info, pixels = opened(views(Pair(str(gray), str(gray)), 0)[1])
    assert info["icc_profile"] == b"icc" and pixels.shape == (60, 64) and pixels.dtype == np.uint8


def test_transparency_is_shown_over_white(photos):
    pixels = opened(views(Pair(photos["glass.png"], photos["glass.png"]), 0)[0])[1]
    assert pixels.shape == (64, 80, 3) and pixels[0].min() == 255 and pixels[-1].min() < 200


def test_zoom_shows_the_pixels_of_the_place_asked_for(tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (1100, 2000, 3), np.uint8)
    path = str(tmp_path / "photo.png")
    Image.fromarray(random).save(path)
    width, height = CROP
    np.testing.assert_array_equal(opened(views(Pair(path, path), 1, 0, 1)[0])[1], random[-height:, :width])
    double = opened(views(Pair(path, path), 2, 1, 0)[0])[1]
    np.testing.assert_array_equal(double[::2, ::2], random[: height // 2, -width // 2 :])
    np.testing.assert_array_equal(double[::2], double[1::2])
    assert opened(views(Pair(path, path), 0)[0])[1].shape == (round(1100 * VIEW / 2000), VIEW, 3)


def test_a_photo_that_is_gone_is_said_to_be(tmp_path):
    with pytest.raises(UnreadablePhotoError, match="no such file"):
        views(Pair(str(tmp_path / "gone.png"), str(tmp_path / "gone.png")), 0)
